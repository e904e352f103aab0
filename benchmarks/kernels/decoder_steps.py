"""An attention decoder's steps with each backend: time, and how fast weights are read. One thread.

    python -m benchmarks.kernels.decoder_steps BUNDLE --json steps.json

Each round runs every backend at every number of rows; median and best of the calling thread's CPU time are
reported, so that a busy machine does not change them. `reading` is the time in which one thread reads as
many bytes as the weights have: no step can be faster.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports.provenance import provenance
from engine.bundle.folder import open_bundle
from engine.bundle.schema import SecondPassConfig
from engine.bundle.signature import cpu_model
from engine.kernels._jit import kernel
from engine.kernels.vector import simd
from engine.two_pass.runners import DecoderRunner, open_decoder
from engine.types import Backend, RuntimeOptions

BACKENDS: tuple[Backend, ...] = ("kernels", "onnxruntime")
ROWS = (1, 2, 5, 10)
FIRST = (4, 40)  # tokens of a prefill
MAX_TOKENS = 64
FRAMES_A_SECOND = 50
Times = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.decoder_steps", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of a bundle with a second pass")
    parser.add_argument("--seconds", type=float, default=4.0, help="of the utterance")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    bundle = open_bundle(options.bundle)
    config = bundle.manifest.second_pass
    if config is None:
        parser.error(f"{options.bundle} has no second pass")
    runners = [
        open_decoder(bundle, config, RuntimeOptions(device="cpu", threads=1, backend=name))
        for name in BACKENDS
    ]
    n_frames = int(FRAMES_A_SECOND * options.seconds)
    n_bytes = weight_bytes(config, bundle.read("asr_decoder"), bundle.read("asr_embeddings"))
    figures = summarise(measure(runners, config, n_frames, n_bytes, options.rounds), n_bytes)
    signature = f"frames:{n_frames}|threads:1|rounds:{options.rounds}|warm-up:1|cpu:{cpu_model()}"
    print(f"{signature}\nweights of a step: {n_bytes / 1e6:.1f} MB")
    for name, found in figures.items():
        print(f"{name:28s} {found['median']:8.3f} ms (best {found['best']:.3f})" + _rates(found))
    if options.json:
        report = {
            "signature": signature,
            **provenance("python -m benchmarks.kernels.decoder_steps", argv),
            "weight_bytes": n_bytes,
            "cpu_ms": figures,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def weight_bytes(config: SecondPassConfig, graph: bytes, table: bytes) -> int:
    """Bytes of the int8 matrices that a step multiplies by: those of the layers, and the embeddings."""
    from engine.runtime.onnx_file import read_graph

    constants = read_graph(graph, {"asr_embeddings.bin": table}).constants.values()
    return sum(array.nbytes for array in constants if array.dtype == np.int8 and array.ndim == 2)


def measure(
    runners: Sequence[DecoderRunner], config: SecondPassConfig, n_frames: int, n_bytes: int, rounds: int
) -> Times:
    """Seconds of the thread, by what was run."""
    times: Times = {}
    states = np.random.default_rng(0).standard_normal((n_frames, config.hidden_size)).astype(np.float32)
    memory = np.ones(n_bytes // 256 * 256 + 64, np.uint8)
    for index in range(rounds + 1):
        reading = partial(read_through, memory.ctypes.data, n_bytes // 256 * 256)
        found = {"reading": [timed(reading) for _ in range(MAX_TOKENS // 2)]}
        for runner in runners:
            for name, seconds in run_once(runner, config, states):
                found.setdefault(f"{runner.backend} {name}", []).append(seconds)
        for name, seconds_of in found.items() if index else ():
            times.setdefault(name, []).extend(seconds_of)
    return times


def run_once(runner: DecoderRunner, config: SecondPassConfig, states: Any) -> Iterator[tuple[str, float]]:
    """Everything once: what is timed, and its seconds."""
    yield "memory", timed(partial(runner.start, states, 1, MAX_TOKENS, None))
    for n_first in FIRST:
        steps = runner.start(states, 1, MAX_TOKENS, None)
        yield f"prefill of {n_first}", timed(partial(steps.prefill, np.arange(n_first) + 9, None))
    for n_rows in ROWS:
        beams = runner.start(states, n_rows, MAX_TOKENS, None)
        beams.prefill(np.array(config.prompt), None)
        beams.step(np.arange(n_rows), np.zeros(n_rows, np.int64), None)
        rng = np.random.default_rng(n_rows)
        for _ in range(MAX_TOKENS // 2):
            ids, parents = rng.integers(0, config.vocab_size, n_rows), rng.integers(0, n_rows, n_rows)
            yield f"step of {n_rows}", timed(partial(beams.step, ids, parents, None))


def timed(call: Callable[[], Any]) -> float:
    """Seconds of the calling thread."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


@kernel
def read_through(place: int, n_bytes: int) -> float:
    """Read some bytes, a multiple of 256, from begin to end."""
    first = second = simd.splat(np.float32(0.0))
    for at in range(0, n_bytes, 128):
        first = simd.maximum(simd.load_f32(place + at), first)
        second = simd.maximum(simd.load_f32(place + at + 64), second)
    return simd.max_lanes(simd.maximum(first, second))


def summarise(times: Times, n_bytes: int) -> dict[str, dict[str, float]]:
    """Milliseconds; for steps also gigabytes and 10^9 products per second of the best round."""
    figures = {}
    for name, seconds in times.items():
        found = {"median": 1e3 * float(np.median(seconds)), "best": 1e3 * min(seconds)}
        rows = int(name.split()[-1]) if " of " in name else 1
        if "memory" not in name:
            found["gb_per_s"] = n_bytes / min(seconds) / 1e9
        if " of " in name:
            found["gmac_per_s"] = rows * n_bytes / min(seconds) / 1e9
        figures[name] = found
    return figures


def _rates(found: dict[str, float]) -> str:
    if "gb_per_s" not in found:
        return ""
    products = f"  {found['gmac_per_s']:6.1f} GMAC/s" if "gmac_per_s" in found else ""
    return f"  {found['gb_per_s']:6.1f} GB/s{products}"


if __name__ == "__main__":
    raise SystemExit(main())
