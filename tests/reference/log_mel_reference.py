"""Slow twins of the feature kernels: plain numpy in float64, one frame after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def power_spectrum(frame: NDArray[np.floating]) -> NDArray[np.float64]:
    """|DFT|^2 of 400 real samples from its definition; float64 [201]."""
    n = frame.size
    angles = -2.0 * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n
    real, imaginary = np.cos(angles) @ frame, np.sin(angles) @ frame
    return real**2 + imaginary**2


def log_mel(waveform: NDArray[np.floating], filters: NDArray[np.floating]) -> NDArray[np.float64]:
    """Whisper's features, float64 [n_mels, n_samples // 160]; filters [n_mels, 201]."""
    padded = np.pad(waveform.astype(np.float64), 200, mode="reflect" if waveform.size > 1 else "edge")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(400) / 400)
    columns = []
    for frame in range(waveform.size // 160):
        columns.append(filters @ power_spectrum(padded[frame * 160 : frame * 160 + 400] * window))
    decibels = np.log10(np.maximum(np.array(columns).T, 1e-10))
    return (np.maximum(decibels, decibels.max() - 8.0) + 4.0) / 4.0


def normalize(waveform: NDArray[np.floating]) -> NDArray[np.float64]:
    """Zero mean, unit variance, with 1e-7 under the root."""
    samples = waveform.astype(np.float64)
    return (samples - samples.mean()) / np.sqrt(((samples - samples.mean()) ** 2).mean() + 1e-7)
