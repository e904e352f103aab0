"""NeMo's log-mel features, as FastConformer and Parakeet models read them; by Kaldi's kernel."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.fbank import find_bounds
from engine.acoustic.mel_filters import compute_mel_filters
from engine.bundle.schema import FeatureConfig
from engine.errors import AudioTooShortError, BundleSchemaError
from engine.kernels.features.fbank import FRAME_LENGTH, compute_fbank_into
from engine.kernels.features.log_mel import HOP_LENGTH
from engine.kernels.features.real_fft512 import HALF, N_FFT

SAMPLE_RATE = 16_000
PREEMPHASIS = np.float32(0.97)
GUARD = 2.0**-24  # added to every band's power
DEVIATION_FLOOR = np.float32(1e-5)
SCALE = 32_768.0  # keeps the kernel's own floor far below the guard
LEAST_FRAMES = 2  # a variance needs them

FloatArray = NDArray[np.float32]


def compute_nemo(waveform: FloatArray, config: FeatureConfig) -> FloatArray:
    """Compute log-mel features in NeMo's convention, without dither.

    Args:
        waveform: float32 [n_samples], mono, 16 kHz, [-1, 1].
        config: FeatureConfig of kind "log_mel" and convention "nemo".
    Returns:
        float32 [n_mels, n_samples // 160], natural log of power plus 2^-24; with config.normalize each band
        has zero mean and unit variance.
    Raises:
        AudioTooShortError: less than two frames. BundleSchemaError: another rate, hop or transform length.
    Source: NeMo's AudioToMelSpectrogramPreprocessor; differs: no frame behind the last whole hop.
    """
    got, want = (config.sample_rate, config.n_fft, config.hop_length), (SAMPLE_RATE, N_FFT, HOP_LENGTH)
    if got != want:
        raise BundleSchemaError(
            f"NeMo log-mel features of (sample_rate, n_fft, hop_length) {got}", str(want),
            "export the model with such features",
        )  # fmt: skip
    n_frames = waveform.size // HOP_LENGTH
    if n_frames < LEAST_FRAMES:
        wanted = LEAST_FRAMES * HOP_LENGTH
        raise AudioTooShortError(f"{waveform.size} samples", f"at least {wanted}", "pass a longer recording")
    emphasised = np.zeros(waveform.size + 2 * FRAME_LENGTH, np.float32)  # frames reach over both ends
    inside = emphasised[FRAME_LENGTH : FRAME_LENGTH + waveform.size]
    inside[:] = waveform
    inside[1:] -= PREEMPHASIS * waveform[:-1]
    window, filters, bounds = _tables(config.n_mels)
    out = np.empty((config.n_mels, n_frames), np.float32)
    compute_fbank_into(emphasised, FRAME_LENGTH // 2, SCALE, 0.0, False, 0.0, window, filters, bounds, out)
    out = np.log(np.exp(out - np.float32(2 * np.log(SCALE))) + np.float32(GUARD))
    return _normalize(out) if config.normalize else out


def _normalize(bands: FloatArray) -> FloatArray:
    mean = bands.mean(axis=1, keepdims=True)
    deviation = bands.std(axis=1, ddof=1, keepdims=True)
    return np.asarray((bands - mean) / (deviation + DEVIATION_FLOOR), np.float32)


@functools.cache
def _tables(n_mels: int) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
    angle = 2 * np.pi * np.arange(FRAME_LENGTH) / (FRAME_LENGTH - 1)
    window = (0.5 - 0.5 * np.cos(angle)).astype(np.float32)
    filters = compute_mel_filters(n_mels, HALF + 1)
    return window, filters, find_bounds(filters)
