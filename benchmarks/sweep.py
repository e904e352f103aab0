"""Speed over threads, callers at once, and lengths; and a cold start in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import MeasurementError
from benchmarks.manifest import Utterance
from benchmarks.reference import now
from benchmarks.run import RunSettings, load_engine
from benchmarks.stages import warm_up
from benchmarks.systems import EngineSystem

SAMPLE_RATE = 16_000
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


def run_sweep(
    settings: RunSettings,
    utterances: Sequence[Utterance],
    *,
    threads: Sequence[int],
    concurrency: Sequence[int],
    lengths_s: Sequence[float] = (),
    progress: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Measure every combination once; the model is loaded once for each number of threads.

    Args:
        settings: model, device, beams, warm-up and repeats.
        utterances: the audio; with lengths, what the cuts are made of.
        threads: of the engine, for a single call.
        concurrency: Python threads that call at once.
        lengths_s: lengths in seconds to cut the audio into; as it is when empty.
        progress: called after each combination.
    Returns:
        A row for each: threads, concurrency, length_s, rtfx, cpu_s, latency_ms, n.
    """
    rows = []
    for count in threads:
        system = load_engine(replace(settings, threads=count, task="transcribe"), utterances)
        warm_up(system, utterances, "transcribe", settings.warmup)
        for length_s in lengths_s or (None,):
            sources = _sources(system, utterances, length_s)
            for callers in concurrency:
                row = _measure(system, sources * settings.repeats, callers)
                rows.append({"threads": count, "concurrency": callers, "length_s": length_s, **row})
                progress()
    return rows


def _sources(system: EngineSystem, utterances: Sequence[Utterance], length_s: float | None) -> list[Source]:
    """Decoded once, outside the clock: what is swept is the model."""
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


def _measure(system: EngineSystem, sources: Sequence[Source], callers: int) -> dict[str, Any]:
    def call(source: Source) -> float:
        start = now()
        system.translator.transcribe(source[0], SAMPLE_RATE, options=system.options)
        return (now() - start).wall_s

    start = now()
    with ThreadPoolExecutor(callers) as pool:
        latencies = list(pool.map(call, sources))
    span = now() - start
    p50, p95, p99 = np.percentile(np.array(latencies) * 1000, [50, 95, 99]).tolist()
    audio_s = sum(duration_s for _, duration_s in sources)
    return {
        "n": len(sources),
        "audio_s": audio_s,
        "rtfx": audio_s / span.wall_s,
        "rtfx_cpu": audio_s / span.cpu_s,
        "wall_s": span.wall_s,
        "cpu_s": span.cpu_s,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
    }


def cold_start(settings: RunSettings, path: Path, task: str) -> dict[str, float]:
    """Import, load and first result in a fresh process.

    Args:
        path: the audio file that is transcribed, twice: once cold, once warm.
        task: of systems.TASKS.
    Returns:
        import_s, load_s, first_s, second_s.
    Raises:
        MeasurementError: the process failed; its last line says why.
    """
    arguments = json.dumps([settings.model, str(path), task, settings.device, settings.threads])
    root = Path(__file__).resolve().parents[1]
    search = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    answer = subprocess.run(
        [sys.executable, "-c", COLD_START, arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
        check=False,
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"the cold start failed: {reason}")
    return dict(json.loads(answer.stdout.strip().splitlines()[-1]))
