"""Speed over threads, batch sizes, callers at once, and lengths; and a cold start in a new process."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.manifest import Utterance
from benchmarks.errors import MeasurementError
from benchmarks.measures.memory import peak_rss_mb
from benchmarks.measures.reference import Clock, now
from benchmarks.measures.stages import warm_up
from benchmarks.measures.systems import EngineSystem
from benchmarks.reports.signature import data_digest, environment, sign
from benchmarks.run import Data, RunSettings, load_engine
from engine.errors import EngineError

SAMPLE_RATE = 16_000
COLD_START_S = 1800
COLD_START = """
import json, sys, time
started = time.perf_counter()
import engine
imported = time.perf_counter()
model, path, task, device, threads = json.loads(sys.argv[1])
translator = engine.load(model, device=device, threads=threads)
loaded = time.perf_counter()
getattr(translator, task)(path)
first = time.perf_counter()
getattr(translator, task)(path)
seconds = {"import_s": imported - started, "load_s": loaded - imported, "first_s": first - loaded}
print(json.dumps({**seconds, "second_s": time.perf_counter() - first}))
"""

Source = tuple[Any, float]  # what transcribe() takes, and its length in seconds


@dataclass(frozen=True)
class Grid:
    """The values that are combined.

    Attributes:
        threads: of the engine.
        batch_sizes: recordings for one call of transcribe_batch; 1 calls transcribe, as for a single request.
        concurrency: Python threads that call at once.
        lengths_s: lengths in seconds to cut the audio into; empty: not cut.
    """

    threads: Sequence[int] = (1,)
    batch_sizes: Sequence[int] = (1,)
    concurrency: Sequence[int] = (1,)
    lengths_s: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.threads) * len(self.inner) * max(1, len(self.lengths_s))

    @property
    def inner(self) -> list[tuple[int, int]]:
        """(batch size, callers): the combinations for one model and one length."""
        return list(itertools.product(self.batch_sizes, self.concurrency))


def run_sweep(
    settings: RunSettings, data: Data, grid: Grid, progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Measure every combination, pass by pass in turn: a slow minute of the machine affects all of them.

    The model is loaded once for each number of threads.

    Args:
        settings: model, device, beams, warm-up and repeats (passes; 2 or more measure the noise).
        data: the audio.
        grid: the combinations.
        progress: called after each pass of a combination.
    Returns:
        A JSON object: `rows`, one for each combination, and the signature and environment of all.
    Raises:
        EngineError: the model, or a recording.
    """
    systems, firsts = _load(settings, data, grid.threads)
    decoded = {
        length_s: _sources(systems[0], data.utterances, length_s) for length_s in grid.lengths_s or (None,)
    }
    cases = list(itertools.product(systems, decoded, grid.inner))
    passes: list[list[Pass]] = [[] for _ in cases]
    for _ in range(settings.repeats):
        for measured, (system, length_s, (batch_size, callers)) in zip(passes, cases, strict=True):
            measured.append(_measure(system, decoded[length_s], batch_size, callers))
            progress()
    rows = []
    for measured, (system, length_s, (batch_size, callers)) in zip(passes, cases, strict=True):
        index = systems.index(system)
        where = {"threads": grid.threads[index], "batch_size": batch_size, "concurrency": callers}
        load = {"load_time_s": system.load_time_s, "first_result_s": firsts[index]}
        sources = decoded[length_s]
        rows.append({**where, "length_s": length_s, "n": len(sources), **_row(sources, measured), **load})
    return {"rows": rows, **_about(settings, data, [system.signature for system in systems])}


def _load(
    settings: RunSettings, data: Data, threads: Sequence[int]
) -> tuple[list[EngineSystem], list[float | None]]:
    """A warm system for each number of threads, and the seconds of each one's first result."""
    every = [replace(settings, threads=number, task="transcribe") for number in threads]
    systems = [load_engine(one, data.utterances) for one in every]
    return systems, [warm_up(one, data.utterances, "transcribe", settings.warmup) for one in systems]


def _about(settings: RunSettings, data: Data, signatures: Sequence[str]) -> dict[str, Any]:
    digest, n = data_digest(data.utterances), len(data.utterances)
    signed = [sign(name, "transcribe", digest, n, settings.warmup, settings.repeats) for name in signatures]
    return {
        "signatures": signed,
        "settings": asdict(settings),
        "peak_rss_mb": peak_rss_mb(),
        "environment": environment(),
    }


def _sources(system: EngineSystem, utterances: Sequence[Utterance], length_s: float | None) -> list[Source]:
    """The audio, decoded once and not timed: only the model is measured."""
    waveforms = [system.translator.load_audio(str(item.path)) for item in utterances]
    if length_s is not None:
        waveforms = cut(waveforms, length_s)
    return [(waveform, len(waveform) / SAMPLE_RATE) for waveform in waveforms]


def cut(waveforms: Sequence[NDArray[np.float32]], length_s: float) -> list[NDArray[np.float32]]:
    """Join waveforms end to end and cut the whole into pieces of one length.

    Args:
        waveforms: float32 [n_samples] at 16 kHz; repeated where they do not make one piece.
        length_s: seconds of a piece; a shorter rest is dropped.
    """
    size = int(length_s * SAMPLE_RATE)
    whole = np.concatenate(waveforms)
    if not len(whole) or size < 1:
        raise MeasurementError(f"nothing to cut into pieces of {length_s:g} s")
    whole = np.resize(whole, max(len(whole), size))
    return [whole[start : start + size] for start in range(0, len(whole) - size + 1, size)]


@dataclass(frozen=True)
class Pass:
    """One pass over all pieces: its total time, and the wall seconds of each call."""

    span: Clock
    latencies_s: list[float]


def _measure(system: EngineSystem, sources: Sequence[Source], batch_size: int, callers: int) -> Pass:
    """Give batches to callers when they become free."""
    batches = [sources[start : start + batch_size] for start in range(0, len(sources), batch_size)]

    def call(batch: Sequence[Source]) -> float:
        start = now()
        transcribe(system, [waveform for waveform, _ in batch], batch_size)
        return (now() - start).wall_s

    start = now()
    with ThreadPoolExecutor(callers) as pool:
        latencies = list(pool.map(call, batches))
    return Pass(now() - start, latencies)


def transcribe(system: EngineSystem, waveforms: Sequence[Any], batch_size: int) -> None:
    """One request, or one batch.

    Args:
        waveforms: float32 [n_samples] at 16 kHz each.
        batch_size: of the sweep; the last batch may be smaller.
    Raises:
        EngineError: the first of any recording of the batch.
    """
    if batch_size == 1:
        system.translator.transcribe(waveforms[0], SAMPLE_RATE, options=system.options)
        return
    for result in system.translator.transcribe_batch(waveforms, options=system.options):
        if isinstance(result, EngineError):
            raise result


def _row(sources: Sequence[Source], passes: Sequence[Pass]) -> dict[str, Any]:
    """Figures of one combination: the median pass, percentiles over the calls of all."""
    audio_s = sum(duration_s for _, duration_s in sources)
    wall = [one.span.wall_s for one in passes]
    cpu_s = statistics.median(one.span.cpu_s for one in passes)
    every = np.array([seconds for one in passes for seconds in one.latencies_s]) * 1000
    p50, p95, p99 = np.percentile(every, [50, 95, 99]).tolist()
    return {
        "audio_s": audio_s,
        "rtfx": audio_s / statistics.median(wall),
        "rtfx_cpu": audio_s / cpu_s,
        "wall_s": statistics.median(wall),
        "cpu_s": cpu_s,
        "noise_floor": max(wall) / min(wall) - 1 if len(wall) > 1 else None,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
    }


def cold_start(settings: RunSettings, path: Path, task: str) -> dict[str, float]:
    """Import, load and first result in a new process.

    Args:
        path: the audio file that is transcribed, twice: once cold, once warm.
        task: of systems.TASKS.
    Returns:
        import_s, load_s, first_s, second_s.
    Raises:
        MeasurementError: the process failed; its last line says why.
    """
    arguments = json.dumps([settings.model, str(path), task, settings.device, settings.threads])
    root = Path(__file__).resolve().parents[2]
    search = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", COLD_START, arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": search},
            check=False,
            timeout=COLD_START_S,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"the cold start did not end within {COLD_START_S} s") from error
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"the cold start failed: {reason}")
    return dict(json.loads(answer.stdout.strip().splitlines()[-1]))
