"""The worker's side of a speech peer: runs in the peer's own environment, with numpy, soundfile and soxr.

A peer's script says what it takes and how it loads, and calls serve(); benchmarks/peers/README.md has the
protocol that this speaks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
WEIGHTS = ("*.safetensors", "*.bin")


class Stages:
    """Wall seconds by stage of one utterance."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


# float32 [n_samples] at 16 kHz, the task, the clock of stages -> German, and English where it was asked for.
Recognise = Callable[[Any, str, Stages], tuple[str, str | None]]


@dataclass
class Peer:
    """A loaded peer.

    Attributes:
        recognise: does one utterance.
        model: its file or folder.
        about: what else the signature names, in order.
        tasks: what it can do.
    """

    recognise: Recognise
    model: Path
    about: Mapping[str, object]
    tasks: tuple[str, ...] = ("transcribe",)


def serve(
    name: str,
    configure: Callable[[argparse.ArgumentParser], None],
    load: Callable[[argparse.Namespace], Peer],
) -> None:
    """Load a peer and answer requests until the input ends.

    Args:
        name: of the peer, for its signature.
        configure: adds the peer's own options; --threads is there already.
        load: whatever it raises is told to the parent as the reason.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends our input
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not meet the answers

    def answer(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--threads", type=int, default=0)
    configure(parser)
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        peer = load(options)
    except Exception as error:
        answer({"error": reason(error)})
        return
    load_time_s = time.perf_counter() - start
    about = {"name": name, "model": digest(peer.model), **peer.about, "threads": options.threads or "default"}
    signature = "|".join(f"{key}:{value}" for key, value in about.items())
    answer({"signature": signature, "load_time_s": load_time_s, "tasks": peer.tasks})
    for line in sys.stdin:
        answer(_respond(peer, json.loads(line)))


def _respond(peer: Peer, request: Mapping[str, str]) -> dict[str, Any]:
    stages = Stages()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with stages("audio"):
            waveform = read_audio(request["path"])
        german, english = peer.recognise(waveform, request["task"], stages)
    except Exception as error:
        return {"error": reason(error)}
    cpu_s = time.process_time() - cpu
    return {
        "text_de": german,
        "text_en": english,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": cpu_s,
        "audio_s": len(waveform) / SAMPLE_RATE,
        "stages_s": stages.seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def read_audio(path: str) -> Any:
    """Any file that libsndfile reads: float32 [n_samples], mono, 16 kHz."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate == SAMPLE_RATE:
        return mono
    import soxr

    return soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)


def digest(model: Path) -> str:
    """Name and eight hex digits of a model's weights."""
    files = [model]
    if model.is_dir():
        files = [path for pattern in WEIGHTS for path in sorted(model.glob(pattern))]
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return f"{model.resolve().name}@{whole.hexdigest()[:8]}"


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
