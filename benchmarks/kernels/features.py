"""Feature kernels against other libraries: 30 s of audio, one thread, in turn in one run.

    python -m benchmarks.kernels.features --peer_python librosa=PEERS/bin/python asrfront=PEERS/bin/python \\
        --json features.json

transformers, librosa, asrfront and kaldi-native-fbank are peers in separate processes; those that are not
installed are left out and named. The figures are median and best of the CPU time, so that a busy machine does
not change them, and only of systems whose features are right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.errors import PeerError, WrongOutputError
from benchmarks.protocol.driver import Driver, LocalSystem, Roster, finite
from benchmarks.reports.provenance import provenance
from engine.acoustic.features import compute_features
from engine.acoustic.mel_filters import compute_mel_filters
from engine.bundle.folder import FeatureConfig
from engine.bundle.signature import cpu_model

SCRIPT = Path(__file__).parents[1] / "peers" / "features" / "mel_features.py"
PEERS = ("transformers", "librosa", "asrfront", "kaldi-native-fbank")
SAMPLE_RATE, N_MELS = 16_000, 80
LOG_MEL = FeatureConfig(kind="log_mel")
FBANK = FeatureConfig(kind="log_mel", convention="kaldi", n_fft=512)
NORMALIZED = FeatureConfig(kind="waveform")
MAX_ERROR = 0.02  # relative L2 distance from the numpy form


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = parse(argv)
    n_samples = int(options.seconds * SAMPLE_RATE)
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, n_samples).astype(np.float32)
    with Driver(our_systems()) as driver:
        driver.start(roster(options))
        figures = measure(driver, waveform, options.rounds)
        signature = (
            f"audio:{options.seconds:g}s|threads:1|rounds:{options.rounds}|warm-up:1|cpu:{cpu_model()}"
        )
        report = {
            "signature": signature,
            **provenance("python -m benchmarks.kernels.features", argv),
            "versions": {name: version(name) for name in ("numpy", "numba")},
            "peers": driver.signatures(),
            "left_out": driver.why_not(),
            "cpu_ms": figures,
        }
    print(signature)
    for name, row in figures.items():
        print(f"{name:32s} {row['median']:8.2f} ms (best {row['best']:.2f})")
    for name, why in driver.why_not().items():
        print(f"left out: {name}: {why}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.features", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer_python", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    options.peer_python = dict(pair.partition("=")[::2] for pair in options.peer_python)
    if unknown := set(options.peer_python) - set(PEERS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    return options


def our_systems() -> dict[str, LocalSystem]:
    """The engine's kernels and their numpy forms."""

    def kernel(config: FeatureConfig) -> LocalSystem:
        return LocalSystem(lambda inputs: {"features": compute_features(inputs["waveform"], config)})

    return {
        "log-mel, engine": kernel(LOG_MEL),
        "log-mel, numpy": LocalSystem(lambda inputs: {"features": numpy_log_mel(inputs["waveform"])}),
        "fbank, engine": kernel(FBANK),
        "normalise, engine": kernel(NORMALIZED),
        "normalise, numpy": LocalSystem(lambda inputs: {"features": numpy_normalize(inputs["waveform"])}),
    }


def roster(options: argparse.Namespace) -> dict[str, Roster]:
    """The chosen peers."""
    return {
        name: Roster(SCRIPT, ("--system", name), options.peer_python.get(name, sys.executable))
        for name in options.peers
    }


def measure(driver: Driver, waveform: Any, rounds: int) -> dict[str, dict[str, float]]:
    """Median and best CPU milliseconds of each system whose features are right."""
    kinds = {"log-mel": numpy_log_mel(waveform), "normalise": numpy_normalize(waveform)}
    kinds["fbank"] = compute_features(waveform, FBANK)
    figures = {}
    for kind, expected in kinds.items():
        found = driver.run(
            [{"waveform": waveform}],
            rounds,
            lambda _, outputs, kind=kind, expected=expected: check(kind, outputs, expected),  # type: ignore[misc]
            [name for name in driver.systems if name.startswith(kind)],
        )
        for name, timing in found.items():
            times_ms = [1e3 * seconds for seconds in timing.rounds_s()]
            figures[name] = {"median": median(times_ms), "best": min(times_ms)}
    return figures


def check(kind: str, outputs: Mapping[str, Any], expected: Any) -> float | None:
    """Relative L2 distance; of fbank, whose conventions differ between projects, only the shape is compared.

    Raises:
        WrongOutputError: the features differ.
    """
    features = finite("features", outputs.get("features"))
    if features.shape != expected.shape:
        raise WrongOutputError(f"{kind} features {features.shape}", f"{expected.shape}")
    if kind == "fbank":
        return None
    error = float(np.linalg.norm(features - expected) / np.linalg.norm(expected))
    if error > MAX_ERROR:
        raise WrongOutputError(
            f"{kind} features with a relative error of {error:.2g}", f"at most {MAX_ERROR}"
        )
    return error


def numpy_log_mel(waveform: Any) -> Any:
    """Whisper's features with numpy's FFT, all frames at once."""
    padded = np.pad(waveform, 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][: waveform.size // 160]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1].astype(np.float32))) ** 2
    decibels = np.log10(np.maximum(compute_mel_filters(N_MELS) @ power.T, 1e-10))
    return (np.maximum(decibels, decibels.max() - 8) + 4) / 4


def numpy_normalize(waveform: Any) -> Any:
    """Mean 0 and variance 1, as transformers' Wav2Vec2FeatureExtractor does."""
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PeerError as error:
        raise SystemExit(f"error: {error}") from error
