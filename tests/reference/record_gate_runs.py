"""Record runs of the same code as material for the gate's tests: times and reference times, a process each.

    python tests/reference/record_gate_runs.py --data MANIFEST --limit 16 --out tests/data/bench/NAME.npz

The arrays, in seconds: cpu_s and wall_s [n_runs, n_passes, n_utterances], reference_cpu_s and
reference_wall_s [n_runs, n_parts, n_passes, n_utterances] with the parts of
benchmarks.measures.reference.PARTS; signature: of the first run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures.reference import PARTS
from benchmarks.measures.speed import CLOCKS


def pack(results: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """The times of result files over the same utterances, as the arrays above."""
    found: dict[str, NDArray[Any]] = {"signature": np.array(results[0]["signature"])}
    for clock in CLOCKS:
        rows = [result["utterances"] for result in results]
        times = [pass_by_pass([item[f"{clock}_s"] for item in items]) for items in rows]
        found[f"{clock}_s"] = np.stack(times)
        name = f"reference_{clock}_s"
        parts = [[pass_by_pass([item[name][part] for item in items]) for part in PARTS] for items in rows]
        found[name] = np.array(parts)
    return found


def pass_by_pass(times: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """[n_utterances, n_passes] to float32 [n_passes, n_utterances]."""
    return np.array(times, dtype=np.float32).T


def measure(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cli", "--json", str(path), "--quiet", "--threads", "1"]
    command += ["--task", "transcribe", "--repeats", str(options.passes)]
    if options.data:
        command += ["--data", options.data]
    if options.limit:
        command += ["--limit", str(options.limit)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        results = [measure(options, path) for _ in range(options.runs)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **pack(results))


if __name__ == "__main__":
    main()
