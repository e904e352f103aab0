"""Attention over a few dozen positions at any addresses, and the row-wise parts of decoders around it.

A key row and its value row are `width` floats apart, so that one address is enough for both. The addresses
of a row's positions are looked up, and rows are not copied: beams share their past and the source's keys.
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
LOWEST = np.float32(-40.0)


@inner
def attend_places(
    query: int, places: I64Array, n: int, n_heads: int, head_dim: int, weights: F32Array, out: int
) -> None:
    """Attention of one row.

    A key row is read from begin to end for all heads: its cache lines are contiguous, those of two rows not.

    Args:
        query: address of float32 [n_heads * head_dim].
        places: addresses of n key rows; values are n_heads * head_dim floats after them.
        weights: float32 [n_heads * (n rounded up to 16)], scratch.
        out: address of float32 [n_heads * head_dim].
    """
    factor = np.float32(1.0) / np.sqrt(np.float32(head_dim))
    padded, size = (n + LANES - 1) // LANES * LANES, 4 * head_dim
    for index in range(n):
        for head in range(n_heads):
            left, right = query + head * size, places[index] + head * size
            total = simd.multiply(simd.load_f32(left), simd.load_f32(right))
            for at in range(64, size, 64):
                total = simd.fma(simd.load_f32(left + at), simd.load_f32(right + at), total)
            weights[head * padded + index] = simd.sum_lanes(total) * factor
    for head in range(n_heads):
        weights[head * padded + n : (head + 1) * padded] = ABSENT
    mix_places(places, n, n_heads, head_dim, weights, padded, out)


@inner
def mix_places(
    places: I64Array, n: int, n_heads: int, head_dim: int, weights: F32Array, padded: int, out: int
) -> None:
    """Values by the softmax of scores, weights [n_heads, padded]. See attend_places."""
    size = 4 * head_dim
    for head in range(n_heads):
        inverse = simd.splat(np.float32(1.0) / exponentiate(address(weights[head * padded :]), padded))
        for at in range(head * size, (head + 1) * size, 64):
            simd.store_f32(out + at, simd.splat(np.float32(0.0)))
        for at in range(head * padded, (head + 1) * padded, LANES):
            place = address(weights[at:])
            simd.store_f32(place, simd.multiply(simd.load_f32(place), inverse))
    for index in range(n):
        values = places[index] + n_heads * size
        for head in range(n_heads):
            weight = simd.splat(weights[head * padded + index])
            for at in range(head * size, (head + 1) * size, 64):
                mixed = simd.fma(weight, simd.load_f32(values + at), simd.load_f32(out + at))
                simd.store_f32(out + at, mixed)


@inner
def exponentiate(scores: int, n: int) -> Any:
    """exp(scores - max) in place over n floats, a multiple of 16; returns their sum.

    None is below e^-40: that is too small to change a float32 sum, and large enough that products with it
    are not subnormal numbers, which take a hundred times as long.
    """
    top = simd.load_f32(scores)
    for at in range(16, n, 16):
        top = simd.maximum(simd.load_f32(scores + 4 * at), top)
    largest, lowest = simd.splat(simd.max_lanes(top)), simd.splat(LOWEST)
    total = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        below = simd.subtract(simd.load_f32(scores + 4 * at), largest)
        weight = simd.exp(simd.maximum(below, lowest))
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
def log_softmax_rows(logits: F32Array, n_rows: int, vocab_size: int, out: F32Array) -> None:
    """Natural-log probabilities of the first vocab_size values of every row.

    Args:
        logits: float32 [>= n_rows, a multiple of 16 columns]; columns past vocab_size become -1e30.
        out: float32 rows that receive a multiple of 16 values each, the last of which may be after the
            row's end; or logits itself.
    """
    padded = logits.shape[1]
    for row in range(n_rows):
        logits[row, vocab_size:] = ABSENT
        base, target = address(logits[row:]), address(out[row:])
        top = simd.load_f32(base)
        for at in range(LANES, padded, LANES):
            top = simd.maximum(simd.load_f32(base + 4 * at), top)
        shift, total = simd.splat(simd.max_lanes(top)), simd.splat(np.float32(0.0))
        for at in range(0, padded, LANES):
            total = simd.add(total, simd.exp(simd.subtract(simd.load_f32(base + 4 * at), shift)))
        rest = simd.splat(np.float32(np.log(simd.sum_lanes(total))))
        for at in range(0, vocab_size, LANES):
            below = simd.subtract(simd.load_f32(base + 4 * at), shift)
            simd.store_f32(target + 4 * at, simd.subtract(below, rest))
