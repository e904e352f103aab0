"""AVX-VNNI: 16 registers of 256 bits, uint8 by int8 in one instruction, bfloat16 as float32."""

from __future__ import annotations

from typing import Any

from engine.kernels.vector.avx2 import Avx2
from engine.kernels.vector.build import call
from engine.kernels.vector.instructions import INT8, INT8_ANY, SPLIT, Block

# A product takes five cycles, two start in each: ten sums hide that.
_BLOCKS = {1: Block(1, 4, 2), 2: Block(2, 4, 1)}


class AvxVnni(Avx2):
    """See Instructions: what AVX2 does, but for whole numbers."""

    saturates = False

    def block(self, kind: str, n_rows: int, n_vectors: int) -> Block:
        """See Instructions."""
        if kind not in (INT8, INT8_ANY, SPLIT):
            return super().block(kind, n_rows, n_vectors)
        if n_rows in _BLOCKS:
            return _BLOCKS[n_rows]
        return Block(6 if n_rows % 6 == 0 else 4, 2, 1)

    def left(self, builder: Any, kind: str, lanes: Any) -> Any:
        """See Instructions."""
        return lanes if kind in (INT8, INT8_ANY, SPLIT) else super().left(builder, kind, lanes)

    def right(self, builder: Any, kind: str, lanes: Any) -> Any:
        """See Instructions."""
        return lanes if kind in (INT8, INT8_ANY, SPLIT) else super().right(builder, kind, lanes)

    def multiply_add(self, builder: Any, kind: str, total: Any, left: Any, right: Any) -> Any:
        """See Instructions."""
        if kind not in (INT8, INT8_ANY, SPLIT):
            return super().multiply_add(builder, kind, total, left, right)
        return call(builder, "llvm.x86.avx512.vpdpbusd.256", total.type, total, left, right)

    def multiply_add_steps(self, builder: Any, total: Any, left: Any, right: Any) -> Any:
        """See Instructions."""
        for a, b in zip(left, right, strict=True):
            total = self.multiply_add(builder, INT8, total, a, b)
        return total


SUPPLIED = AvxVnni()
