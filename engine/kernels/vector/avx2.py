"""AVX2 and FMA: 16 registers of 256 bits, and no product of bytes that cannot overflow by itself.

The only product of uint8 by int8 (pmaddubsw) adds two neighbours in 16 bits and saturates. It is exact
where the two codes sum to at most 128 in magnitude, which the exporter sees to (INT8). Any other codes are
widened to 16 bits, even and odd ones apart, which costs two thirds more (INT8_ANY).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from engine.kernels.vector import plain
from engine.kernels.vector.build import F32, I8, I16, I32, call, fused, integers
from engine.kernels.vector.instructions import BF16, HALF, INT8, INT8_ANY, SPLIT, Block

_LANES = 8
_I32X8, _I16X16, _I8X32 = ir.VectorType(I32, _LANES), ir.VectorType(I16, 16), ir.VectorType(I8, 32)
_F32X8 = ir.VectorType(F32, _LANES)


class Avx2:
    """See Instructions."""

    lanes = _LANES
    saturates = True
    has_matrix_unit = False

    def block(self, kind: str, n_rows: int, n_vectors: int) -> Block:
        """See Instructions."""
        if n_rows == 1:
            return Block(1, min(n_vectors, 8), 1)
        if n_rows == 2:
            return Block(2, min(n_vectors, 4), 1)
        return Block(6 if kind == "f32" and n_rows % 6 == 0 else 4, 2, 1)

    def left(self, builder: Any, kind: str, lanes: Any) -> Any:
        """See Instructions."""
        if kind == INT8_ANY:
            return _widen(builder, lanes, builder.lshr)
        if kind == SPLIT:
            return tuple(builder.bitcast(plane, _I16X16) for plane in lanes)
        if kind == HALF:
            return tuple(builder.bitcast(plane, _F32X8) for plane in lanes)
        return self._narrow(builder, kind, lanes)

    def right(self, builder: Any, kind: str, lanes: Any) -> Any:
        """See Instructions."""
        if kind in (INT8_ANY, SPLIT):
            return _widen(builder, lanes, builder.ashr)
        return self._narrow(builder, kind, lanes)

    def _narrow(self, builder: Any, kind: str, lanes: Any) -> Any:
        if kind in (BF16, HALF):
            return plain.split_bf16(builder, lanes)
        return builder.bitcast(lanes, _I8X32 if kind == INT8 else _F32X8)

    def multiply_add(self, builder: Any, kind: str, total: Any, left: Any, right: Any) -> Any:
        """See Instructions."""
        if kind == INT8:
            pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", _I16X16, left, right)
            sums = call(builder, "llvm.x86.avx2.pmadd.wd", _I32X8, pairs, integers(_I16X16, 1))
            return builder.add(total, sums)
        if kind in (INT8_ANY, SPLIT):
            for a, b in zip(left, right, strict=True):
                total = builder.add(total, call(builder, "llvm.x86.avx2.pmadd.wd", _I32X8, a, b))
            return total
        if kind in (BF16, HALF):
            return plain.add_pairs(builder, total, left, right)
        return fused(builder, left, right, total)

    def multiply_add_steps(self, builder: Any, total: Any, left: Any, right: Any) -> Any:
        """See Instructions."""
        products = [
            call(builder, "llvm.x86.avx2.pmadd.ub.sw", _I16X16, a, b)
            for a, b in zip(left, right, strict=True)
        ]
        pairs = products[0] if len(products) == 1 else builder.add(*products)
        return builder.add(
            total, call(builder, "llvm.x86.avx2.pmadd.wd", _I32X8, pairs, integers(_I16X16, 1))
        )

    def round_bf16(self, builder: Any, vector: Any) -> Any:
        """See Instructions."""
        return plain.round_bf16(builder, vector)

    def exp2(self, builder: Any, x: Any) -> Any:
        """See Instructions."""
        return plain.exp2(builder, x)


def _widen(builder: Any, lanes: Any, shift_right: Any) -> tuple[Any, Any]:
    """Bytes to 16 bits, the even and the odd ones; shift_right tells signed from unsigned."""
    pairs, eight = builder.bitcast(lanes, _I16X16), integers(_I16X16, 8)
    return shift_right(builder.shl(pairs, eight), eight), shift_right(pairs, eight)


SUPPLIED = Avx2()
