"""Attention over a few dozen positions whose rows lie anywhere, and the parts of a Marian model around it.

A key row and its value row lie side by side, `width` floats apart, so that one address names both. The
places of a row's positions are looked up, not copied: beams share their past and the source's keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.vector import simd

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
LANES = 16
ABSENT = np.float32(-1e30)


@inner
def attend_places(
    query: int, places: I64Array, n: int, n_heads: int, head_dim: int, weights: F32Array, out: int
) -> None:
    """Attention of one row.

    Args:
        query: address of float32 [n_heads * head_dim].
        places: addresses of n key rows; values lie n_heads * head_dim floats behind them.
        weights: float32 [n + 16], scratch.
        out: address of float32 [n_heads * head_dim].
    """
    factor = np.float32(1.0) / np.sqrt(np.float32(head_dim))
    to_value = 4 * n_heads * head_dim
    padded = (n + LANES - 1) // LANES * LANES
    base = address(weights)
    for head in range(n_heads):
        shift = 4 * head * head_dim
        for index in range(n):
            key = places[index] + shift
            total = simd.multiply(simd.load_f32(query + shift), simd.load_f32(key))
            for at in range(64, 4 * head_dim, 64):
                total = simd.fma(simd.load_f32(query + shift + at), simd.load_f32(key + at), total)
            weights[index] = simd.sum_lanes(total) * factor
        for index in range(n, padded):
            weights[index] = ABSENT
        inverse = simd.splat(np.float32(1.0) / exponentiate(base, padded))
        for at in range(0, 4 * head_dim, 64):
            mixed = simd.splat(np.float32(0.0))
            for index in range(n):
                value = simd.load_f32(places[index] + to_value + shift + at)
                mixed = simd.fma(simd.splat(weights[index]), value, mixed)
            simd.store_f32(out + shift + at, simd.multiply(mixed, inverse))


@inner
def exponentiate(scores: int, n: int) -> Any:
    """exp(scores - max) in place over n floats, a multiple of 16; returns their sum."""
    top = simd.load_f32(scores)
    for at in range(16, n, 16):
        top = simd.maximum(simd.load_f32(scores + 4 * at), top)
    largest = simd.splat(simd.max_lanes(top))
    total = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        weight = simd.exp(simd.subtract(simd.load_f32(scores + 4 * at), largest))
        total = simd.add(total, weight)
        simd.store_f32(scores + 4 * at, weight)
    return simd.sum_lanes(total)


@inner
def activate_row(kind: int, row: int, n: int) -> None:
    """An activation in place: 0 ReLU, 1 swish, 2 GELU."""
    for at in range(0, n, LANES):
        value = simd.load_f32(row + 4 * at)
        if kind == 0:
            simd.store_f32(row + 4 * at, simd.relu(value))
        elif kind == 1:
            simd.store_f32(row + 4 * at, simd.multiply(value, simd.sigmoid(value)))
        else:
            simd.store_f32(row + 4 * at, simd.gelu(value))


@inner
def embed_row(codes: int, scale: float, position: int, n: int, out: int) -> None:
    """out = scale * codes + position: int8 [n] and float32 [n] at addresses, n a multiple of 16."""
    factor = simd.splat(np.float32(scale))
    for at in range(0, n, LANES):
        value = simd.load_i8(codes + at)
        simd.store_f32(out + 4 * at, simd.fma(value, factor, simd.load_f32(position + 4 * at)))


@kernel
def log_softmax_rows(logits: F32Array, n_rows: int, vocab_size: int, normalizers: F32Array) -> None:
    """Bring the first vocab_size values of every row to natural-log probabilities, in place.

    logits: float32 [>= n_rows, a multiple of 16 columns]; columns past vocab_size become -1e30.
    normalizers: float32 [>= n_rows], receives log(sum(exp)).
    """
    padded = logits.shape[1]
    for row in range(n_rows):
        logits[row, vocab_size:] = ABSENT
        base = address(logits[row:])
        top = simd.load_f32(base)
        for at in range(LANES, padded, LANES):
            top = simd.maximum(simd.load_f32(base + 4 * at), top)
        largest = simd.max_lanes(top)
        shift, total = simd.splat(largest), simd.splat(np.float32(0.0))
        for at in range(0, padded, LANES):
            total = simd.add(total, simd.exp(simd.subtract(simd.load_f32(base + 4 * at), shift)))
        normalizers[row] = largest + np.log(simd.sum_lanes(total))
        shift = simd.splat(normalizers[row])
        for at in range(0, padded, LANES):
            simd.store_f32(base + 4 * at, simd.subtract(simd.load_f32(base + 4 * at), shift))
