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

RECORD = "instruction_set.json"  # in an environment that benchmarks.peers.lower changed
LEVEL_VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "CT2_FORCE_CPU_ISA",
    "CT2_USE_MKL",
    "MKL_ENABLE_INSTRUCTIONS",
    "ATEN_CPU_CAPABILITY",
    "NPY_DISABLE_CPU_FEATURES",
    "OPENBLAS_CORETYPE",
    "GLIBC_TUNABLES",
)
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
    answer({"systems": list(systems), "signature": f"{signature},{level()}", "load_time_s": seconds})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(_measure(systems[request["system"]], request))
        except Exception as error:
            answer({"error": _reason(error)})


def level(prefix: Path | None = None) -> str:
    """Which vector instructions this process was told to use, for a signature.

    Args:
        prefix: of the environment; the interpreter's own where None.
    Returns:
        Such as "level:avx2 in libraries of openvino + ONEDNN_MAX_CPU_ISA=AVX2"; "level:processor's own".
    """
    record = (Path(sys.prefix) if prefix is None else prefix) / RECORD
    parts = [f"{name}={os.environ[name]}" for name in LEVEL_VARIABLES if os.environ.get(name)]
    if record.exists():
        lowered = json.loads(record.read_text(encoding="utf-8"))
        parts.insert(0, f"{lowered['level']} in libraries of {' '.join(lowered['packages'])}")
    return "level:" + (" + ".join(parts) or "processor's own")


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
