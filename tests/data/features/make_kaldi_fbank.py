"""Write kaldi_fbank.npz, what kaldi-native-fbank makes of one signal under several settings.

    python3 -m venv /tmp/kaldi && /tmp/kaldi/bin/pip install kaldi-native-fbank==1.23.0 numpy
    /tmp/kaldi/bin/python tests/data/features/make_kaldi_fbank.py

The file holds numbers only: the signal (int16, made by the formula below) and float32 features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kaldi_native_fbank as knf
import numpy as np

N_SAMPLES = 1_700
# Our field names; the functions below translate.
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "centred": {"snip_edges": False},
    "hamming": {"window": "hamming", "n_mels": 40, "low_hz": 64.0, "high_hz": -200.0},
    "energy": {"use_energy": True, "energy_floor": 1e9, "n_mels": 23},
    "plain": {"preemphasis": 0.0, "remove_dc": False, "scale": 1.0, "window": "hanning"},
}


def make_signal() -> np.ndarray:
    """A gliding tone that fades in, an offset, a click and noise, without which bands hold rounding alone."""
    time_s = np.arange(N_SAMPLES) / 16_000
    tone = np.sin(2 * np.pi * (200 + 20_000 * time_s) * time_s) * np.linspace(0, 9_000, N_SAMPLES)
    tone[900] += 8_000
    return np.rint(tone + 300 + np.random.default_rng(0).normal(0, 30, N_SAMPLES)).astype(np.int16)


def compute(signal: np.ndarray, chosen: dict[str, Any]) -> np.ndarray:
    """float32 [n_frames, n_mels]."""
    options = knf.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.dither = 0.0
    frame.snip_edges = chosen.get("snip_edges", True)
    frame.window_type = chosen.get("window", "povey")
    frame.preemph_coeff = chosen.get("preemphasis", 0.97)
    frame.remove_dc_offset = chosen.get("remove_dc", True)
    mel.num_bins = chosen.get("n_mels", 80)
    mel.low_freq, mel.high_freq = chosen.get("low_hz", 20.0), chosen.get("high_hz", 0.0)
    options.use_energy = chosen.get("use_energy", False)
    options.energy_floor = chosen.get("energy_floor", 0.0)
    online = knf.OnlineFbank(options)
    scaled = signal.astype(np.float32) * (chosen.get("scale", 32768.0) / 32768.0)
    online.accept_waveform(16_000, scaled.tolist())
    online.input_finished()
    return np.stack([online.get_frame(i) for i in range(online.num_frames_ready)]).astype(np.float32)


if __name__ == "__main__":
    signal = make_signal()
    features = {name: compute(signal, chosen) for name, chosen in SETTINGS.items()}
    np.savez_compressed(Path(__file__).with_name("kaldi_fbank.npz"), signal=signal, **features)
