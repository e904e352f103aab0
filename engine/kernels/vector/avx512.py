"""AVX-512 with VNNI: 32 registers of 512 bits, uint8 by int8 in one instruction; bfloat16 where there is."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from engine.kernels.vector import plain
from engine.kernels.vector.build import (
    BF16X16,
    BF16X32,
    F32X16,
    I16,
    I16X16,
    I32,
    I32X16,
    call,
    constant,
    fused,
    horner,
)
from engine.kernels.vector.instructions import BF16, HALF, INT8, INT8_ANY, SPLIT, Block
from engine.kernels.vector.levels import BF16_FEATURE, active

_NEAREST = 4
# Few rows: sums enough to hide how long a product takes.
_CHAINS = {1: 4, 2: 2, 4: 2}
_LONGEST_ROW = 8  # vectors


class Avx512:
    """See Instructions. On a Zen 4 core at 3.7 GHz its tiles make 430 to 444 of 473 GOP/s in int8."""

    lanes = 16
    saturates = False
    has_matrix_unit = False

    def block(self, kind: str, n_rows: int, n_vectors: int) -> Block:
        """See Instructions."""
        chains = _CHAINS.get(n_rows, 1) if kind in (INT8, INT8_ANY, SPLIT) else 1
        return Block(n_rows, min(n_vectors, _LONGEST_ROW), chains)

    def left(self, builder: Any, kind: str, lanes: Any) -> Any:
        """See Instructions."""
        if kind in (INT8, INT8_ANY, SPLIT):
            return lanes
        if kind == HALF:
            return tuple(builder.bitcast(plane, F32X16) for plane in lanes)
        if kind != BF16:
            return builder.bitcast(lanes, F32X16)
        return builder.bitcast(lanes, BF16X32) if _multiplies_bf16() else plain.split_bf16(builder, lanes)

    def right(self, builder: Any, kind: str, lanes: Any) -> Any:
        """See Instructions."""
        return plain.split_bf16(builder, lanes) if kind == HALF else self.left(builder, kind, lanes)

    def multiply_add(self, builder: Any, kind: str, total: Any, left: Any, right: Any) -> Any:
        """See Instructions."""
        if kind in (INT8, INT8_ANY, SPLIT):
            return call(builder, "llvm.x86.avx512.vpdpbusd.512", I32X16, total, left, right)
        if kind not in (BF16, HALF):
            return fused(builder, left, right, total)
        if kind == HALF or not _multiplies_bf16():
            return plain.add_pairs(builder, total, left, right)
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", F32X16, total, left, right)

    def multiply_add_steps(self, builder: Any, total: Any, left: Any, right: Any) -> Any:
        """See Instructions."""
        for a, b in zip(left, right, strict=True):
            total = self.multiply_add(builder, INT8, total, a, b)
        return total

    def round_bf16(self, builder: Any, vector: Any) -> Any:
        """See Instructions."""
        if not _multiplies_bf16():
            return plain.round_bf16(builder, vector)
        return builder.bitcast(builder.fptrunc(vector, BF16X16), I16X16)

    def exp2(self, builder: Any, x: Any) -> Any:
        """See Instructions."""
        whole = call(builder, "llvm.floor.v16f32", F32X16, x)  # the instruction for the rest rounds otherwise
        mantissa = horner(builder, builder.fsub(x, whole), plain.EXP2_POLYNOMIAL)
        arguments = (constant(0.0), ir.Constant(I16, -1), ir.Constant(I32, _NEAREST))
        return call(builder, "llvm.x86.avx512.mask.scalef.ps.512", F32X16, mantissa, x, *arguments)


def _multiplies_bf16() -> bool:
    return active().has(BF16_FEATURE)


SUPPLIED = Avx512()
