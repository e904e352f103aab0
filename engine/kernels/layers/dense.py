"""Linear layers over rows: quantise each row, multiply, and convert the sums to float32.

Every row has its own scale (its smallest and largest value are mapped to 0 and 255), so a row's result
depends only on that row: it is the same in any batch, at any place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.layers.by_unit import FEWEST_ROWS, multiply_by_unit, unit_multiplies
from engine.kernels.vector import simd
from engine.kernels.vector.gemm import (
    TILE_COLUMNS,
    TILE_ROWS,
    bf16_tile,
    int8_tile,
    int8_tile_1,
    int8_tile_2,
    int8_tile_4,
    int8_tile_6,
    int8_tile_8,
    int8_tile_alone,
)
from engine.kernels.vector.ordered_tile import (
    ORDER_BYTES,
    ORDERED_COLUMNS,
    ORDERED_ROWS,
    ordered_tile,
    ordered_tile_1,
    ordered_tile_2,
    ordered_tile_3,
    ordered_tile_4,
)

INT8, BF16 = 0, 1
ELEMENT_BYTES = (1, 2)
COLUMN_BYTES = 4 * 16
_LEVELS = np.float32(255.0)
_SMALLEST_SPAN = np.float32(1e-20)
F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]
I32Array = NDArray[np.int32]
NO_ORDER = np.zeros(0, np.int32)


class DenseFields(NamedTuple):
    """The fields of a packed layer: plain numbers, which cost a call nothing to pass.

    Attributes:
        kind: INT8 or BF16.
        n_in, n_out: of the layer; padded: columns with the padding.
        weight: address of bytes [n_panels * n_in * 32 * element size], panels of 32 columns, in steps of
            four bytes.
        scale, column_sum, bias: addresses of float32 [padded]; column_sum is already multiplied by scale
            (int8 only).
        any_codes: 1 for int8 weights that are not pair-safe (engine.runtime.pair_safe), else 0.
        order: address of int32 [panels of 16 columns, 1 + n_in / 4] where the weight lies in such panels
            (engine.kernels.layers.order), else 0.
    """

    kind: int
    n_in: int
    n_out: int
    padded: int
    weight: int
    scale: int
    column_sum: int
    bias: int
    any_codes: int
    order: int


class Dense(DenseFields):
    """A packed layer that owns its arrays; columns are padded with zeros to a multiple of 32.

    Attributes:
        arrays: weight uint8, scale, column_sum and bias float32, which the addresses point into.
        steps: int32, the order; empty where there is none.
    """

    arrays: tuple[U8Array, F32Array, F32Array, F32Array]
    steps: I32Array

    @staticmethod
    def of(
        kind: int,
        n_in: int,
        n_out: int,
        weight: U8Array,
        scale: F32Array,
        column_sum: F32Array,
        bias: F32Array,
        any_codes: bool = False,
        steps: I32Array = NO_ORDER,
    ) -> Dense:  # fmt: skip
        """A layer over arrays of len(bias) padded columns."""
        arrays = (weight, scale, column_sum, bias)
        numbers = [kind, n_in, n_out, len(bias), *(array.ctypes.data for array in arrays), int(any_codes)]
        numbers.append(steps.ctypes.data if steps.size else 0)
        layer = Dense(*numbers)
        layer.arrays, layer.steps = arrays, steps
        return layer


@kernel
def quantize_row(source: int, n: int, target: int) -> tuple[np.float32, np.float32]:
    """Round n floats (a multiple of 16) to bytes; returns the scale and minus scale times zero point.

    source, target: addresses of float32 [n] and uint8 [n].
    """
    low = simd.splat(np.float32(0.0))
    high = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        value = simd.load_f32(source + 4 * at)
        low = simd.minimum(value, low)
        high = simd.maximum(value, high)
    smallest = simd.min_lanes(low)
    span = max(simd.max_lanes(high) - smallest, _SMALLEST_SPAN)
    scale = span / _LEVELS
    inverse = _LEVELS / span
    zero = np.float32(np.rint(-smallest * inverse))
    factor = simd.splat(inverse)
    shift = simd.splat(zero + np.float32(0.5))
    top = simd.splat(np.float32(255.5))
    for at in range(0, n, 16):
        value = simd.fma(simd.load_f32(source + 4 * at), factor, shift)
        simd.store_u8(target + at, simd.minimum(value, top))
    return scale, -scale * zero


@kernel
def round_row(source: int, n: int, target: int) -> None:
    """Round n floats (a multiple of 16) to bfloat16. source, target: addresses."""
    for at in range(0, n, 16):
        simd.store_bf16(target + 2 * at, simd.load_f32(source + 4 * at))


@kernel
def prepare_rows(
    kind: int, source: int, stride: int, n_rows: int, n_in: int,
    target: int, scale: F32Array, offset: F32Array,
) -> None:  # fmt: skip
    """Convert rows of floats to what a tile reads: bytes with scale and offset, or bfloat16.

    Args:
        source: address of float32 rows, stride bytes apart.
        target: address of n_rows * n_in elements.
        scale, offset: float32 [n_rows] or more; written for int8.
    """
    for row in range(n_rows):
        if kind == INT8:
            scale[row], offset[row] = quantize_row(source + row * stride, n_in, target + row * n_in)
        else:
            round_row(source + row * stride, n_in, target + 2 * row * n_in)


@kernel
def multiply_rows(
    layer: Dense, rows: int, row_stride: int, n_rows: int, scale: F32Array, offset: F32Array,
    out: int, out_stride: int,
) -> None:  # fmt: skip
    """Multiply prepared rows by a packed layer.

    Args:
        rows: address of the rows, row_stride bytes apart (they may overlap); memory after them is read
            up to a multiple of 12 rows.
        out: address of float32 rows, out_stride bytes apart; written up to a multiple of 12 rows and
            layer.padded columns.
    """
    if layer.order != 0:
        multiply_ordered(layer, rows, row_stride, n_rows, address(scale), address(offset), out, out_stride)
        return
    n_bytes = layer.n_in * (1 if layer.kind == INT8 else 2)
    if layer.kind == INT8 and n_rows >= FEWEST_ROWS and unit_multiplies(n_bytes):
        multiply_by_unit(
            rows, row_stride, n_rows, address(scale), address(offset), layer.weight, n_bytes, layer.padded,
            layer.scale, layer.column_sum, layer.bias, out, out_stride,
        )  # fmt: skip
        return
    weight, scales, sums, bias = layer.weight, layer.scale, layer.column_sum, layer.bias
    for panel in range(layer.padded // TILE_COLUMNS):
        right = weight + panel * TILE_COLUMNS * n_bytes
        following = right + TILE_COLUMNS * n_bytes
        column = 4 * TILE_COLUMNS * panel
        for row in range(0, n_rows, TILE_ROWS):
            left, target = rows + row * row_stride, out + row * out_stride + column
            ahead = following + row // TILE_ROWS * 8 * n_bytes
            if layer.kind != INT8:
                bf16_tile(left, row_stride, right, n_bytes // 4, target, out_stride, ahead, bias + column)
                continue
            rates, shifts = scale.ctypes.data + 4 * row, offset.ctypes.data + 4 * row
            if 8 < n_rows <= TILE_ROWS:
                int8_tile_alone(
                    left, row_stride, right, n_bytes // 4, target, out_stride, ahead,
                    rates, shifts, scales + column, sums + column, bias + column, layer.any_codes,
                )  # fmt: skip
                continue
            multiply_tile(
                n_rows - row, left, row_stride, right, n_bytes // 4, target, out_stride, ahead,
                rates, shifts, scales + column, sums + column, bias + column, layer.any_codes,
            )  # fmt: skip


@inner
def multiply_ordered(
    layer: Dense, rows: int, row_stride: int, n_rows: int, row_scale: int, row_offset: int,
    out: int, out_stride: int,
) -> None:  # fmt: skip
    """multiply_rows of an ordered layer; row_scale, row_offset: addresses."""
    n_steps, size = layer.n_in // 4, ORDERED_COLUMNS * layer.n_in
    for panel in range(layer.padded // TILE_COLUMNS):
        ahead = layer.weight + 2 * (panel + 1) * size
        for block in range(0, n_rows, TILE_ROWS):  # their bytes and the panel's fit the first-level cache
            for part in range(2 * panel, 2 * panel + 2):
                column, right = 4 * ORDERED_COLUMNS * part, layer.weight + size * part
                order = layer.order + ORDER_BYTES * (1 + n_steps) * part
                row = block
                if n_rows <= TILE_ROWS:
                    row = multiply_first(
                        n_rows, rows, row_stride, right, n_steps, out + column, out_stride, right + 2 * size,
                        row_scale, row_offset, layer.scale + column, layer.column_sum + column,
                        layer.bias + column, order,
                    )  # fmt: skip
                while row < min(block + TILE_ROWS, n_rows):
                    ordered_tile(
                        rows + row * row_stride, row_stride, right, n_steps, out + row * out_stride + column,
                        out_stride, ahead, row_scale + 4 * row, row_offset + 4 * row, layer.scale + column,
                        layer.column_sum + column, layer.bias + column, order,
                    )  # fmt: skip
                    ahead += layer.n_in
                    row += ORDERED_ROWS


@inner
def multiply_first(
    n_rows: int, left: int, row_stride: int, right: int, n_steps: int, out: int, out_stride: int, ahead: int,
    row_scale: int, row_offset: int, column_scale: int, column_sum: int, bias: int, order: int,
) -> int:  # fmt: skip
    """The first of a few rows, so many that tiles of three cover the others; returns how many."""
    count = n_rows if n_rows < 3 else (n_rows - 2) % 3 + 2
    if count == 1:
        ordered_tile_1(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, order,
        )  # fmt: skip
    elif count == 2:
        ordered_tile_2(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, order,
        )  # fmt: skip
    elif count == 3:
        ordered_tile_3(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, order,
        )  # fmt: skip
    else:
        ordered_tile_4(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, order,
        )  # fmt: skip
    return count


@inner
def multiply_tile(
    n_rows: int, left: int, row_stride: int, right: int, n_steps: int, out: int, out_stride: int, ahead: int,
    row_scale: int, row_offset: int, column_scale: int, column_sum: int, bias: int,
    any_codes: int,
) -> None:  # fmt: skip
    """The narrowest integer tile that covers n_rows, at most 12; see engine.kernels.vector.gemm."""
    if n_rows > 8:
        int8_tile(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, any_codes,
        )  # fmt: skip
    elif n_rows > 6:
        int8_tile_8(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, any_codes,
        )  # fmt: skip
    elif n_rows > 4:
        int8_tile_6(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, any_codes,
        )  # fmt: skip
    elif n_rows > 2:
        int8_tile_4(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, any_codes,
        )  # fmt: skip
    elif n_rows == 2:
        int8_tile_2(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, any_codes,
        )  # fmt: skip
    else:
        int8_tile_1(
            left, row_stride, right, n_steps, out, out_stride, ahead,
            row_scale, row_offset, column_scale, column_sum, bias, any_codes,
        )  # fmt: skip


def pack_weight(weight: NDArray[np.generic], per_step: int) -> NDArray[np.generic]:
    """Order a matrix [n_in, n_out] as tiles read it: [panel, step, column, element of the step].

    n_in is a multiple of per_step (4 for int8, 2 for bfloat16); columns are padded to 32 with zeros.
    """
    n_in, n_out = weight.shape
    padded = -(-n_out // TILE_COLUMNS) * TILE_COLUMNS
    wide = np.zeros((n_in, padded), weight.dtype)
    wide[:, :n_out] = weight
    split = wide.reshape(n_in // per_step, per_step, padded // TILE_COLUMNS, TILE_COLUMNS)
    return np.ascontiguousarray(split.transpose(2, 0, 3, 1))


def to_bf16(values: F32Array) -> NDArray[np.uint16]:
    """Round to bfloat16 (nearest even), as its bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
