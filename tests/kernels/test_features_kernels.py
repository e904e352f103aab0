"""Every feature kernel against its slow twin, on adversarial input and edge lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.acoustic.fbank import compute_kaldi_filters, compute_window
from engine.acoustic.features import compute_features
from engine.acoustic.mel_filters import compute_mel_filters
from engine.bundle.folder import FeatureConfig
from engine.kernels.features.fbank import mirror_index
from engine.kernels.features.log_mel import reflect_index, scale_log10
from engine.kernels.features.normalize import normalize_into
from engine.kernels.features.real_fft import BLOCK, HALF, LANES, N_BINS, compute_power_block
from engine.kernels.features.real_fft512 import compute_power_block_512
from tests.reference import fbank_reference
from tests.reference import log_mel_reference as reference

pytestmark = pytest.mark.levels

LOG_MEL = FeatureConfig(kind="log_mel")
# One hop, its neighbours, half a window, one block of frames and its neighbours.
EDGE_LENGTHS = [160, 161, 199, 200, 201, 319, 320, 400, 401, LANES * 160 - 1, LANES * 160, LANES * 160 + 160]


def test_power_block_equals_the_definition_of_the_transform() -> None:
    frames = np.random.default_rng(0).standard_normal((400, LANES)).astype(np.float32)
    samples = np.concatenate([frames[0::2].reshape(-1), frames[1::2].reshape(-1)])
    power = np.full(N_BINS * LANES, np.nan, np.float32)
    compute_power_block(samples, np.empty(2 * BLOCK, np.float32), power)
    expected = np.stack([reference.power_spectrum(frames[:, lane]) for lane in range(LANES)], axis=1)
    np.testing.assert_allclose(power.reshape(N_BINS, LANES), expected, rtol=0, atol=1e-6 * expected.max())


@pytest.mark.parametrize("bin_index", [0, 1, 7, 99, 100, 101, 199, 200])
def test_power_block_puts_a_tone_into_its_bin(bin_index: int) -> None:
    tone = np.cos(2 * np.pi * bin_index * np.arange(400) / 400).astype(np.float32)
    samples = np.repeat(np.concatenate([tone[0::2], tone[1::2]]), LANES)
    power = np.empty(N_BINS * LANES, np.float32)
    compute_power_block(samples, np.empty(2 * BLOCK, np.float32), power)
    spectrum = power.reshape(N_BINS, LANES)[:, LANES // 2]
    assert spectrum.argmax() == bin_index
    assert spectrum[bin_index] == pytest.approx((400 if bin_index in (0, HALF) else 200) ** 2, rel=1e-5)
    assert np.delete(spectrum, bin_index).max() < 1e-6 * spectrum[bin_index]


@pytest.mark.parametrize("n_samples", EDGE_LENGTHS)
def test_log_mel_equals_the_slow_twin(n_samples: int) -> None:
    rng = np.random.default_rng(n_samples)
    waveform = (rng.standard_normal(n_samples) * np.linspace(0.001, 0.5, n_samples)).astype(np.float32)
    features = compute_features(waveform, LOG_MEL)
    expected = reference.log_mel(waveform, compute_mel_filters(80))
    assert features.shape == expected.shape == (80, n_samples // 160)
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["silence", "constant", "click", "full_scale", "tiny", "red_noise"])
def test_log_mel_on_adversarial_signals(name: str) -> None:
    n_samples = 3217
    noise = np.random.default_rng(1).standard_normal(n_samples)
    waveform = {
        "silence": np.zeros(n_samples),
        "constant": np.full(n_samples, 0.5),
        "click": np.eye(1, n_samples, 1600)[0],
        "full_scale": np.sign(np.sin(np.arange(n_samples) * 0.3)),
        "tiny": noise * 1e-20,
        "red_noise": np.cumsum(noise) * 0.01,
    }[name].astype(np.float32)
    features = compute_features(waveform, LOG_MEL)
    np.testing.assert_allclose(
        features, reference.log_mel(waveform, compute_mel_filters(80)), rtol=0, atol=2e-4
    )


def test_power_block_of_512_equals_the_definition_of_the_transform() -> None:
    frames = np.random.default_rng(0).standard_normal((512, LANES)).astype(np.float32)
    samples = np.concatenate([frames[0::2].reshape(-1), frames[1::2].reshape(-1)])
    power = np.full(257 * LANES, np.nan, np.float32)
    compute_power_block_512(samples, np.empty(512 * LANES, np.float32), power)
    expected = np.stack([reference.power_spectrum(frames[:, lane]) for lane in range(LANES)], axis=1)
    np.testing.assert_allclose(power.reshape(257, LANES), expected, rtol=0, atol=1e-6 * expected.max())


FBANK_VARIANTS: list[dict[str, Any]] = [
    {},
    {"snip_edges": False},
    {"use_energy": True, "energy_floor": 1e6},
    {"preemphasis": 0.0, "remove_dc": False, "scale": 1.0, "window": "hamming"},
]


@pytest.mark.parametrize("changed", FBANK_VARIANTS)
@pytest.mark.parametrize("n_samples", [400, 401, 559, 560, 720, (LANES + 2) * 160, (LANES + 3) * 160])
def test_fbank_equals_the_slow_twin(n_samples: int, changed: dict[str, Any]) -> None:
    rng = np.random.default_rng(n_samples)
    waveform = (rng.standard_normal(n_samples) * np.linspace(0.001, 0.5, n_samples) + 0.1).astype(np.float32)
    config = FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512, **changed)
    settings = {key: value for key, value in changed.items() if key != "window"}
    expected = fbank_reference.fbank(
        waveform, compute_kaldi_filters(80), compute_window(config.window), **settings
    )
    features = compute_features(waveform, config)
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["silence", "constant", "click", "full_scale", "tiny"])
def test_fbank_on_adversarial_signals(name: str) -> None:
    n_samples = 3217
    waveform = {
        "silence": np.zeros(n_samples),
        "constant": np.full(n_samples, 0.5),
        "click": np.eye(1, n_samples, 1600)[0],
        "full_scale": np.sign(np.sin(np.arange(n_samples) * 0.3)),
        "tiny": np.random.default_rng(1).standard_normal(n_samples) * 1e-20,
    }[name].astype(np.float32)
    config = FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512)
    features = compute_features(waveform, config)
    expected = fbank_reference.fbank(waveform, compute_kaldi_filters(80), compute_window("povey"))
    np.testing.assert_allclose(features, expected, rtol=0, atol=5e-3)


@given(st.integers(-3000, 3000), st.integers(1, 700))
@settings(max_examples=200, deadline=None)
def test_mirror_index_equals_numpys_symmetric_padding(index: int, n_samples: int) -> None:
    padded = np.pad(np.arange(n_samples), 3000, mode="symmetric")
    index = min(index, n_samples + 2999)
    assert mirror_index(index, n_samples) == padded[index + 3000]


@given(st.integers(-3000, 3000), st.integers(1, 700))
@settings(max_examples=200, deadline=None)
def test_reflect_index_equals_numpys_padding(index: int, n_samples: int) -> None:
    padded = np.pad(np.arange(n_samples), 3000, mode="reflect") if n_samples > 1 else np.zeros(6001, int)
    index = min(index, n_samples + 2999)
    assert reflect_index(index, n_samples) == padded[index + 3000]


def test_logarithm_is_exact_to_float32_over_all_exponents() -> None:
    values = np.geomspace(1e-37, 3e38, 20_001).astype(np.float32)
    scaled = values.copy()
    scale_log10(scaled, 1e-30)
    expected = (np.log10(np.maximum(values.astype(np.float64), 1e-30)) + 4) / 4
    np.testing.assert_allclose(scaled, expected, rtol=2e-7, atol=2e-7)


@given(st.integers(1, 100), st.floats(-100, 100), st.floats(1e-6, 1000))
@settings(max_examples=50, deadline=None)
def test_normalize_equals_the_slow_twin(n_samples: int, offset: float, scale: float) -> None:
    noise = np.random.default_rng(n_samples).standard_normal(n_samples)
    waveform = (noise * scale + offset).astype(np.float32)
    out = np.empty_like(waveform)
    normalize_into(waveform, out)
    np.testing.assert_allclose(out, reference.normalize(waveform), rtol=1e-5, atol=1e-5)
    normalize_into(waveform, waveform)  # in place
    np.testing.assert_array_equal(waveform, out)
