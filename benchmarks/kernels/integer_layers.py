"""Integer layers with their steps in order and in the order of their own (level avx2). One thread.

    python -m benchmarks.kernels.integer_layers --json layers.json

Weights are normally distributed and pair-safe. Each round multiplies the same rows by both forms, whose
results must be the same bits; median and best of the calling thread's CPU time are reported. Where a level
has no use for the order, both forms are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reports.provenance import provenance
from engine.bundle.signature import cpu_model
from engine.kernels.layers.dense import Dense, multiply_rows
from engine.kernels.vector.gemm import TILE_ROWS
from engine.kernels.vector.levels import active
from engine.native.packing import pack_int8
from engine.runtime.pair_safe import quantize_columns

SHAPES = ((512, 1536), (512, 512), (512, 2048), (2048, 512))  # of the embedded encoder
ROWS = (1, 2, 3, 4, 5, 8, 12, 48)
F32Array = NDArray[np.float32]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.integer_layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    figures = {
        f"{n_in} x {n_out}, {n_rows} rows": measure(n_in, n_out, n_rows, options.rounds)
        for n_in, n_out in SHAPES
        for n_rows in ROWS
    }
    signature = f"level:{active().name}|threads:1|rounds:{options.rounds}|warm-up:1|cpu:{cpu_model()}"
    print(f"{signature}\nGMAC/s of CPU time, median (best)")
    for name, found in figures.items():
        forms = "  ".join(
            f"{form} {rate['median']:6.1f} ({rate['best']:.1f})" for form, rate in found.items()
        )
        print(f"{name:24s} {forms}")
    if options.json:
        made_by = provenance("python -m benchmarks.kernels.integer_layers", argv)
        report = {"signature": signature, **made_by, "gmac_per_s": figures}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(n_in: int, n_out: int, n_rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Thousand million products a second of each form.

    Raises:
        RuntimeError: their results differ.
    """
    rng = np.random.default_rng(n_rows)
    codes, scale = quantize_columns(rng.standard_normal((n_in, n_out)).astype(np.float32))
    forms = {
        "in order": pack_int8(codes, scale, None, in_order=True),
        "own order": pack_int8(codes, scale, None),
    }
    rows = rng.integers(0, 256, (n_rows + TILE_ROWS, n_in)).astype(np.uint8)
    results = {name: multiply(layer, rows, n_rows)[1] for name, layer in forms.items()}
    if not np.array_equal(results["in order"], results["own order"]):
        raise RuntimeError(f"the two forms differ for {n_in} x {n_out} and {n_rows} rows")
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, layer in forms.items():
            times[name].append(multiply(layer, rows, n_rows)[0])
    products = n_rows * n_in * n_out / 1e9
    return {
        name: {"median": products / float(np.median(seconds)), "best": products / min(seconds)}
        for name, seconds in times.items()
    }


def multiply(layer: Dense, rows: NDArray[Any], n_rows: int) -> tuple[float, F32Array]:
    """Seconds of the thread, and the results."""
    scale, offset = np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32)
    out = np.zeros((len(rows), layer.padded), np.float32)
    start = time.thread_time()
    multiply_rows(
        layer, rows.ctypes.data, layer.n_in, n_rows, scale, offset, out.ctypes.data, out.strides[0]
    )  # fmt: skip
    return time.thread_time() - start, out[:n_rows]


if __name__ == "__main__":
    raise SystemExit(main())
