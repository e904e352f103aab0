"""The engine's features against transformers' extractors, the origin of both conventions."""

from __future__ import annotations

import numpy as np
import pytest

from engine.acoustic.features import compute_features
from engine.acoustic.mel_filters import compute_mel_filters
from engine.bundle.folder import FeatureConfig

pytestmark = pytest.mark.levels

transformers = pytest.importorskip("transformers")


def speech_like(n_samples: int) -> np.ndarray:
    """A gliding tone with noise and pauses."""
    rng = np.random.default_rng(n_samples)
    time_s = np.arange(n_samples) / 16_000
    tone = np.sin(2 * np.pi * (120 + 60 * np.sin(3 * time_s)) * time_s) * (np.sin(7 * time_s) > 0)
    return (0.3 * tone + 0.01 * rng.standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("n_samples", [160, 201, 399, 16_000, 77_777, 480_000])
@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_equals_whispers_extractor(n_samples: int, n_mels: int) -> None:
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    waveform = speech_like(n_samples)
    expected = extractor._np_extract_fbank_features(waveform[None], "cpu")[0]
    features = compute_features(waveform, FeatureConfig(kind="log_mel", n_mels=n_mels))
    assert features.dtype == np.float32
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("n_mels", [40, 80, 128])
def test_mel_filters_equal_transformers(n_mels: int) -> None:
    expected = transformers.audio_utils.mel_filter_bank(
        201, n_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney"
    ).T
    np.testing.assert_allclose(compute_mel_filters(n_mels), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n_samples", [1, 15, 16, 17, 400, 48_000])
def test_normalised_waveform_equals_wav2vec2s_extractor(n_samples: int) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    waveform = speech_like(n_samples) + np.float32(0.1)
    expected = extractor(waveform, sampling_rate=16_000)["input_values"][0]
    features = compute_features(waveform, FeatureConfig())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=2e-5)
