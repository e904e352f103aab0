"""What the speech peers share: reading audio, the clock of stages, the digest of a model.

Needs numpy, soundfile and soxr.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from peer_worker import Loaded, Peer, serve

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
class Model:
    """A loaded speech model.

    Attributes:
        recognise: does one utterance.
        path: the model's file or folder.
        about: what else the signature names, in order.
    """

    recognise: Recognise
    path: Path
    about: Mapping[str, object]


def serve_speech(
    name: str,
    version: str,
    configure: Callable[[argparse.ArgumentParser], None],
    load: Callable[[argparse.Namespace], Model],
    tasks: tuple[str, ...] = ("transcribe",),
) -> None:
    """Serve a speech model: inputs {"path"}, outputs text_de, text_en, audio_s and stages_s.

    The clock covers reading the file to the finished text, as the engine's does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then ends our input

    def load_all(options: argparse.Namespace) -> Loaded:
        model = load(options)
        runs = {task: partial(run, model.recognise, task) for task in tasks}
        return Loaded(runs, {"model": digest(model.path), **model.about})

    serve(Peer(name, "speech", version, configure, lambda options: tasks, load_all))


def run(recognise: Recognise, task: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """One file."""
    stages = Stages()
    with stages("audio"):
        waveform = read_audio(inputs["path"])
    german, english = recognise(waveform, task, stages)
    return {
        "text_de": german,
        "text_en": english,
        "audio_s": len(waveform) / SAMPLE_RATE,
        "stages_s": stages.seconds,
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
