"""Zero mean and unit variance over one utterance, as wav2vec2 was trained with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import kernel

EPSILON = 1e-7  # added to the variance, so that silence stays finite
_LANES = 16  # independent sums: they vectorise without re-associating, and round less than one sum

FloatArray = NDArray[np.float32]


@kernel
def normalize_into(waveform: FloatArray, out: FloatArray) -> None:
    """Write (waveform - mean) / sqrt(variance + 1e-7).

    Args:
        waveform: float32 [n_samples], at least one sample.
        out: float32 [n_samples], written; may be the waveform itself.
    """
    n_samples = waveform.size
    whole = n_samples - n_samples % _LANES
    sums = np.zeros(_LANES, np.float64)
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            sums[lane] += waveform[start + lane]
    total = sums.sum()
    for i in range(whole, n_samples):
        total += waveform[i]
    mean = total / n_samples
    sums[:] = 0.0
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            sums[lane] += (waveform[start + lane] - mean) ** 2
    total = sums.sum()
    for i in range(whole, n_samples):
        total += (waveform[i] - mean) ** 2
    scale = 1.0 / np.sqrt(total / n_samples + EPSILON)
    for i in range(n_samples):
        out[i] = np.float32((waveform[i] - mean) * scale)
