"""Slow twin of the Kaldi filterbank kernel: plain numpy in float64, one frame after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.reference.log_mel_reference import power_spectrum

FLOOR = 1.1920928955078125e-07


def fbank(
    waveform: NDArray[np.floating],
    filters: NDArray[np.floating],
    window: NDArray[np.floating],
    *,
    preemphasis: float = 0.97,
    remove_dc: bool = True,
    snip_edges: bool = True,
    use_energy: bool = False,
    energy_floor: float = 0.0,
    scale: float = 32768.0,
) -> NDArray[np.float64]:
    """Float64 [n_mels, n_frames], or [1 + n_mels, n_frames] with the energy first."""
    samples = waveform.astype(np.float64) * scale
    n = samples.size
    n_frames = 1 + (n - 400) // 160 if snip_edges else (n + 80) // 160
    columns = []
    for frame in range(n_frames):
        start = frame * 160 if snip_edges else frame * 160 + 80 - 200
        x = np.array([samples[mirror(i, n)] for i in range(start, start + 400)])
        if remove_dc:
            x = x - x.mean()
        energy = np.log(max((x**2).sum(), FLOOR, energy_floor))
        emphasised = np.append(x[0] - preemphasis * x[0], x[1:] - preemphasis * x[:-1])
        spectrum = power_spectrum(np.pad(emphasised * window, (0, 112)))
        bands = np.log(np.maximum(filters @ spectrum, FLOOR))
        columns.append(np.append(energy, bands) if use_energy else bands)
    return np.array(columns).T


def mirror(index: int, n: int) -> int:
    """Reflection that repeats the outermost sample."""
    index %= 2 * n
    return index if index < n else 2 * n - 1 - index
