"""Eight doubles at a time as values inside kernels, for short loops over arrays of any length.

A compiler's own vector loops take 32 items or more a turn and the rest one by one; the search's
arrays seldom hold more. Addresses are plain integers and nothing checks bounds: arrays have to lie
on 64-byte lines, so that the lanes behind their end are memory of nobody else. A comparison gives
an int64 with a bit for each lane. Unlike `simd`, this is code for any processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model

LANES = 8
_I8, _I32, _I64 = (ir.IntType(width) for width in (8, 32, 64))
_F64X8, _I32X8, _I64X8 = (ir.VectorType(kind, LANES) for kind in (ir.DoubleType(), _I32, _I64))
_BITS = ir.VectorType(ir.IntType(1), LANES)


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba's decorator; callers do not pass the typing context that the function's first argument is."""
    return numba_intrinsic(function)


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="f64x8")


f64x8 = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _F64X8)  # type: ignore[no-untyped-call]


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 8
    return value


def _spread(builder: Any, scalar: Any) -> Any:
    kind = ir.VectorType(scalar.type, LANES)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_I32X8, [0] * LANES))


def _to_bits(builder: Any, lanes: Any) -> Any:
    return builder.zext(builder.bitcast(lanes, _I8), _I64)


def _define(emit: Callable[..., Any], result: Any, *kinds: Any) -> Any:
    """An intrinsic of up to three values."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = emit(builder, *arguments)
        return context.get_dummy_value() if value is None else value

    signature = result(*kinds)
    typed: Any
    if len(kinds) == 1:
        typed = lambda typing, a: (signature, implement)  # noqa: E731
    elif len(kinds) == 2:
        typed = lambda typing, a, b: (signature, implement)  # noqa: E731
    else:
        typed = lambda typing, a, b, c: (signature, implement)  # noqa: E731
    return intrinsic(typed)


def _emit_store(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 8


def _emit_fill(builder: Any, address: Any, value: Any) -> None:
    _emit_store(builder, address, _spread(builder, builder.trunc(value, _I32)))


def _emit_choose(builder: Any, bits: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.bitcast(builder.trunc(bits, _I8), _BITS), a, b)


def _emit_equal32(builder: Any, address: Any, value: Any) -> Any:
    lanes = _load(builder, address, _I32X8)
    return _to_bits(builder, builder.icmp_signed("==", lanes, _spread(builder, builder.trunc(value, _I32))))


def _emit_equal64(builder: Any, address: Any, value: Any) -> Any:
    return _to_bits(
        builder, builder.icmp_signed("==", _load(builder, address, _I64X8), _spread(builder, value))
    )


def _emit_not_negative(builder: Any, address: Any) -> Any:
    lanes = _load(builder, address, _I32X8)
    return _to_bits(builder, builder.icmp_signed(">=", lanes, ir.Constant(_I32X8, [0] * LANES)))


def _emit_largest(builder: Any, lanes: Any) -> Any:
    undefined = ir.Constant(_F64X8, ir.Undefined)
    for distance in (4, 2, 1):
        order = [(lane + distance) % LANES for lane in range(LANES)]
        moved = builder.shuffle_vector(lanes, undefined, ir.Constant(_I32X8, order))
        lanes = builder.select(builder.fcmp_ordered(">", lanes, moved), lanes, moved)
    return builder.extract_element(lanes, ir.Constant(_I32, 0))


def _emit_load_f32(builder: Any, address: Any) -> Any:
    value = _load(builder, address, ir.VectorType(ir.FloatType(), LANES))
    value.align = 4
    return builder.fpext(value, _F64X8)


def _emit_not_zero(builder: Any, address: Any) -> Any:
    value = _load(builder, address, ir.VectorType(_I8, LANES))
    value.align = 1
    return _to_bits(builder, builder.icmp_signed("!=", value, ir.Constant(value.type, [0] * LANES)))


def _emit_store_places(builder: Any, address: Any, places: Any, first: Any) -> None:
    lanes = _load(builder, places, ir.VectorType(_I8, LANES))
    numbers = builder.add(builder.zext(lanes, _I32X8), _spread(builder, builder.trunc(first, _I32)))
    builder.store(numbers, builder.inttoptr(address, numbers.type.as_pointer())).align = 4


def _emit_first_bit(builder: Any, bits: Any) -> Any:
    return builder.cttz(bits, ir.Constant(ir.IntType(1), 0))


_F, _A, _N, _U = f64x8, types.int64, types.int64, types.uint64
load = _define(lambda builder, address: _load(builder, address, _F64X8), _F, _A)
load_f32 = _define(_emit_load_f32, _F, _A)
store = _define(_emit_store, types.void, _A, _F)  # to an address
splat = _define(_spread, _F, types.float64)
add = _define(lambda builder, a, b: builder.fadd(a, b), _F, _F, _F)
multiply = _define(lambda builder, a, b: builder.fmul(a, b), _F, _F, _F)
maximum = _define(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b), _F, _F, _F)
largest = _define(_emit_largest, types.float64, _F)
choose = _define(_emit_choose, _F, _N, _F, _F)  # by a bit for each lane
at_least = _define(lambda builder, a, b: _to_bits(builder, builder.fcmp_ordered(">=", a, b)), _N, _F, _F)
above = _define(lambda builder, a, b: _to_bits(builder, builder.fcmp_ordered(">", a, b)), _N, _F, _F)
equal_32 = _define(_emit_equal32, _N, _A, _N)  # of eight 32-bit numbers at an address, those equal to one
equal_64 = _define(_emit_equal64, _N, _A, _U)
not_negative_32 = _define(_emit_not_negative, _N, _A)
not_zero_8 = _define(_emit_not_zero, _N, _A)
fill_32 = _define(_emit_fill, types.void, _A, _N)
store_places = _define(
    _emit_store_places, types.void, _A, _A, _N
)  # bytes at an address plus a number, as int32
first_bit = _define(_emit_first_bit, _U, _U)  # the number of the lowest bit that is set
