"""Row-wise steps between the matrix products of an encoder: layer norm, GELU, residual sums.

All take addresses of float32 rows whose length is a multiple of 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import kernel
from engine.kernels.vector import simd


@kernel
def normalize_row(source: int, n: int, weight: int, bias: int, epsilon: float, target: int) -> None:
    """Layer norm of one row; source and target may be the same."""
    total = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        total = simd.add(total, simd.load_f32(source + 4 * at))
    mean = simd.splat(np.float32(simd.sum_lanes(total) / np.float32(n)))
    squares = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        centred = simd.subtract(simd.load_f32(source + 4 * at), mean)
        squares = simd.fma(centred, centred, squares)
    variance = simd.sum_lanes(squares) / np.float32(n)
    factor = simd.splat(np.float32(np.float32(1.0) / np.sqrt(np.float32(variance + np.float32(epsilon)))))
    for at in range(0, n, 16):
        centred = simd.multiply(simd.subtract(simd.load_f32(source + 4 * at), mean), factor)
        scaled = simd.fma(centred, simd.load_f32(weight + 4 * at), simd.load_f32(bias + 4 * at))
        simd.store_f32(target + 4 * at, scaled)


@kernel
def gelu_row(row: int, n: int) -> None:
    """GELU in place."""
    for at in range(0, n, 16):
        simd.store_f32(row + 4 * at, simd.gelu(simd.load_f32(row + 4 * at)))


@kernel
def add_row(target: int, source: int, n: int) -> None:
    """target += source."""
    for at in range(0, n, 16):
        total = simd.add(simd.load_f32(target + 4 * at), simd.load_f32(source + 4 * at))
        simd.store_f32(target + 4 * at, total)


@kernel
def copy_row(source: int, n: int, target: int) -> None:
    """target = source."""
    for at in range(0, n, 16):
        simd.store_f32(target + 4 * at, simd.load_f32(source + 4 * at))


@kernel
def scale_row(row: int, n: int, factor: float) -> None:
    """row *= factor."""
    factors = simd.splat(np.float32(factor))
    for at in range(0, n, 16):
        simd.store_f32(row + 4 * at, simd.multiply(simd.load_f32(row + 4 * at), factors))


@kernel
def softmax_row(scores: int, n: int, weights: int) -> Any:
    """exp(scores - max) as bfloat16; returns their sum. scores float32 [n], weights bfloat16 [n]."""
    top = simd.load_f32(scores)
    for at in range(16, n, 16):
        top = simd.maximum(simd.load_f32(scores + 4 * at), top)
    largest = simd.splat(simd.max_lanes(top))
    total = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        weight = simd.exp(simd.subtract(simd.load_f32(scores + 4 * at), largest))
        total = simd.add(total, weight)
        simd.store_bf16(weights + 2 * at, weight)
    return simd.sum_lanes(total)
