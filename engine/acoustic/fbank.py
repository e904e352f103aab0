"""Kaldi's filterbank features: tables for the kernel, by configuration."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import FeatureConfig
from engine.errors import AudioTooShortError, BundleSchemaError
from engine.kernels.features.fbank import FRAME_LENGTH, compute_fbank_into
from engine.kernels.features.log_mel import HOP_LENGTH
from engine.kernels.features.real_fft512 import HALF, N_FFT

SAMPLE_RATE = 16_000
POVEY_EXPONENT = 0.85
CENTRED_OFFSET = (HOP_LENGTH - FRAME_LENGTH) // 2

FloatArray = NDArray[np.float32]


def compute_fbank(waveform: FloatArray, config: FeatureConfig) -> FloatArray:
    """Compute log filterbank energies as Kaldi does, without dither.

    Args:
        waveform: float32 [n_samples], mono, 16 kHz, [-1, 1].
        config: FeatureConfig of kind "log_mel" and convention "kaldi".
    Returns:
        float32 [n_mels, n_frames], natural log; one row more, the log energy, in front with use_energy.
        n_frames = 1 + (n_samples - 400) // 160 with snip_edges, else (n_samples + 80) // 160.
    Raises:
        AudioTooShortError: not one frame. BundleSchemaError: another rate, frame or transform length.
    Source: compute-fbank-feats; torchaudio.compliance.kaldi.fbank. Differs: bands in rows.
    """
    _check_convention(config)
    n_frames = count_frames(waveform.size, config.snip_edges)
    if n_frames < 1:
        wanted = FRAME_LENGTH if config.snip_edges else HOP_LENGTH // 2
        raise AudioTooShortError(f"{waveform.size} samples", f"at least {wanted}", "pass a longer recording")
    window, filters, bounds = _tables(config.window, config.n_mels, config.low_hz, config.high_hz)
    out = np.empty((config.n_mels + config.use_energy, n_frames), np.float32)
    offset = 0 if config.snip_edges else CENTRED_OFFSET
    compute_fbank_into(
        waveform, offset, config.scale, config.preemphasis, config.remove_dc, config.energy_floor,
        window, filters, bounds, out,
    )  # fmt: skip
    return out


def count_frames(n_samples: int, snip_edges: bool) -> int:
    """How many frames Kaldi makes of a waveform."""
    if snip_edges:
        return 1 + (n_samples - FRAME_LENGTH) // HOP_LENGTH if n_samples >= FRAME_LENGTH else 0
    return (n_samples + HOP_LENGTH // 2) // HOP_LENGTH


def compute_kaldi_filters(n_mels: int, low_hz: float = 20.0, high_hz: float = 0.0) -> FloatArray:
    """Triangles of height 1 on the mel scale: float32 [n_mels, 257], the last column empty.

    high_hz: the upper end; at or below zero, counted from half the sample rate.
    """
    nyquist = SAMPLE_RATE / 2
    high = high_hz if high_hz > 0 else nyquist + high_hz
    edges = np.linspace(_to_mel(np.float64(low_hz)), _to_mel(np.float64(high)), n_mels + 2)
    mels = _to_mel(np.arange(HALF) * (SAMPLE_RATE / N_FFT))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((mels - left) / (centre - left), (right - mels) / (right - centre))
    return np.pad(np.maximum(triangles, 0.0), ((0, 0), (0, 1))).astype(np.float32)


def compute_window(name: str) -> FloatArray:
    """Kaldi's window of 400 samples: "povey" (a Hann window to the power 0.85), "hamming" or "hanning"."""
    angle = 2 * np.pi * np.arange(FRAME_LENGTH) / (FRAME_LENGTH - 1)
    hann = 0.5 - 0.5 * np.cos(angle)
    shapes = {"povey": hann**POVEY_EXPONENT, "hanning": hann, "hamming": 0.54 - 0.46 * np.cos(angle)}
    return shapes[name].astype(np.float32)


def _to_mel(hz: NDArray[np.floating] | np.float64) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log1p(hz / 700.0), np.float64)


@functools.cache
def _tables(
    window: str, n_mels: int, low_hz: float, high_hz: float
) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
    filters = compute_kaldi_filters(n_mels, low_hz, high_hz)
    return compute_window(window), filters, find_bounds(filters)


def find_bounds(filters: FloatArray) -> NDArray[np.int32]:
    """The first bin of each filter and the one behind its last: int32 [n_mels, 2]; equal for an empty one."""
    used = filters > 0
    first = used.argmax(axis=1)
    last = np.where(used.any(axis=1), filters.shape[1] - used[:, ::-1].argmax(axis=1), first)
    return np.stack([first, last], axis=1).astype(np.int32)


def _check_convention(config: FeatureConfig) -> None:
    problems = []
    got, want = (config.sample_rate, config.n_fft, config.hop_length), (SAMPLE_RATE, N_FFT, HOP_LENGTH)
    if got != want:
        problems.append(f"(sample_rate, n_fft, hop_length) {got} instead of {want}")
    high = config.high_hz if config.high_hz > 0 else SAMPLE_RATE / 2 + config.high_hz
    if not 0 <= config.low_hz < high <= SAMPLE_RATE / 2:
        problems.append(f"bands from {config.low_hz:g} to {high:g} Hz")
    if problems:
        raise BundleSchemaError(
            "Kaldi log-mel features with " + ", ".join(problems),
            f"16 kHz, frames of 25 ms every 10 ms, a transform of {N_FFT}, bands within 0 to 8000 Hz",
            "export the model with such features",
        )
