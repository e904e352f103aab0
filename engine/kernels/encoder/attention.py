"""Self-attention over one utterance in bfloat16: products by tiles, softmax in float32.

Keys and values are stored as tiles read them, so packing happens once an utterance and layer, where the
projection leaves its rows; queries carry the factor 1 / sqrt(head_dim).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, kernel
from engine.kernels.layers.rows import scale_row, softmax_row
from engine.kernels.vector import simd
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS, bf16_tile

F32Array = NDArray[np.float32]
U16Array = NDArray[np.uint16]
STEP = 2  # bfloat16 elements a step of a tile
PANEL = STEP * TILE_COLUMNS


@kernel
def pack_queries(source: int, n: int, head_dim: int, factor: float, target: int) -> None:
    """One row of queries of all heads, float32 [n], scaled, to bfloat16 [n]. Addresses."""
    factors = simd.splat(np.float32(factor))
    for at in range(0, n, 16):
        simd.store_bf16(target + 2 * at, simd.multiply(simd.load_f32(source + 4 * at), factors))


@kernel
def pack_keys(source: int, n_heads: int, head_dim: int, position: int, n_positions: int, keys: int) -> None:
    """One row of keys float32 [n_heads * head_dim] into [head, panel, step, key of the panel, 2].

    position: of the key. n_positions: of the packed array, a multiple of 32. source, keys: addresses.
    """
    panel, column = position // TILE_COLUMNS, position % TILE_COLUMNS
    rounded = np.empty(16, np.uint16)
    for head in range(n_heads):
        base = keys + 2 * ((head * n_positions + panel * TILE_COLUMNS) * head_dim + STEP * column)
        for at in range(0, head_dim, 16):
            place = address(rounded)  # inside: numba frees an array behind its last use
            simd.store_bf16(place, simd.load_f32(source + 4 * (head * head_dim + at)))
            for step in range(8):
                simd.copy_i32(base + 2 * PANEL * (at // 2 + step), place + 4 * step)


@kernel
def pack_values(
    even: int, odd: int, n_heads: int, head_dim: int, position: int, n_positions: int, values: int
) -> None:
    """Two rows of values into [head, panel of 32 dimensions, pair of positions, dimension, 2].

    Args:
        even, odd: addresses of float32 [n_heads * head_dim]; odd is 0 where there is no second row.
        position: of the first row, even. n_positions: of the packed array, a multiple of 32.
    """
    zero = simd.splat(np.float32(0.0))
    n_panels = (head_dim + TILE_COLUMNS - 1) // TILE_COLUMNS
    for head in range(n_heads):
        for at in range(0, head_dim, 16):
            panel, column = at // TILE_COLUMNS, at % TILE_COLUMNS
            place = (head * n_panels + panel) * n_positions * TILE_COLUMNS
            place = values + 2 * (place + position * TILE_COLUMNS + STEP * column)
            first = simd.load_f32(even + 4 * (head * head_dim + at))
            if odd != 0:
                simd.store_bf16_pairs(place, first, simd.load_f32(odd + 4 * (head * head_dim + at)))
            else:
                simd.store_bf16_pairs(place, first, zero)


@kernel
def attend(
    queries: int, query_stride: int, n_rows: int, keys: int, values: int, bias: int, n_positions: int,
    n_heads: int, head_dim: int, scores: F32Array, weights: U16Array, out: int, out_stride: int,
) -> None:  # fmt: skip
    """Attention of a block of rows over all positions.

    Args:
        queries: address of bfloat16 rows, query_stride bytes apart; read up to a multiple of 12 rows.
        keys, values: addresses of the packed arrays.
        bias: address of float32 [n_positions], added to every row of scores (-1e30 for padding).
        scores, weights: float32 and uint16 [12 * n_positions], scratch.
        out: address of float32 rows, out_stride bytes apart; written up to a multiple of 12 rows, and
            up to 31 columns past the last head.
    """
    n_panels = (head_dim + TILE_COLUMNS - 1) // TILE_COLUMNS
    sums = np.empty(TILE_ROWS, np.float32)
    zeros = np.zeros(TILE_COLUMNS, np.float32)
    for head in range(n_heads):
        key_base = keys + 2 * head * n_positions * head_dim
        value_base = values + 2 * head * n_panels * n_positions * TILE_COLUMNS
        for row in range(0, n_rows, TILE_ROWS):
            left = queries + row * query_stride + 2 * head * head_dim
            for column in range(0, n_positions, TILE_COLUMNS):
                right = key_base + 2 * column * head_dim
                bf16_tile(
                    left, query_stride, right, head_dim // STEP,
                    address(scores) + 4 * column, 4 * n_positions, right, bias + 4 * column,
                )  # fmt: skip
            for line in range(TILE_ROWS):
                place = line * n_positions
                sums[line] = softmax_row(
                    address(scores) + 4 * place, n_positions, address(weights) + 2 * place
                )
            target = out + row * out_stride + 4 * head * head_dim
            for panel in range(n_panels):
                right = value_base + 2 * panel * n_positions * TILE_COLUMNS
                bf16_tile(
                    address(weights), 2 * n_positions, right, n_positions // STEP,
                    target + 4 * panel * TILE_COLUMNS, out_stride, right, address(zeros),
                )  # fmt: skip
            for line in range(TILE_ROWS):
                scale_row(target + line * out_stride, head_dim, np.float32(1.0) / sums[line])
