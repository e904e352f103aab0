"""Vectors of 16 floats as values inside kernels, for loops that a compiler would not vectorise well.

A vector lives in one register of 512 bits or two of 256. Addresses are plain integers
(`array.ctypes.data` inside a kernel): nothing checks bounds, so only kernels use them, on memory that
their callers allocated. `engine.kernels.vector.levels` says what the code is made for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

from engine.kernels.vector.build import (
    F32X16,
    I8,
    I16X16,
    I32,
    I32X16,
    LANES,
    broadcast,
    call,
    constant,
    fused,
    horner,
    integers,
    larger,
    load,
    smaller,
    store,
)
from engine.kernels.vector.instructions import instructions

# Phi(x) - 1/2 = x * P(2 x^2 / 4.5^2 - 1) for |x| <= 4.5, highest power first; least maximum error of
# x * Phi(x): 7e-6, and 5e-6 |x| where |x| is cut to 4.5.
GELU_BOUND = 4.5
GELU_POLYNOMIAL = (
    -0.0015656861942261457, 0.004655325785279274, -0.006682813633233309, 0.010140452533960342,
    -0.01815923862159252, 0.028623972088098526, -0.040295783430337906, 0.05467185005545616,
    -0.07718337327241898, 0.15690529346466064,
)  # fmt: skip
# 2^x for |x| <= 1/2, relative error 2.7e-6.
EXP2_POLYNOMIAL = (
    0.009560510516166687, 0.05591703951358795, 0.24024981260299683, 0.6931219696998596, 0.9999991655349731,
)  # fmt: skip
LOG2_E = 1.4426950408889634
LOWEST_EXPONENT = -126.0


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba's decorator; callers do not pass the typing context that the function's first argument is."""
    return numba_intrinsic(function)


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="f32x16")


f32x16 = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, F32X16)  # type: ignore[no-untyped-call]


def emit_gelu(builder: Any, x: Any) -> Any:
    """x * Phi(x) with the normal distribution's Phi."""
    inside = smaller(builder, larger(builder, x, constant(-GELU_BOUND)), constant(GELU_BOUND))
    square = builder.fmul(inside, inside)
    at = fused(builder, square, constant(2 / GELU_BOUND**2), constant(-1.0))
    phi = fused(builder, inside, horner(builder, at, GELU_POLYNOMIAL), constant(0.5))
    return builder.fmul(x, phi)


def emit_exp(builder: Any, x: Any) -> Any:
    """e^x for x <= 88; results below 2^-126 become about 0."""
    scaled = larger(builder, builder.fmul(x, constant(LOG2_E)), constant(LOWEST_EXPONENT))
    whole = call(builder, "llvm.rint.v16f32", F32X16, scaled)
    mantissa = horner(builder, builder.fsub(scaled, whole), EXP2_POLYNOMIAL)
    bits = builder.shl(builder.fptosi(whole, I32X16), integers(I32X16, 23))
    return builder.bitcast(builder.add(builder.bitcast(mantissa, I32X16), bits), F32X16)


def emit_bf16_pairs(builder: Any, address: Any, even: Any, odd: Any) -> None:
    """Store two vectors rounded to bfloat16 and interleaved."""
    low, high = (builder.zext(instructions().round_bf16(builder, v), I32X16) for v in (even, odd))
    store(builder, builder.or_(low, builder.shl(high, integers(I32X16, 16))), address)


def emit_sigmoid(builder: Any, x: Any) -> Any:
    """1 / (1 + e^-x), for |x| cut to 40."""
    inside = smaller(builder, larger(builder, x, constant(-40.0)), constant(40.0))
    power = emit_exp(builder, builder.fneg(inside))
    return builder.fdiv(constant(1.0), builder.fadd(power, constant(1.0)))


def emit_tanh(builder: Any, x: Any) -> Any:
    """2 sigmoid(2x) - 1."""
    double = builder.fadd(x, x)
    return fused(builder, emit_sigmoid(builder, double), constant(2.0), constant(-1.0))


def vector_function(emit: Callable[..., Any], n_inputs: int) -> Any:
    """An intrinsic of n vectors to one."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *arguments)

    signature = f32x16(*([f32x16] * n_inputs))
    if n_inputs == 1:

        def typed1(typing: Any, a: Any) -> Any:
            return signature, implement

        return intrinsic(typed1)
    if n_inputs == 2:

        def typed2(typing: Any, a: Any, b: Any) -> Any:
            return signature, implement

        return intrinsic(typed2)

    def typed3(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return signature, implement

    return intrinsic(typed3)


add = vector_function(lambda builder, a, b: builder.fadd(a, b), 2)
subtract = vector_function(lambda builder, a, b: builder.fsub(a, b), 2)
multiply = vector_function(lambda builder, a, b: builder.fmul(a, b), 2)
fma = vector_function(fused, 3)
maximum = vector_function(larger, 2)
minimum = vector_function(smaller, 2)
gelu = vector_function(emit_gelu, 1)
exp = vector_function(emit_exp, 1)
sigmoid = vector_function(emit_sigmoid, 1)
tanh = vector_function(emit_tanh, 1)
relu = vector_function(lambda builder, x: larger(builder, x, constant(0.0)), 1)


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    """A float32 in all lanes."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return broadcast(builder, arguments[0])

    return f32x16(types.float32), implement


@intrinsic
def load_f32(typing: Any, address: Any) -> Any:
    """16 floats from memory."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return load(builder, arguments[0], F32X16)

    return f32x16(types.intp), implement


@intrinsic
def load_bf16(typing: Any, address: Any) -> Any:
    """16 bfloat16 values from memory, as floats."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        half = builder.zext(load(builder, arguments[0], I16X16), I32X16)
        return builder.bitcast(builder.shl(half, integers(I32X16, 16)), F32X16)

    return f32x16(types.intp), implement


@intrinsic
def load_i8(typing: Any, address: Any) -> Any:
    """16 signed bytes from memory, as floats."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes = load(builder, arguments[0], ir.VectorType(I8, LANES))
        return builder.sitofp(builder.sext(codes, I32X16), F32X16)

    return f32x16(types.intp), implement


@intrinsic
def store_f32(typing: Any, address: Any, vector: Any) -> Any:
    """16 floats to memory."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        store(builder, arguments[1], arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp, f32x16), implement


@intrinsic
def store_bf16(typing: Any, address: Any, vector: Any) -> Any:
    """16 floats to memory, rounded to bfloat16."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        store(builder, instructions().round_bf16(builder, arguments[1]), arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp, f32x16), implement


@intrinsic
def store_bf16_pairs(typing: Any, address: Any, even: Any, odd: Any) -> Any:
    """Two vectors rounded to bfloat16 and interleaved: even[0], odd[0], even[1], ... (64 bytes)."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit_bf16_pairs(builder, *arguments)
        return context.get_dummy_value()

    return types.void(types.intp, f32x16, f32x16), implement


@intrinsic
def copy_i32(typing: Any, target: Any, source: Any) -> Any:
    """Copy four bytes."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        store(builder, load(builder, arguments[1], I32), arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), implement


@intrinsic
def store_u8(typing: Any, address: Any, vector: Any) -> Any:
    """16 floats in [0, 256) to memory, cut to whole bytes."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = builder.fptosi(arguments[1], I32X16)
        store(builder, builder.trunc(whole, ir.VectorType(I8, LANES)), arguments[0])
        return context.get_dummy_value()

    return types.void(types.intp, f32x16), implement


def _reduction(emit: Callable[[Any, Any], Any]) -> Any:
    def typed(typing: Any, vector: Any) -> Any:
        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, arguments[0])

        return types.float32(f32x16), implement

    return intrinsic(typed)


def _halves(combine: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Reduce by combining halves, four times."""

    def emit(builder: Any, vector: Any) -> Any:
        undefined = ir.Constant(F32X16, ir.Undefined)
        for distance in (8, 4, 2, 1):
            order = [(lane + distance) % LANES for lane in range(LANES)]
            moved = builder.shuffle_vector(vector, undefined, ir.Constant(I32X16, order))
            vector = combine(builder, vector, moved)
        return builder.extract_element(vector, ir.Constant(I32, 0))

    return emit


sum_lanes = _reduction(_halves(lambda builder, a, b: builder.fadd(a, b)))
max_lanes = _reduction(_halves(larger))
min_lanes = _reduction(_halves(smaller))
