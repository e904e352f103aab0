"""What an encoder is fed: the normalised waveform, or log-mel features. Training uses this very code."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.fbank import compute_fbank, find_bounds
from engine.acoustic.mel_filters import compute_mel_filters
from engine.acoustic.nemo import compute_nemo
from engine.bundle.folder import FeatureConfig
from engine.errors import AudioShapeError, AudioTooShortError, AudioValueError, BundleSchemaError
from engine.kernels.features.log_mel import HOP_LENGTH, compute_log_mel_into
from engine.kernels.features.normalize import normalize_into
from engine.kernels.features.real_fft import N_FFT
from engine.runtime.arrays import plain_float32

SAMPLE_RATE = 16_000  # of Whisper's filters
MAX_AMPLITUDE = 1e6  # float32 power of anything far above would overflow

FloatArray = NDArray[np.float32]


def compute_features(waveform: NDArray[np.floating], config: FeatureConfig) -> FloatArray:
    """Compute what the encoder reads for one utterance.

    Args:
        waveform: float32 [n_samples], mono, at config.sample_rate Hz.
        config: the bundle's feature configuration.
    Returns:
        kind "waveform": float32 [n_samples], normalised where config.normalize says so;
        kind "log_mel": float32 [n_mels, n_frames], n_frames = n_samples // hop_length in Whisper's
            and NeMo's conventions; see compute_fbank for Kaldi's.
    Raises:
        AudioShapeError: waveform is not a 1-D float array.
        AudioValueError: samples that are not finite, or absurdly large.
        AudioTooShortError: it has no sample, or for log-mel not one hop.
        BundleSchemaError: a log-mel convention that this engine does not compute.
    """
    samples = check_waveform(waveform)
    if config.kind == "log_mel" and config.convention == "kaldi":
        return compute_fbank(samples, config)
    if config.kind == "log_mel" and config.convention == "nemo":
        return compute_nemo(samples, config)
    if config.kind == "log_mel":
        return compute_log_mel(samples, config)
    if not config.normalize:
        return samples
    out = np.empty_like(samples)
    normalize_into(samples, out)
    return out


def compute_log_mel(waveform: FloatArray, config: FeatureConfig) -> FloatArray:
    """Compute log-mel features in Whisper's convention.

    Args:
        waveform: float32 [n_samples], mono, 16 kHz, [-1, 1].
        config: FeatureConfig of kind "log_mel".
    Returns:
        float32 [n_mels, n_frames], (log10 of the mel power + 4) / 4, at most 2 below its maximum.
    Raises:
        AudioTooShortError: less than one hop. BundleSchemaError: not Whisper's convention.
    Source: Whisper's audio.py; differs: no padding to 30 s.
    """
    _check_convention(config)
    n_frames = waveform.size // HOP_LENGTH
    if n_frames == 0:
        raise AudioTooShortError(
            f"{waveform.size} samples", f"at least {HOP_LENGTH} (10 ms)", "pass a longer recording"
        )
    window, filters, bounds = _whisper_tables(config.n_mels)
    out = np.empty((config.n_mels, n_frames), np.float32)
    compute_log_mel_into(waveform, window, filters, bounds, out)
    return out


def check_waveform(waveform: NDArray[np.floating]) -> FloatArray:
    """The samples as float32.

    Raises:
        AudioShapeError, AudioTooShortError, AudioValueError: as compute_features.
    """
    if not isinstance(waveform, np.ndarray) or waveform.ndim != 1 or waveform.dtype.kind != "f":
        shape = f"{waveform.dtype} {waveform.shape}" if isinstance(waveform, np.ndarray) else type(waveform)
        raise AudioShapeError(
            f"a waveform of {shape}", "a 1-D float array", "use engine.audio.load.load_audio"
        )
    if waveform.size == 0:
        raise AudioTooShortError("no samples", "some audio", "pass a longer recording")
    samples = plain_float32(waveform)
    peak = max(float(samples.max()), -float(samples.min()))  # NaN where any sample is NaN
    if not peak <= MAX_AMPLITUDE:
        raise AudioValueError(
            f"samples that are not finite, or as large as {peak:g}",
            "finite samples in [-1, 1]",
            "repair the recording, or scale it down",
        )
    return samples


def _check_convention(config: FeatureConfig) -> None:
    got = (config.convention, config.sample_rate, config.n_fft, config.hop_length)
    want = ("whisper", SAMPLE_RATE, N_FFT, HOP_LENGTH)
    if got != want:
        raise BundleSchemaError(
            f"log-mel features of (convention, sample_rate, n_fft, hop_length) {got}",
            str(want),
            "export the model with Whisper's features",
        )


@functools.cache
def _whisper_tables(n_mels: int) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic, as for an FFT
    filters = compute_mel_filters(n_mels)
    return window, filters, find_bounds(filters)
