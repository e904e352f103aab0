"""The worker's side of an encoder peer: runs in the peer's own environment, needs numpy and nothing else.

A peer's script names its systems and calls serve(); benchmarks/peers/README.md has the protocol.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Normalised float32 [batch, n_samples] -> logits [batch, n_frames, vocab_size], or None.
Run = Callable[[Any], Any]


def serve(load: Callable[[], tuple[Mapping[str, Run], str]]) -> None:
    """Load systems and answer requests until the input ends.

    Args:
        load: returns the systems by name and the versions they run with. Whatever it raises is told to
            the parent as the reason why the peer is left out.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a native library prints must not meet the answers

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    start = time.perf_counter()
    try:
        systems, signature = load()
    except Exception as error:
        answer({"error": _reason(error)})
        return
    seconds = round(time.perf_counter() - start, 3)
    answer({"systems": list(systems), "signature": signature, "load_time_s": seconds})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(_measure(systems[request["system"]], request))
        except Exception as error:
            answer({"error": _reason(error)})


def timed(run: Run, values: Any) -> tuple[Any, float, float]:
    """One call: what it returns, wall seconds, and CPU seconds of every thread of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(values)
    cpu_s = time.process_time() - cpu
    return found, time.perf_counter() - wall, cpu_s


def _measure(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    logits, wall_s, cpu_s = timed(run, np.load(request["input"]))
    message: dict[str, Any] = {"wall_s": wall_s, "cpu_s": cpu_s}
    if request.get("output") and logits is not None:
        np.save(Path(request["output"]), np.asarray(logits, np.float32))
        message["output"] = request["output"]
    return message


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
