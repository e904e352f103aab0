"""compute_features at its boundary: what it refuses, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.acoustic.features import compute_features
from engine.bundle.folder import FeatureConfig
from engine.errors import AudioShapeError, AudioTooShortError, AudioValueError, BundleSchemaError
from engine.kernels.features.fbank import compute_fbank_into
from engine.kernels.features.log_mel import compute_log_mel_into
from engine.kernels.features.normalize import normalize_into

LOG_MEL = FeatureConfig(kind="log_mel")
KALDI = FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512)


@pytest.mark.parametrize(
    "waveform", [[0.0, 1.0], np.zeros((2, 400), np.float32), np.zeros(400, np.int16), np.zeros(400, complex)]
)
def test_refuses_what_is_not_a_float_vector(waveform: Any) -> None:
    with pytest.raises(AudioShapeError, match="1-D float array"):
        compute_features(waveform, LOG_MEL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("config", [LOG_MEL, FeatureConfig()])
def test_refuses_samples_that_are_not_finite_or_absurd(value: float, config: FeatureConfig) -> None:
    waveform = np.zeros(16_000, np.float32)
    waveform[777] = value
    with pytest.raises(AudioValueError, match="finite"):
        compute_features(waveform, config)


@pytest.mark.parametrize(
    ("n_samples", "config"),
    [
        (0, LOG_MEL),
        (159, LOG_MEL),
        (0, FeatureConfig()),
        (399, KALDI),
        (79, FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512, snip_edges=False)),
    ],
)
def test_refuses_less_than_one_frame(n_samples: int, config: FeatureConfig) -> None:
    with pytest.raises(AudioTooShortError):
        compute_features(np.zeros(n_samples, np.float32), config)


@pytest.mark.parametrize(
    "changed",
    [
        {"convention": "kaldi"},
        {"convention": "kaldi", "n_fft": 512, "low_hz": 9000.0},
        {"convention": "kaldi", "n_fft": 512, "high_hz": -8000.0},
        {"convention": "kaldi", "n_fft": 512, "hop_length": 80},
        {"sample_rate": 8000},
        {"n_fft": 512},
    ],
)
def test_refuses_a_convention_it_does_not_compute(changed: dict[str, Any]) -> None:
    with pytest.raises(BundleSchemaError, match="log-mel"):
        compute_features(np.zeros(16_000, np.float32), FeatureConfig(kind="log_mel", **changed))


def test_input_is_never_changed_and_may_be_read_only_strided_or_double() -> None:
    double = np.random.default_rng(0).standard_normal(8_000)
    strided = np.repeat(double.astype(np.float32), 2)[::2]
    strided.flags.writeable = False
    for config in (LOG_MEL, KALDI, FeatureConfig()):
        before = double.copy()
        np.testing.assert_array_equal(compute_features(strided, config), compute_features(double, config))
        np.testing.assert_array_equal(double, before)


def test_waveform_without_normalisation_passes_unchanged() -> None:
    waveform = np.linspace(-1, 1, 1000, dtype=np.float32)
    np.testing.assert_array_equal(compute_features(waveform, FeatureConfig(normalize=False)), waveform)


def test_silence_stays_finite() -> None:
    for config in (LOG_MEL, KALDI, FeatureConfig()):
        assert np.isfinite(compute_features(np.zeros(16_000, np.float32), config)).all()


@pytest.mark.parametrize("config", [LOG_MEL, KALDI, FeatureConfig(normalize=True)])
def test_read_only_and_unaligned_samples_need_no_code_of_their_own(config: FeatureConfig) -> None:
    kernels = (compute_log_mel_into, compute_fbank_into, normalize_into)
    waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    expected = compute_features(waveform, config)
    compiled = [list(kernel.signatures) for kernel in kernels]
    frozen = waveform.copy()
    frozen.setflags(write=False)
    unaligned = np.frombuffer(bytearray(b"x" + waveform.tobytes()), np.float32, offset=1)
    for same in (frozen, unaligned, waveform.astype(np.float64), np.repeat(waveform, 2)[::2]):
        np.testing.assert_array_equal(compute_features(same, config), expected)
    assert [kernel.signatures for kernel in kernels] == compiled
