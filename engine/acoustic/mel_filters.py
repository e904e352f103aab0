"""Mel filters as librosa, Whisper and NeMo have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels.features.real_fft import N_BINS

SAMPLE_RATE = 16_000
_LINEAR_MELS = 15.0  # Slaney's scale: linear below 1 kHz, 15 mels
_LINEAR_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0

FloatArray = NDArray[np.float32]


def compute_mel_filters(n_mels: int, n_bins: int = N_BINS) -> FloatArray:
    """Triangular filters on Slaney's mel scale up to 8 kHz, each of unit area: float32 [n_mels, n_bins]."""
    top = _hz_to_mel(SAMPLE_RATE / 2)
    edges = _mel_to_hz(np.linspace(0.0, top, n_mels + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, n_bins)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    if hz < _LINEAR_HZ:
        return hz * _LINEAR_MELS / _LINEAR_HZ
    return float(_LINEAR_MELS + np.log(hz / _LINEAR_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * (_LINEAR_HZ / _LINEAR_MELS)
    return np.where(mel < _LINEAR_MELS, linear, _LINEAR_HZ * np.exp(_LOG_STEP * (mel - _LINEAR_MELS)))
