"""Feature kernels against what else computes the same: 30 s of audio, one thread, interleaved.

    python -m benchmarks.kernels.features --json features.json

transformers, librosa and asrfront (C) are measured where they are installed: benchmarks/peers/README.md says
how to make an environment with the last two. Each round runs every system once; the median of
the process's CPU time is reported, so that a busy machine does not decide, beside the largest difference
from the engine's features (librosa stops short of Whisper's last step, so it has none).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import FeatureConfig
from engine.features import compute_features, compute_mel_filters
from engine.signature import cpu_model

SAMPLE_RATE = 16_000
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PEERS = ("transformers", "librosa", "asrfront")
LOG_MEL = FeatureConfig(kind="log_mel")
NORMALIZED = FeatureConfig(kind="waveform")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.features", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, int(options.seconds * SAMPLE_RATE))
    candidates = systems(waveform.astype(np.float32))
    figures, apart = measure(candidates, options.rounds), differences(candidates)
    versions = [f"{name}:{version(name)}" for name in PEERS if importlib.util.find_spec(name)]
    signature = "|".join(
        [
            f"audio:{options.seconds:g}s|threads:1|rounds:{options.rounds}|warm-up:1",
            *versions,
            f"cpu:{cpu_model()}",
        ]
    )
    print(signature)
    for name, milliseconds in figures.items():
        difference = "-" if apart[name] is None else f"{apart[name]:.1g}"
        print(f"{name:32s} {milliseconds:8.2f} ms   {difference}")
    if options.json:
        report = {"signature": signature, "cpu_ms": figures, "max_difference": apart}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def systems(waveform: Any) -> dict[str, Callable[[], Any]]:
    """What can be measured here, by name."""
    found: dict[str, Callable[[], Any]] = {
        "log-mel, engine": lambda: compute_features(waveform, LOG_MEL),
        "log-mel, numpy": lambda: numpy_log_mel(waveform),
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
        import asrfront.whisper

        found["log-mel, asrfront"] = lambda: asrfront.whisper.log_mel(waveform, pad_or_trim=False)
    return found


def differences(candidates: dict[str, Callable[[], Any]]) -> dict[str, float | None]:
    """Largest difference of each from the engine's features of the same kind; None for another convention."""
    found: dict[str, float | None] = {}
    for name, run in candidates.items():
        wanted, got = candidates[f"{name.split(',')[0]}, engine"](), np.squeeze(run())
        frames = min(wanted.shape[-1], got.shape[-1])
        apart = float(np.abs(wanted[..., :frames] - got[..., :frames]).max())
        found[name] = None if name.endswith("librosa") else apart
    return found


def numpy_log_mel(waveform: Any) -> Any:
    """Whisper's features with numpy's FFT, all frames at once."""
    padded = np.pad(waveform, 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][: waveform.size // 160]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1].astype(np.float32))) ** 2
    decibels = np.log10(np.maximum(compute_mel_filters(80) @ power.T, 1e-10))
    return (np.maximum(decibels, decibels.max() - 8) + 4) / 4


def measure(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each, run in turn after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            if number:
                times[name].append(1000 * (time.process_time() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


def single_threaded() -> None:
    """Start anew with one BLAS thread where it is not so: numpy reads the setting when it is imported."""
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.execve(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            {**os.environ, **dict.fromkeys(THREADS, "1")},
        )


if __name__ == "__main__":
    single_threaded()
    raise SystemExit(main())
