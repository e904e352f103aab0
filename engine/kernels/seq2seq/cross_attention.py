"""Attention of a few rows over the states of one utterance, which all of them share.

Keys and values are bfloat16 in panels: half the memory traffic, read once per step for any number of rows,
and multiplied in float32. A tile takes rows in two planes and columns in pairs. A key's pair is two
dimensions half a head apart. A value's pair is an even position and the odd one after it, so the columns of
scores are ordered: even positions first, then odd ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.encoder.attention import pack_values
from engine.kernels.layers.rows import scale_row
from engine.kernels.seq2seq.rows import exponentiate
from engine.kernels.vector import simd
from engine.kernels.vector.attention_tiles import (
    half_tile,
    half_tile_1,
    half_tile_2,
    half_tile_4,
    half_tile_6,
    half_tile_8,
)
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS

F32Array = NDArray[np.float32]
U16Array = NDArray[np.uint16]
PAIR_BYTES = 4
STEP_BYTES = PAIR_BYTES * TILE_COLUMNS
LANES = 16


class Remembered(NamedTuple):
    """Keys and values of one layer.

    Attributes:
        keys: bfloat16 [head, panel of 32 columns, half a head, column, 2], scaled by 1 / sqrt(head_dim).
        values: bfloat16 [head, panel of 32 dimensions, pair of positions, dimension, 2].
        bias: float32 [n_positions], 0 for a column with a position, -1e30 for padding.
    """

    keys: U16Array
    values: U16Array
    bias: F32Array


@inner
def column_of(position: int, n_positions: int) -> int:
    """Where the score of a position is."""
    return position % 2 * (n_positions // 2) + position // 2


@kernel
def pack_state(source: int, n_heads: int, head_dim: int, position: int, n_positions: int, keys: int) -> None:
    """Copy one row of keys, float32 [n_heads * head_dim] at an address, to its column of the packed keys.

    Args:
        head_dim: a multiple of 32. n_positions: of the packed array, a multiple of 32.
        keys: address of the packed keys of one layer.
    """
    column, half = column_of(position, n_positions), head_dim // 2
    panel, lane = column // TILE_COLUMNS, column % TILE_COLUMNS
    factor = simd.splat(np.float32(1.0) / np.sqrt(np.float32(head_dim)))
    rounded = np.empty(2 * LANES, np.uint16)
    for head in range(n_heads):
        base = keys + 2 * (head * n_positions + panel * TILE_COLUMNS) * head_dim + PAIR_BYTES * lane
        for at in range(0, half, LANES):
            place = address(rounded)  # inside: numba frees an array after its last use
            first = source + 4 * (head * head_dim + at)
            left, right = simd.load_f32(first), simd.load_f32(first + 4 * half)
            simd.store_bf16_pairs(place, simd.multiply(left, factor), simd.multiply(right, factor))
            for step in range(LANES):
                simd.copy_i32(base + STEP_BYTES * (at + step), place + PAIR_BYTES * step)


@inner
def pack_block(
    rows: int, stride: int, first: int, n_rows: int, n_heads: int, head_dim: int, memory: Remembered
) -> None:
    """Copy keys and values, float32 [n_rows, 2 * d] at an address, to positions from `first` (even) on."""
    d, n_positions = n_heads * head_dim, len(memory.bias)
    keys, values = address(memory.keys), address(memory.values)
    for row in range(n_rows):
        place = rows + row * stride
        pack_state(place, n_heads, head_dim, first + row, n_positions, keys)
        if row % 2 == 0:
            odd = place + stride + 4 * d if row + 1 < n_rows else 0
            pack_values(place + 4 * d, odd, n_heads, head_dim, first + row, n_positions, values)


@inner
def multiply_half(
    n_rows: int, left: int, row_stride: int, right: int, n_steps: int, out: int, out_stride: int, bias: int,
    plane: int,
) -> None:  # fmt: skip
    """The narrowest tile that covers n_rows, at most 12; see engine.kernels.vector.attention_tiles."""
    ahead = right + STEP_BYTES * n_steps
    if n_rows > 8:
        half_tile(left, row_stride, right, n_steps, out, out_stride, ahead, bias, plane)
    elif n_rows > 6:
        half_tile_8(left, row_stride, right, n_steps, out, out_stride, ahead, bias, plane)
    elif n_rows > 4:
        half_tile_6(left, row_stride, right, n_steps, out, out_stride, ahead, bias, plane)
    elif n_rows > 2:
        half_tile_4(left, row_stride, right, n_steps, out, out_stride, ahead, bias, plane)
    elif n_rows == 2:
        half_tile_2(left, row_stride, right, n_steps, out, out_stride, ahead, bias, plane)
    else:
        half_tile_1(left, row_stride, right, n_steps, out, out_stride, ahead, bias, plane)


@kernel
def attend_remembered(
    queries: int, query_stride: int, n_rows: int, memory: Remembered, n_heads: int, head_dim: int,
    scores: F32Array, out: int, out_stride: int,
) -> None:  # fmt: skip
    """Attention of rows over all positions.

    Args:
        queries: address of float32 rows [n_heads * head_dim], query_stride bytes apart; read up to a
            multiple of 12 rows. head_dim is a multiple of 32.
        scores: float32 [12 * n_positions] or more, scratch.
        out: address of float32 rows, out_stride bytes apart; written up to a multiple of 12 rows.
    """
    n_positions, half = len(memory.bias), head_dim // 2
    bias, zeros = address(memory.bias), np.zeros(TILE_COLUMNS, np.float32)
    sums = np.empty(TILE_ROWS, np.float32)
    weights, stride = address(scores), 4 * n_positions
    for head in range(n_heads):
        keys = address(memory.keys) + 2 * head * n_positions * head_dim
        values = address(memory.values) + 2 * head * n_positions * head_dim
        for first in range(0, n_rows, TILE_ROWS):
            count = min(TILE_ROWS, n_rows - first)
            left = queries + first * query_stride + 4 * head * head_dim
            for column in range(0, n_positions, TILE_COLUMNS):
                multiply_half(
                    count, left, query_stride, keys + 2 * column * head_dim, half, weights + 4 * column,
                    stride, bias + 4 * column, 4 * half,
                )  # fmt: skip
            target = out + first * out_stride + 4 * head * head_dim
            for row in range(count):
                sums[row] = exponentiate(weights + row * stride, n_positions)
            for at in range(0, head_dim, TILE_COLUMNS):
                multiply_half(
                    count, weights, stride, values + 2 * at * n_positions, n_positions // 2, target + 4 * at,
                    out_stride, address(zeros), 2 * n_positions,
                )  # fmt: skip
            for row in range(count):
                scale_row(target + row * out_stride, head_dim, np.float32(1.0) / sums[row])
