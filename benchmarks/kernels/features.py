"""Feature kernels against what else computes the same: 30 s of audio, one thread, interleaved.

    python -m benchmarks.kernels.features --json features.json

transformers, librosa, asrfront and kaldi-native-fbank are measured where they are installed (another
environment's site-packages may be put on PYTHONPATH). Each round runs every system once; median and best of
the calling thread's CPU time are reported, so that a busy machine does not decide.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports.provenance import provenance
from engine.acoustic.features import compute_features, compute_mel_filters
from engine.bundle.folder import FeatureConfig
from engine.bundle.signature import cpu_model

SAMPLE_RATE = 16_000
LOG_MEL = FeatureConfig(kind="log_mel")
FBANK = FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512)
NORMALIZED = FeatureConfig(kind="waveform")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.features", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, int(options.seconds * SAMPLE_RATE))
    figures = measure(systems(waveform.astype(np.float32)), options.rounds)
    signature = f"audio:{options.seconds:g}s|threads:1|rounds:{options.rounds}|warm-up:1|cpu:{cpu_model()}"
    print(signature)
    for name, (median_ms, best_ms) in figures.items():
        print(f"{name:32s} {median_ms:8.2f} ms (best {best_ms:.2f})")
    if options.json:
        report = {
            "signature": signature,
            **provenance("python -m benchmarks.kernels.features", argv),
            "versions": versions(),
            "cpu_ms": {name: {"median": median, "best": best} for name, (median, best) in figures.items()},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def systems(waveform: Any) -> dict[str, Callable[[], Any]]:
    """What can be measured here, by name."""
    found: dict[str, Callable[[], Any]] = {
        "log-mel, engine": lambda: compute_features(waveform, LOG_MEL),
        "log-mel, numpy": lambda: numpy_log_mel(waveform),
        "fbank, engine": lambda: compute_features(waveform, FBANK),
        "normalise, engine": lambda: compute_features(waveform, NORMALIZED),
        "normalise, numpy": lambda: (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7),
    }
    if importlib.util.find_spec("transformers"):
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor()
        found["log-mel, transformers"] = lambda: extractor._np_extract_fbank_features(waveform[None], "cpu")
    if importlib.util.find_spec("librosa"):
        import librosa

        settings = {"sr": SAMPLE_RATE, "n_fft": 400, "hop_length": 160, "n_mels": 80}
        found["log-mel, librosa"] = lambda: np.log10(
            np.maximum(librosa.feature.melspectrogram(y=waveform, **settings), 1e-10)
        )
    if importlib.util.find_spec("asrfront"):
        from asrfront import whisper

        found["log-mel, asrfront"] = lambda: whisper.log_mel(waveform, pad_or_trim=False)
    if importlib.util.find_spec("kaldi_native_fbank"):
        samples = waveform.tolist()  # what it takes; the conversion is not timed
        found["fbank, kaldi-native-fbank"] = lambda: kaldi_fbank(samples)
    return found


def kaldi_fbank(samples: list[float]) -> Any:
    """kaldi-native-fbank's features, 80 bands, its other defaults, no dither."""
    import kaldi_native_fbank as knf

    settings = knf.FbankOptions()
    settings.frame_opts.dither, settings.mel_opts.num_bins = 0.0, 80
    online = knf.OnlineFbank(settings)
    online.accept_waveform(SAMPLE_RATE, samples)
    online.input_finished()
    return online.num_frames_ready


def versions() -> dict[str, str]:
    """Of what was measured."""
    names = ("numpy", "numba", "transformers", "librosa", "asrfront", "kaldi-native-fbank")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def numpy_log_mel(waveform: Any) -> Any:
    """Whisper's features with numpy's FFT, all frames at once."""
    padded = np.pad(waveform, 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][: waveform.size // 160]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1].astype(np.float32))) ** 2
    decibels = np.log10(np.maximum(compute_mel_filters(80) @ power.T, 1e-10))
    return (np.maximum(decibels, decibels.max() - 8) + 4) / 4


def measure(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median and best CPU milliseconds of each, run in turn after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            start = time.thread_time()
            run()
            if number:
                times[name].append(1000 * (time.thread_time() - start))
    return {name: (float(np.median(values)), min(values)) for name, values in times.items()}


if __name__ == "__main__":
    raise SystemExit(main())
