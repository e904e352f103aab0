"""Filterbank features against kaldi-native-fbank, whose output data/features/make_kaldi_fbank.py stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.acoustic.features import compute_features
from engine.bundle.folder import FeatureConfig

pytestmark = pytest.mark.levels

FIXTURE = Path(__file__).parents[1] / "data" / "features" / "kaldi_fbank.npz"
# As in make_kaldi_fbank.py, which needs a package that the tests do not.
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "centred": {"snip_edges": False},
    "hamming": {"window": "hamming", "n_mels": 40, "low_hz": 64.0, "high_hz": -200.0},
    "energy": {"use_energy": True, "energy_floor": 1e9, "n_mels": 23},
    "plain": {"preemphasis": 0.0, "remove_dc": False, "scale": 1.0, "window": "hanning"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_fbank_equals_kaldi_native_fbank(name: str) -> None:
    stored = np.load(FIXTURE)
    config = FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512, **SETTINGS[name])
    features = compute_features(stored["signal"].astype(np.float32) / 32768, config)
    expected = stored[name].T
    assert features.dtype == np.float32
    assert features.shape == expected.shape
    # In bands with a 10^-9th of the frame's power both hold float32 rounding: kaldi-native-fbank itself is up
    # to 0.005 from the slow twin there.
    difference = np.abs(features - expected)
    assert difference.max() < 1e-2
    assert np.percentile(difference, 99) < 2e-3
    assert difference.mean() < 1e-4


def test_the_energy_floor_of_the_fixture_is_reached_in_some_frames_only() -> None:
    energy = np.load(FIXTURE)["energy"][:, 0]
    assert (energy == np.float32(np.log(1e9))).sum() not in (0, len(energy))
