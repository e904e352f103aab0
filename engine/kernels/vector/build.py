"""Short names for what the vector modules ask of llvmlite. Nothing here depends on an instruction set."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16
I8, I16, I32, I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
F32 = ir.FloatType()
F32X16, I32X16, I16X16 = (ir.VectorType(kind, LANES) for kind in (F32, I32, I16))


class _BFloat(ir.Type):
    """llvmlite has no bfloat; its name is all that is needed."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


BF16X16, BF16X32 = ir.VectorType(_BFloat(), LANES), ir.VectorType(_BFloat(), 2 * LANES)


def constant(value: float, lanes: int = LANES) -> ir.Constant:
    """A vector of equal floats."""
    return ir.Constant(ir.VectorType(F32, lanes), [float(value)] * lanes)


def integers(kind: Any, value: int) -> ir.Constant:
    """A vector of equal whole numbers."""
    return ir.Constant(kind, [value] * kind.count)


def pointer(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a typed pointer."""
    return builder.inttoptr(address, kind.as_pointer())


def offset(builder: Any, address: Any, n_bytes: int) -> Any:
    """An address n_bytes further on."""
    return builder.add(address, ir.Constant(I64, n_bytes))


def load(builder: Any, address: Any, kind: Any) -> Any:
    """Load without any promise of alignment."""
    value = builder.load(pointer(builder, address, kind))
    value.align = 1
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    """Store without any promise of alignment."""
    builder.store(value, pointer(builder, address, value.type)).align = 1


def call(builder: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """Call one of LLVM's intrinsic functions."""
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    insert: Any = cgutils.get_or_insert_function
    return builder.call(insert(builder.module, function, name), arguments)


def broadcast(builder: Any, scalar: Any, lanes: int = LANES) -> Any:
    """Copy a scalar to all lanes."""
    kind = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    order = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, order)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float vectors, with one rounding."""
    return call(builder, f"llvm.fma.v{c.type.count}f32", c.type, a, b, c)


def larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger of each pair of lanes; b where either is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def smaller(builder: Any, a: Any, b: Any) -> Any:
    """The smaller of each pair of lanes; b where either is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def horner(builder: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """A polynomial of 16 floats, highest power first."""
    total = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        total = fused(builder, total, x, constant(coefficient))
    return total
