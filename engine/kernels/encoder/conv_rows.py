"""Strided convolutions over channels-last rows, as products over overlapping rows: nothing is copied.

In int8 every row keeps the scale that it was quantised with, so the taps of a window are summed one
by one, each with the scales of its own rows; loud and quiet frames do not share one. Where
engine.kernels.encoder.conv_pairs applies, rows are prepared in its planes instead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.encoder.conv_pairs import convolve_pairs, plane_rows, prepare_pairs
from engine.kernels.encoder.layer import BLOCK_ROWS, Norm
from engine.kernels.layers.by_unit import unit_multiplies
from engine.kernels.layers.dense import BF16, INT8, Dense, multiply_rows, prepare_rows
from engine.kernels.layers.rows import copy_row, gelu_row, normalize_row
from engine.kernels.vector.gemm import (
    TILE_COLUMNS,
    TILE_ROWS,
    f32_tile,
    int8_tile,
    int8_tile_add,
)
from engine.kernels.vector.matrix_unit import close_matrix_unit, open_matrix_unit
from engine.kernels.vector.unit_tile import UNIT_ROWS, unit_tile, unit_tile_add

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]
MAX_WIDTH = 8  # taps of an integer convolution
PAIRED = 2  # how rows are prepared: INT8, BF16, or in int8 for conv_pairs


class Conv(NamedTuple):
    """A convolution, packed.

    Attributes:
        width, stride: in rows. has_norm: a layer norm over the channels follows.
        kind: how its input rows are prepared.
        dense: its weights [width * n_channels, n_out], tap by tap; n_out is a multiple of 32. Where
            PAIRED: the four matrices of conv_pairs.
        tap_sums: float32 [width or 4, n_out], the column sums of each matrix, times its scale.
        middle_scale: float32 [n_out] where PAIRED, of w0 + w2.
    """

    width: int
    stride: int
    n_channels: int
    kind: int
    dense: Dense
    tap_sums: F32Array
    middle_scale: F32Array
    has_norm: bool
    norm: Norm


class FirstConv(NamedTuple):
    """The convolution over the waveform, in float32: weight [panel, width, 32], bias [n_out]."""

    width: int
    stride: int
    n_out: int
    weight: F32Array
    bias: F32Array
    has_norm: bool
    norm: Norm


class ConvBuffers(NamedTuple):
    """Scratch of one thread.

    Attributes:
        first, second: bytes of the rows between two convolutions, in turn; with slack behind.
        first_scale, first_offset, second_scale, second_offset: float32, a value a row.
        tap_scale, tap_offset: float32 [MAX_WIDTH, BLOCK_ROWS + 12].
        block: float32 [BLOCK_ROWS + 12, n_channels]. edge: float32 [2, n_channels].
    """

    first: U8Array
    second: U8Array
    first_scale: F32Array
    first_offset: F32Array
    second_scale: F32Array
    second_offset: F32Array
    tap_scale: F32Array
    tap_offset: F32Array
    block: F32Array
    edge: F32Array


@kernel
def convolve_block(
    conv: Conv, rows: int, scale: F32Array, offset: F32Array, start: int, n_rows: int,
    buffers: ConvBuffers, out: int, out_stride: int,
) -> None:  # fmt: skip
    """Output rows start to start + n_rows (at most BLOCK_ROWS) of a convolution.

    Args:
        rows: address of the prepared input rows; scale, offset: theirs (int8).
        out: address of float32 rows, written up to a multiple of 12 of them.
    """
    size = 1 if conv.dense.kind == INT8 else 2
    row_bytes = conv.n_channels * size
    first = rows + start * conv.stride * row_bytes
    if conv.dense.kind != INT8:
        step = conv.stride * row_bytes
        multiply_rows(conv.dense, first, step, n_rows, scale, offset, out, out_stride)
        return
    for tap in range(conv.width):
        for row in range(n_rows):
            at = (start + row) * conv.stride + tap
            buffers.tap_scale[tap, row] = scale[at]
            buffers.tap_offset[tap, row] = offset[at]
    scales, sums = address(buffers.tap_scale), address(buffers.tap_offset)
    tap_stride, n_out = buffers.tap_scale.strides[0], conv.dense.padded
    weight, bias = conv.dense.weight, conv.dense.bias
    factors, totals = conv.dense.scale, address(conv.tap_sums)
    if unit_multiplies(row_bytes):
        add_taps_by_unit(
            conv.width, first, conv.stride, row_bytes, n_rows, scales, sums, tap_stride, weight, n_out,
            factors, totals, bias, out, out_stride,
        )  # fmt: skip
        return
    for panel in range(n_out // TILE_COLUMNS):
        column = 4 * TILE_COLUMNS * panel
        for row in range(0, n_rows, TILE_ROWS):
            target = out + row * out_stride + column
            for tap in range(conv.width):
                left = first + (row * conv.stride + tap) * row_bytes
                right = weight + (panel * conv.width + tap) * TILE_COLUMNS * row_bytes
                ahead = right + (4 * conv.width + row // TILE_ROWS) * 8 * row_bytes
                rates, shifts = scales + tap * tap_stride + 4 * row, sums + tap * tap_stride + 4 * row
                if tap == 0:
                    int8_tile(
                        left, conv.stride * row_bytes, right, row_bytes // 4, target, out_stride, ahead,
                        rates, shifts, factors + column, totals + column, bias + column,
                        conv.dense.any_codes,
                    )  # fmt: skip
                else:
                    int8_tile_add(
                        left, conv.stride * row_bytes, right, row_bytes // 4, target, out_stride, ahead,
                        rates, shifts, factors + column, totals + 4 * tap * n_out + column, bias + column,
                        conv.dense.any_codes,
                    )  # fmt: skip


@inner
def add_taps_by_unit(
    width: int, rows: int, stride: int, row_bytes: int, n_rows: int, row_scale: int, row_offset: int,
    tap_stride: int, weight: int, n_out: int, column_scale: int, sums: int, bias: int,
    out: int, out_stride: int,
) -> None:  # fmt: skip
    """A convolution in int8 by a matrix unit, tap by tap; all but sizes and strides are addresses.

    Args:
        rows: of the first output. stride: of the convolution, rows. tap_stride: bytes from the scales of a
            tap's rows to those of the next one's.
    """
    open_matrix_unit()
    step = stride * row_bytes
    for panel in range(n_out // TILE_COLUMNS):
        column = 4 * TILE_COLUMNS * panel
        for row in range(0, n_rows, UNIT_ROWS):
            target = out + row * out_stride + column
            for tap in range(width):
                left = rows + row * step + tap * row_bytes
                right = weight + (panel * width + tap) * TILE_COLUMNS * row_bytes
                ahead = right + (4 * width + row // TILE_ROWS) * 8 * row_bytes
                rates, shifts = (
                    row_scale + tap * tap_stride + 4 * row,
                    row_offset + tap * tap_stride + 4 * row,
                )
                if tap == 0:
                    unit_tile(
                        n_rows - row, left, step, right, row_bytes // 4, target, out_stride, ahead, rates,
                        shifts, column_scale + column, sums + column, bias + column,
                    )  # fmt: skip
                else:
                    unit_tile_add(
                        n_rows - row, left, step, right, row_bytes // 4, target, out_stride, ahead, rates,
                        shifts, column_scale + column, sums + 4 * tap * n_out + column, bias + column,
                    )  # fmt: skip
    close_matrix_unit()


@kernel
def convolve_pair_block(
    conv: Conv, rows: U8Array, scale: F32Array, offset: F32Array, start: int, n_rows: int, total: int,
    out: int, out_stride: int,
) -> None:  # fmt: skip
    """As convolve_block, where PAIRED; start is even, total all output rows that the planes were made for."""
    plane = plane_rows((total - 1) * conv.stride + conv.width)
    convolve_pairs(
        address(rows), conv.n_channels, plane, address(scale), address(offset), start // 2,
        (n_rows + 1) // 2, conv.dense.padded, conv.dense.weight, conv.dense.scale,
        address(conv.middle_scale), address(conv.tap_sums), conv.dense.bias, out, out_stride,
        conv.dense.any_codes,
    )  # fmt: skip


@kernel
def prepare_block(
    kind: int, start: int, n_rows: int, total: int, n: int, rows: U8Array, scale: F32Array,
    offset: F32Array, buffers: ConvBuffers,
) -> None:  # fmt: skip
    """Rows start to start + n_rows of total, from the block, for a convolution that takes them as kind."""
    block, stride = address(buffers.block), buffers.block.strides[0]
    target = address(rows)
    if kind == PAIRED:
        edge, plane = address(buffers.edge), plane_rows(total)
        prepare_pairs(block, stride, start, n_rows, n, edge, plane, target, scale, offset)
    else:
        target += start * n * (2 if kind == BF16 else 1)
        prepare_rows(kind, block, stride, n_rows, n, target, scale[start:], offset[start:])


@inner
def activate_block(
    has_norm: bool, norm: Norm, block: int, stride: int, n_rows: int, n_channels: int
) -> None:  # fmt: skip
    """Layer norm (where there is one) and GELU of float32 rows, in place."""
    for row in range(n_rows):
        place = block + row * stride
        if has_norm:
            weight, bias = address(norm.weight), address(norm.bias)
            normalize_row(place, n_channels, weight, bias, norm.epsilon, place)
        gelu_row(place, n_channels)


@inner
def start_rows(
    conv: FirstConv, waveform: F32Array, start: int, n_rows: int, kind: int,
    rows: U8Array, scale: F32Array, offset: F32Array, buffers: ConvBuffers,
) -> None:  # fmt: skip
    """The first convolution's rows start to start + n_rows, activated and prepared for the next one.

    waveform is followed by slack for 12 more rows.
    """
    stride = buffers.block.strides[0]
    block = address(buffers.block)
    weight, bias = address(conv.weight), address(conv.bias)
    for at in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - at)
        for panel in range(conv.n_out // TILE_COLUMNS):
            column = 4 * TILE_COLUMNS * panel
            for row in range(0, count, TILE_ROWS):
                left = address(waveform) + 4 * conv.stride * (start + at + row)
                right = weight + column * conv.width
                f32_tile(
                    left, 4 * conv.stride, right, conv.width,
                    block + row * stride + column, stride, right, bias + column,
                )  # fmt: skip
        activate_block(conv.has_norm, conv.norm, block, stride, count, conv.n_out)
        prepare_block(kind, at, count, n_rows, conv.n_out, rows, scale, offset, buffers)


@kernel
def convolve_rows(
    conv: Conv, rows: U8Array, scale: F32Array, offset: F32Array, n_rows: int, kind: int,
    next_rows: U8Array, next_scale: F32Array, next_offset: F32Array, buffers: ConvBuffers,
) -> None:  # fmt: skip
    """All n_rows output rows of a convolution, activated and prepared for the next one."""
    stride, n_out = buffers.block.strides[0], conv.dense.padded
    block = address(buffers.block)
    for at in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - at)
        if conv.kind == PAIRED:
            convolve_pair_block(conv, rows, scale, offset, at, count, n_rows, block, stride)
        else:
            convolve_block(conv, address(rows), scale, offset, at, count, buffers, block, stride)
        activate_block(conv.has_norm, conv.norm, block, stride, count, n_out)
        prepare_block(kind, at, count, n_rows, n_out, next_rows, next_scale, next_offset, buffers)


@kernel
def convolve_last(
    conv: Conv, rows: U8Array, scale: F32Array, offset: F32Array, n_rows: int, out: int, buffers: ConvBuffers
) -> None:
    """All rows of the last convolution, activated, as float32 rows at the address out."""
    stride, n_out = buffers.block.strides[0], conv.dense.padded
    block = address(buffers.block)
    for at in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - at)
        convolve_block(conv, address(rows), scale, offset, at, count, buffers, block, stride)
        activate_block(conv.has_norm, conv.norm, block, stride, count, n_out)
        for row in range(count):
            copy_row(block + row * stride, n_out, out + 4 * n_out * (at + row))
