"""What a set without instructions of its own for it does with bfloat16 and powers of two."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from engine.kernels.vector.build import (
    F32,
    F32X16,
    I16X16,
    I32X16,
    call,
    constant,
    fused,
    horner,
    integers,
    larger,
)

# 2^x for 0 <= x <= 1, relative error 7.5e-5.
EXP2_POLYNOMIAL = (0.07802452268953358, 0.22606715539708816, 0.6958335404792925, 0.9999252185659142)
_ZERO_EXPONENT = -127.0  # its bits are those of 0
_HIGH_HALF = 0xFFFF0000 - (1 << 32)


def split_bf16(builder: Any, lanes: Any) -> tuple[Any, Any]:
    """Pairs of bfloat16 in int32 lanes to the floats of the even and of the odd elements."""
    floats = ir.VectorType(F32, lanes.type.count)
    even = builder.shl(lanes, integers(lanes.type, 16))
    odd = builder.and_(lanes, integers(lanes.type, _HIGH_HALF))
    return builder.bitcast(even, floats), builder.bitcast(odd, floats)


def add_pairs(builder: Any, total: Any, left: tuple[Any, Any], right: tuple[Any, Any]) -> Any:
    """total + left * right over pairs of bfloat16 that split_bf16 made floats of.

    The odd product comes first, as in the processors' own instruction, which gives the same sums bit for bit
    but for numbers below the smallest normal one.
    """
    return fused(builder, left[0], right[0], fused(builder, left[1], right[1], total))


def round_bf16(builder: Any, vector: Any) -> Any:
    """16 floats to the nearest bfloat16 (of two the even one), as int16 lanes; not a number stays that."""
    bits = builder.bitcast(vector, I32X16)
    lowest = builder.and_(builder.lshr(bits, integers(I32X16, 16)), integers(I32X16, 1))
    rounded = builder.add(bits, builder.add(lowest, integers(I32X16, 0x7FFF)))
    kept = builder.or_(bits, integers(I32X16, 0x400000))
    bits = builder.select(builder.fcmp_unordered("uno", vector, vector), kept, rounded)
    return builder.trunc(builder.lshr(bits, integers(I32X16, 16)), I16X16)


def exp2(builder: Any, x: Any) -> Any:
    """2^x for x < 128, the same numbers as the instructions of AVX-512 give."""
    inside = larger(builder, x, constant(_ZERO_EXPONENT))
    whole = call(builder, "llvm.floor.v16f32", F32X16, inside)
    mantissa = horner(builder, builder.fsub(inside, whole), EXP2_POLYNOMIAL)
    exponent = builder.add(builder.fptosi(whole, I32X16), integers(I32X16, 127))
    power = builder.bitcast(builder.shl(exponent, integers(I32X16, 23)), F32X16)
    return builder.fmul(mantissa, power)
