"""Integer convolutions of three taps and stride 2, two outputs at a time by five products instead of six.

With even input rows e and odd ones o, two neighbouring outputs are

    y0 = w0 e0 + w1 o0 + w2 e1 = w1 o0 + w0 (e0 - e1) + (w0 + w2) e1
    y1 = w0 e1 + w1 o1 + w2 e2 = w1 o1 + w2 (e2 - e1) + (w0 + w2) e1

so the product with w0 + w2 serves both. Differences are taken in float32 and quantised like any row, w0 + w2
like any column. Prepared rows lie in five planes, a row a pair of outputs: o0, o1, e0 - e1, e2 - e1, e1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import inner, kernel
from engine.kernels.layers.by_unit import unit_multiplies
from engine.kernels.layers.dense import quantize_row
from engine.kernels.layers.rows import copy_row
from engine.kernels.vector import simd
from engine.kernels.vector.gemm import (
    TILE_COLUMNS,
    TILE_ROWS,
    int8_tile_add,
    int8_tile_twice,
)
from engine.kernels.vector.matrix_unit import close_matrix_unit, open_matrix_unit
from engine.kernels.vector.unit_tile import UNIT_ROWS, unit_tile_add, unit_tile_twice

PAIR_WIDTH, PAIR_STRIDE = 3, 2
PLANES, MIDDLE = 5, 4
MATRICES = 4  # w1, w0, w2, w0 + w2
ROWS_A_PAIR = 2 * PAIR_STRIDE
F32Array = NDArray[np.float32]


@kernel
def plane_rows(n_rows: int) -> int:
    """Rows of a plane for so many input rows: the pairs of outputs, and the slack that tiles read."""
    return (n_rows + 1) // ROWS_A_PAIR + TILE_ROWS


@inner
def subtract_row(left: int, right: int, n: int, target: int) -> None:
    """target = left - right; addresses of float32 [n], n a multiple of 16."""
    for at in range(0, n, 16):
        value = simd.subtract(simd.load_f32(left + 4 * at), simd.load_f32(right + 4 * at))
        simd.store_f32(target + 4 * at, value)


@inner
def prepare_pairs(
    block: int, stride: int, start: int, n_rows: int, n: int, edge: int, plane: int,
    target: int, scale: F32Array, offset: F32Array,
) -> None:  # fmt: skip
    """Input rows start to start + n_rows, float32 [n_rows, n] at the address block, to their planes.

    Blocks come in order; all but the last have a multiple of 4 rows.

    Args:
        edge: address of float32 [2, n]: the last even row of the block before, and a difference.
        plane: rows of a plane. target: address of bytes [5, plane, n]. scale, offset: float32 [5 * plane].
    """
    for row in range(n_rows):
        place, pair, phase = block + row * stride, (start + row) // ROWS_A_PAIR, (start + row) % ROWS_A_PAIR
        if phase % 2 == 1:
            at = phase // 2 * plane + pair
            scale[at], offset[at] = quantize_row(place, n, target + at * n)
            continue
        if phase == 2:
            at = MIDDLE * plane + pair
            scale[at], offset[at] = quantize_row(place, n, target + at * n)
            subtract_row(place - 2 * stride, place, n, edge + 4 * n)
            at = 2 * plane + pair
        else:
            if start + row == 0:
                continue
            subtract_row(place, edge if row == 0 else place - 2 * stride, n, edge + 4 * n)
            at = 3 * plane + pair - 1
        scale[at], offset[at] = quantize_row(edge + 4 * n, n, target + at * n)
    if n_rows % ROWS_A_PAIR == 0 and n_rows:
        copy_row(block + (n_rows - 2) * stride, n, edge)


@inner
def convolve_pairs(
    rows: int, n: int, plane: int, scale: int, offset: int, start: int, n_pairs: int, n_out: int,
    weight: int, column_scale: int, middle_scale: int, sums: int, bias: int, out: int, out_stride: int,
    any_codes: int,
) -> None:  # fmt: skip
    """Pairs of outputs start to start + n_pairs.

    Args:
        rows, scale, offset: addresses of the planes, plane rows of n bytes each, and of their floats.
        weight: address of the matrices w1, w0, w2, w0 + w2 in panels of 32 columns.
        column_scale, middle_scale, bias: addresses of float32 [n_out]; the second is of w0 + w2.
        sums: address of float32 [4, n_out], the matrices' column sums times the scale.
        out: address of float32 rows, written up to a multiple of 24 of them.
    """
    if unit_multiplies(n):
        convolve_pairs_by_unit(
            rows, n, plane, scale, offset, start, n_pairs, n_out, weight, column_scale, middle_scale, sums,
            bias, out, out_stride,
        )  # fmt: skip
        return
    matrix, steps = n * TILE_COLUMNS, n // 4
    for panel in range(n_out // TILE_COLUMNS):
        column, right = 4 * TILE_COLUMNS * panel, weight + MATRICES * matrix * panel
        for pair in range(0, n_pairs, TILE_ROWS):
            target = out + 2 * pair * out_stride + column
            ahead = right + MATRICES * matrix + pair * 2 * PLANES * n // 3
            at = MIDDLE * plane + start + pair
            int8_tile_twice(
                rows + at * n, n, right + (MATRICES - 1) * matrix, steps, target, 2 * out_stride, ahead,
                scale + 4 * at, offset + 4 * at, middle_scale + column,
                sums + 4 * (MATRICES - 1) * n_out + column, bias + column, any_codes,
            )  # fmt: skip
            for slot in range(MIDDLE):
                at = slot * plane + start + pair
                index = max(slot - 1, 0)
                int8_tile_add(
                    rows + at * n, n, right + index * matrix, steps, target + slot % 2 * out_stride,
                    2 * out_stride, ahead + (slot + 1) * 8 * n, scale + 4 * at, offset + 4 * at,
                    column_scale + column, sums + 4 * index * n_out + column, bias + column,
                    any_codes,
                )  # fmt: skip


@inner
def convolve_pairs_by_unit(
    rows: int, n: int, plane: int, scale: int, offset: int, start: int, n_pairs: int, n_out: int,
    weight: int, column_scale: int, middle_scale: int, sums: int, bias: int, out: int, out_stride: int,
) -> None:  # fmt: skip
    """The same by a matrix unit; n is a multiple of 64."""
    open_matrix_unit()
    matrix, steps = n * TILE_COLUMNS, n // 4
    for panel in range(n_out // TILE_COLUMNS):
        column, right = 4 * TILE_COLUMNS * panel, weight + MATRICES * matrix * panel
        for pair in range(0, n_pairs, UNIT_ROWS):
            target = out + 2 * pair * out_stride + column
            ahead = right + MATRICES * matrix + pair * 2 * PLANES * n // 3
            at = MIDDLE * plane + start + pair
            unit_tile_twice(
                n_pairs - pair, rows + at * n, n, right + (MATRICES - 1) * matrix, steps, target,
                2 * out_stride, ahead, scale + 4 * at, offset + 4 * at, middle_scale + column,
                sums + 4 * (MATRICES - 1) * n_out + column, bias + column,
            )  # fmt: skip
            for slot in range(MIDDLE):
                at = slot * plane + start + pair
                index = max(slot - 1, 0)
                unit_tile_add(
                    n_pairs - pair, rows + at * n, n, right + index * matrix, steps,
                    target + slot % 2 * out_stride, 2 * out_stride, ahead + (slot + 1) * 16 * n,
                    scale + 4 * at, offset + 4 * at, column_scale + column, sums + 4 * index * n_out + column,
                    bias + column,
                )  # fmt: skip
    close_matrix_unit()
