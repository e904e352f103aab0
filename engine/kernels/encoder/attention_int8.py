"""Self-attention over one utterance in int8: both products in whole numbers, softmax in float32.

Every query, key and value has a scale of its own for each head, so a row depends on nothing but itself.
Positions are taken in segments. A segment's weights are rounded to 255 steps of the largest among them,
not of the largest of the whole row: a long tail of small weights keeps its mass wherever its segment
holds nothing large. The scale of a value is part of its weight before the rounding, so that what is
lost counts the same for quiet and loud values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.vector import simd, simd_int8
from engine.kernels.vector.attention_tiles import mix_tile, score_tile
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS

F32Array = NDArray[np.float32]
STEP = 4  # int8 elements a step of a tile
PANEL = STEP * TILE_COLUMNS
SEGMENT = 128  # positions: what a head's scores, keys and values take fits the first-level cache
CODE_OFFSET = 128  # queries are unsigned
LOG2_E = np.float32(1.4426950408889634)
_TOP_CODE = np.float32(127.0)
_LOG_TOP_CODE = np.float32(6.988684686772166)
_LOG_LEVELS = np.float32(7.994353436858858)  # log2 of 255
_SMALLEST = np.float32(1e-12)  # zeros too get a scale; far enough from the largest for float32
_LARGEST_SCALE = np.float32(1e10)  # products of two and a sum of codes stay far below the score of padding
_LOWEST = np.float32(-3e38)
# A thread's work memory, in floats.
_ROW = 16
_SCORES = 0
_WEIGHTS = _SCORES + TILE_ROWS * SEGMENT
_TOPS = _WEIGHTS + 2 * TILE_ROWS * SEGMENT // 4
_WEIGHT_PLANE = TILE_ROWS * SEGMENT
_TOTALS = _TOPS + TILE_ROWS * _ROW
_HIGHEST = _TOTALS + TILE_ROWS * _ROW
_BASE = _HIGHEST + _ROW
_OLD = _BASE + _ROW
_NEW = _OLD + _ROW
WORK_FLOATS = _NEW + _ROW


class Int8Rows(NamedTuple):
    """Queries, keys and values of one utterance; all positions of a head lie together.

    Attributes:
        queries: uint8 [2 * (n_rows + 12), d], 128 more than the code; the second half is for a second plane
            (simd_int8.store_row_codes).
        keys: int8 [head, panel of 32 positions, step, position, 4].
        values: int8 [head, panel of 32 dimensions, four positions, dimension, 4].
        query_scale: float32 [n_heads, n_rows + 12], with the factor 1 / sqrt(head_dim) and log2(e).
        key_scale: float32 [n_heads, n_positions].
        key_start: int32 [n_heads, n_positions], -128 times the sum of a key's codes.
        value_log: float32 [n_heads, n_positions]: log2 of a value's scale, and log2(e) times its bias;
            -1e30 for padding. value_rate: float32 [n_heads, n_positions], 1 / scale; 0 for padding.
    """

    queries: NDArray[np.uint8]
    keys: NDArray[np.int8]
    values: NDArray[np.int8]
    query_scale: F32Array
    key_scale: F32Array
    key_start: NDArray[np.int32]
    value_log: F32Array
    value_rate: F32Array


@inner
def largest_magnitude(source: int, n: int) -> Any:
    """Of float32 [n] at an address, n a multiple of 16; at least 1e-12."""
    top = simd.splat(_SMALLEST)
    for at in range(0, n, 16):
        top = simd_int8.magnitude(simd.load_f32(source + 4 * at), top)
    return simd.max_lanes(top)


@kernel
def quantize_queries(
    source: int, stride: int, n_rows: int, n_heads: int, head_dim: int, first: int, rows: Int8Rows
) -> None:
    """Queries of the positions from `first` on.

    source: address of n_rows of float32 [n_heads * head_dim], stride bytes apart; so for the others.
    """
    factor = LOG2_E / np.sqrt(np.float32(head_dim)) / _TOP_CODE
    middle = simd.splat(np.float32(CODE_OFFSET))
    codes, plane = address(rows.queries), rows.queries.size // 2
    for row in range(n_rows):
        for head in range(n_heads):
            start = source + row * stride + 4 * head * head_dim
            target = codes + ((first + row) * n_heads + head) * head_dim
            top = largest_magnitude(start, head_dim)
            rate = simd.splat(_TOP_CODE / top)
            for at in range(0, head_dim, 16):
                code = simd.fma(simd.load_f32(start + 4 * at), rate, middle)
                simd_int8.store_row_codes(target + at, plane, code)
            rows.query_scale[head, first + row] = min(top * factor, _LARGEST_SCALE)


@kernel
def quantize_keys(
    source: int, stride: int, n_rows: int, n_heads: int, head_dim: int, first: int, rows: Int8Rows
) -> None:
    """Keys of the positions from `first` on."""
    n_positions = rows.key_scale.shape[1]
    keys = address(rows.keys)
    for row in range(n_rows):
        position = first + row
        panel, column = position // TILE_COLUMNS, position % TILE_COLUMNS
        for head in range(n_heads):
            start = source + row * stride + 4 * head * head_dim
            top = largest_magnitude(start, head_dim)
            target = keys + (head * n_positions + panel * TILE_COLUMNS) * head_dim + STEP * column
            total = scatter_key(start, head_dim, _TOP_CODE / top, target)
            rows.key_scale[head, position] = min(top / _TOP_CODE, _LARGEST_SCALE)
            rows.key_start[head, position] = -CODE_OFFSET * np.int32(total)


@inner
def scatter_key(source: int, n: int, rate: float, target: int) -> Any:
    """Codes of float32 [n], four by four into places a panel apart; returns their sum."""
    rates = simd.splat(np.float32(rate))
    total = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        code = simd_int8.nearest(simd.multiply(simd.load_f32(source + 4 * at), rates))
        total = simd.add(total, code)
        simd_int8.scatter_codes(target + PANEL // STEP * at, code)
    return simd.sum_lanes(total)


@kernel
def quantize_values(
    source: int, stride: int, n_rows: int, n_heads: int, head_dim: int, first: int, rows: Int8Rows
) -> None:
    """Values of the positions from `first` on, a multiple of 4; zeros up to the next multiple."""
    shift, zero = simd.splat(-_LOG_TOP_CODE), simd.splat(np.float32(0.0))
    n_positions = rows.value_log.shape[1]
    n_panels = (head_dim + TILE_COLUMNS - 1) // TILE_COLUMNS
    values = address(rows.values)
    rates = np.zeros(STEP, np.float32)
    for row in range(0, n_rows, STEP):
        for head in range(n_heads):
            start, position = source + row * stride + 4 * head * head_dim, first + row
            n = min(STEP, n_rows - row)
            rates[n:] = 0.0
            for line in range(n):
                top = simd.splat(largest_magnitude(start + line * stride, head_dim))
                logarithm = simd.add(simd_int8.log2_above(top), shift)
                rates[line] = simd_int8.first_lane(simd_int8.exp2(simd.subtract(zero, logarithm)))
                rows.value_log[head, position + line] = simd_int8.first_lane(logarithm)
                rows.value_rate[head, position + line] = rates[line]
            place = values + (head * n_panels * n_positions + position) * TILE_COLUMNS
            interleave_values(start, stride, n, head_dim, n_positions, rates, place)


@inner
def interleave_values(
    source: int, stride: int, n: int, head_dim: int, n_positions: int, rates: F32Array, target: int
) -> None:
    """Codes of n rows of values of one head; where one is missing its rate is 0, and the first is read."""
    rate0, rate1 = simd.splat(rates[0]), simd.splat(rates[1])
    rate2, rate3 = simd.splat(rates[2]), simd.splat(rates[3])
    second, third = stride if n > 1 else 0, 2 * stride if n > 2 else 0
    fourth = 3 * stride if n > 3 else 0
    for at in range(0, head_dim, 16):
        here = source + 4 * at
        panel, column = at // TILE_COLUMNS, at % TILE_COLUMNS
        simd_int8.store_code_quads(
            target + panel * n_positions * TILE_COLUMNS + STEP * column,
            simd.multiply(simd.load_f32(here), rate0),
            simd.multiply(simd.load_f32(here + second), rate1),
            simd.multiply(simd.load_f32(here + third), rate2),
            simd.multiply(simd.load_f32(here + fourth), rate3),
        )


@inner
def weigh_row(scores: int, n: int, top: int, rates: int, weights: int, total: int, new: int) -> None:
    """2^(scores - top) as bytes, and times `new` and the rates added to the 16 lanes at total.

    scores, rates, top, new: addresses of float32 [n] and of two numbers. weights: of uint8 [n].
    """
    highest = simd.subtract(simd_int8.splat_f32(top), simd.splat(_LOG_LEVELS))
    sums = simd.splat(np.float32(0.0))
    for at in range(0, n, 16):
        weight = simd_int8.exp2(simd.subtract(simd.load_f32(scores + 4 * at), highest))
        sums = simd.fma(weight, simd.load_f32(rates + 4 * at), sums)
        simd_int8.store_row_codes(weights + at, _WEIGHT_PLANE, weight)
    simd.store_f32(total, simd.fma(sums, simd_int8.splat_f32(new), simd.load_f32(total)))


@inner
def score_segment(
    queries: int, query_stride: int, head_dim: int, query_scale: int, keys: int, key_scale: int,
    key_start: int, bias: int, n: int, work: int, plane: int,
) -> None:  # fmt: skip
    """Scores of 12 rows against n positions, and the largest of each row. Addresses of the first of both."""
    lowest = simd.splat(_LOWEST)
    for line in range(TILE_ROWS):
        simd.store_f32(work + 4 * (_TOPS + _ROW * line), lowest)
    for column in range(0, n, TILE_COLUMNS):
        right, at = keys + column * head_dim, 4 * column
        score_tile(
            queries, query_stride, right, head_dim // STEP, work + 4 * _SCORES + at, 4 * SEGMENT, right,
            query_scale, key_scale + at, key_start + at, bias + at, work + 4 * _TOPS, plane,
        )  # fmt: skip


@inner
def weigh_segment(work: int, n: int, rates: int) -> None:
    """Weights of a segment, their sums, and how much the results so far and the new ones count."""
    highest = simd_int8.max_rows(work + 4 * _TOPS)
    base = simd.load_f32(work + 4 * _BASE)
    both = simd.maximum(base, highest)
    old, new = simd_int8.exp2(simd.subtract(base, both)), simd_int8.exp2(simd.subtract(highest, both))
    simd.store_f32(work + 4 * _HIGHEST, highest)
    simd.store_f32(work + 4 * _BASE, both)
    simd.store_f32(work + 4 * _OLD, old)
    simd.store_f32(work + 4 * _NEW, new)
    for line in range(TILE_ROWS):
        total = work + 4 * (_TOTALS + _ROW * line)
        before = simd_int8.splat_f32(work + 4 * (_OLD + line))
        simd.store_f32(total, simd.multiply(simd.load_f32(total), before))
        weigh_row(
            work + 4 * (_SCORES + SEGMENT * line), n, work + 4 * (_HIGHEST + line), rates,
            work + 4 * _WEIGHTS + SEGMENT * line, total, work + 4 * (_NEW + line),
        )  # fmt: skip


@inner
def divide_by_totals(work: int) -> None:
    """The factors of the last segment also divide by the sums of all weights."""
    rate = simd_int8.reciprocal(simd_int8.sum_rows(work + 4 * _TOTALS))
    for place in (_OLD, _NEW):
        at = work + 4 * place
        simd.store_f32(at, simd.multiply(simd.load_f32(at), rate))


@kernel
def attend_int8(
    rows: Int8Rows, first: int, n_rows: int, n_heads: int, head_dim: int,
    work: int, out: int, out_stride: int,
) -> None:  # fmt: skip
    """Attention of a block of rows, from the row `first` on, over all positions.

    Args:
        work: address of WORK_FLOATS floats, scratch.
        out: address of float32 rows, out_stride bytes apart; written up to a multiple of 12 rows, and
            up to 31 columns past the last head.
    """
    d, n_positions, n_query_scales = n_heads * head_dim, rows.key_scale.shape[1], rows.query_scale.shape[1]
    n_panels = (head_dim + TILE_COLUMNS - 1) // TILE_COLUMNS
    # Bare addresses: to hand arrays over would count their references up and down at every call.
    queries, query_scale = address(rows.queries) + first * d, address(rows.query_scale) + 4 * first
    keys, key_scale, key_start = (
        address(rows.keys), address(rows.key_scale), address(rows.key_start)
    )  # fmt: skip
    values, logs, rates = address(rows.values), address(rows.value_log), address(rows.value_rate)
    for head in range(n_heads):
        for row in range(0, n_rows, TILE_ROWS):
            target = out + row * out_stride + 4 * head * head_dim
            clear_rows(target, out_stride, n_panels * TILE_COLUMNS, work)
            for start in range(0, n_positions, SEGMENT):
                n, at = min(SEGMENT, n_positions - start), head * n_positions + start
                score_segment(
                    queries + row * d + head * head_dim, d, head_dim,
                    query_scale + 4 * (head * n_query_scales + row), keys + at * head_dim,
                    key_scale + 4 * at, key_start + 4 * at, logs + 4 * at, n, work, rows.queries.size // 2,
                )  # fmt: skip
                weigh_segment(work, n, rates + 4 * at)
                if start + n == n_positions:
                    divide_by_totals(work)
                for panel in range(n_panels):
                    right = values + ((head * n_panels + panel) * n_positions + start) * TILE_COLUMNS
                    mix_tile(
                        work + 4 * _WEIGHTS, SEGMENT, right, n // STEP, target + 4 * panel * TILE_COLUMNS,
                        out_stride, right, work + 4 * _OLD, work + 4 * _NEW, _WEIGHT_PLANE,
                    )  # fmt: skip


@inner
def clear_rows(target: int, stride: int, n: int, work: int) -> None:
    """Before the first segment: n columns of 12 rows, the sums of the weights, and what they refer to."""
    zero = simd.splat(np.float32(0.0))
    simd.store_f32(work + 4 * _BASE, simd.splat(_LOWEST))
    for line in range(TILE_ROWS):
        simd.store_f32(work + 4 * (_TOTALS + _ROW * line), zero)
        for at in range(0, n, 16):
            simd.store_f32(target + line * stride + 4 * at, zero)
