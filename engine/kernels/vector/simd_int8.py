"""What attention in int8 needs beyond `simd`: rounding to codes, powers of two, sums of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from engine.kernels.vector.build import (
    F32,
    F32X16,
    I8,
    I16,
    I32,
    I32X16,
    I64,
    LANES,
    broadcast,
    constant,
    fused,
    integers,
    larger,
    load,
    store,
)
from engine.kernels.vector.gemm import STEP_BYTES, TILE_COLUMNS, TILE_ROWS
from engine.kernels.vector.instructions import instructions
from engine.kernels.vector.simd import f32x16, intrinsic, vector_function

LOG2_SLACK = 0.0861  # log2(1 + m) - m is at most so much
ROUNDER = 1.5 * 2**23  # added to x, leaves round(x) in the low bits


def emit_exp2(builder: Any, x: Any) -> Any:
    """2^x, relative error 7.5e-5; 0 where that is below the smallest normal number."""
    return instructions().exp2(builder, x)


def emit_log2_above(builder: Any, x: Any) -> Any:
    """A number at most 0.0862 above log2(x), and not below it; x is positive and normal."""
    bits = builder.sitofp(builder.bitcast(x, I32X16), F32X16)
    return fused(builder, bits, constant(2.0**-23), constant(LOG2_SLACK - 127.0))


def emit_magnitude(builder: Any, x: Any, top: Any) -> Any:
    """The larger of |x| and top; top where x is not a number."""
    bits = builder.and_(builder.bitcast(x, I32X16), integers(I32X16, 0x7FFFFFFF))
    return larger(builder, builder.bitcast(bits, F32X16), top)


def emit_round(builder: Any, x: Any) -> Any:
    """The nearest whole number, the even one of two, for |x| < 2^22."""
    return builder.fsub(builder.fadd(x, constant(ROUNDER)), constant(ROUNDER))


exp2 = vector_function(emit_exp2, 1)
log2_above = vector_function(emit_log2_above, 1)
magnitude = vector_function(emit_magnitude, 2)
nearest = vector_function(emit_round, 1)
reciprocal = vector_function(lambda builder, x: builder.fdiv(constant(1.0), x), 1)


@intrinsic
def splat_f32(typing: Any, address: Any) -> Any:
    """A float from memory in all lanes."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return broadcast(builder, load(builder, arguments[0], F32))

    return f32x16(types.intp), implement


@intrinsic
def first_lane(typing: Any, vector: Any) -> Any:
    """The first of 16 floats."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], ir.Constant(I32, 0))

    return types.float32(f32x16), implement


def _low_bytes(builder: Any, vector: Any) -> Any:
    """Each float's nearest whole number, modulo 256, in the lowest byte of its lane."""
    return builder.bitcast(builder.fadd(vector, constant(ROUNDER)), I32X16)


@intrinsic
def store_row_codes(typing: Any, address: Any, plane: Any, vector: Any) -> Any:
    """16 floats rounded to uint8, as rows of a SPLIT product lie: 16 bytes, or the even ones in 16 bits each
    and the odd ones `plane` bytes behind them."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, plane, vector = arguments
        whole = builder.trunc(_low_bytes(builder, vector), ir.VectorType(I8, LANES))
        if not instructions().saturates:
            store(builder, whole, address)
            return context.get_dummy_value()
        words = builder.bitcast(whole, ir.VectorType(I16, LANES // 2))
        store(builder, builder.and_(words, integers(words.type, 255)), address)
        store(builder, builder.lshr(words, integers(words.type, 8)), builder.add(address, plane))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, f32x16), implement


@intrinsic
def scatter_codes(typing: Any, address: Any, vector: Any) -> Any:
    """16 floats in [-128, 127] rounded to int8, each four of them to a place 128 bytes after the last."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = builder.trunc(_low_bytes(builder, arguments[1]), ir.VectorType(I8, LANES))
        quads = builder.bitcast(whole, ir.VectorType(I32, 4))
        for quad in range(4):
            place = builder.add(arguments[0], ir.Constant(I64, STEP_BYTES * TILE_COLUMNS * quad))
            store(builder, builder.extract_element(quads, ir.Constant(I32, quad)), place)
        return context.get_dummy_value()

    return types.void(types.intp, f32x16), implement


@intrinsic
def store_code_quads(typing: Any, address: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Four vectors rounded to int8 and interleaved: a[0], b[0], c[0], d[0], a[1], ... (64 bytes)."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, total = integers(I32X16, 0xFF), ir.Constant(I32X16, None)
        for index, vector in enumerate(arguments[1:]):
            part = builder.and_(_low_bytes(builder, vector), byte)
            total = builder.or_(total, builder.shl(part, integers(I32X16, 8 * index)))
        store(builder, total, arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp, f32x16, f32x16, f32x16, f32x16), implement


def _row_reduction(combine: Callable[[Any, Any, Any], Any]) -> Any:
    """Reduces each of 12 vectors at an address; lane i of the result is that of the i-th."""

    @intrinsic
    def rows(typing: Any, address: Any) -> Any:
        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vectors = [
                load(builder, builder.add(arguments[0], ir.Constant(I64, 4 * LANES * row)), F32X16)
                for row in range(TILE_ROWS)
            ]
            vectors += vectors[: LANES - TILE_ROWS]
            while len(vectors) > 1:  # halves the lanes of a row, and joins two vectors of such rows
                halves = _halves_of_rows(LANES // len(vectors))
                vectors = [
                    combine(builder, *(builder.shuffle_vector(a, b, half) for half in halves))
                    for a, b in zip(vectors[::2], vectors[1::2], strict=True)
                ]
            return vectors[0]

        return f32x16(types.intp), implement

    return rows


def _halves_of_rows(n_joined: int) -> list[Any]:
    """Orders that take the first and the second half of every row out of two vectors of n_joined rows."""
    size = LANES // n_joined
    first = [size * row + lane for row in range(2 * n_joined) for lane in range(size // 2)]
    return [ir.Constant(I32X16, [lane + at for lane in first]) for at in (0, size // 2)]


max_rows = _row_reduction(larger)
sum_rows = _row_reduction(lambda builder, a, b: builder.fadd(a, b))
