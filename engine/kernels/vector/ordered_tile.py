"""The integer tile of layers whose steps lie in an order of their own (engine.kernels.layers.order).

Where products of bytes are added in 16 bits (AVX2), half of a tile's multiplications only widen the sums to
32 bits. Two steps that fit 16 bits together are widened once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from engine.kernels.vector.build import I32, I64, broadcast, integers, load, offset
from engine.kernels.vector.gemm import LINE_BYTES, STEP_BYTES, Lanes, Panel, Part, bring_back, prefetch_line
from engine.kernels.vector.instructions import INT8, instructions
from engine.kernels.vector.simd import intrinsic

ORDERED_ROWS, ORDERED_COLUMNS = 3, 16  # three rows leave registers for the columns of two steps
ORDER_BYTES = 4  # of a number of the order
JOINED, AT_ONCE = 2, 4  # steps that are joined, and those of a turn of the loop
# Bytes a step that are fetched ahead: the 32 tiles of 48 rows by 32 columns fetch the next 32 columns between
# them; few rows read their columns once, and the first tile fetches as many as it reads.
SHARED_PREFETCH, WHOLE_PREFETCH = 4, STEP_BYTES * ORDERED_COLUMNS


class _Sums:
    """Emits the sums of a tile of n_rows; prefetch: bytes a step."""

    def __init__(self, builder: Any, panel: Panel, n_rows: int, prefetch: int) -> None:
        self.builder, self.panel, self.lanes, self.prefetch = builder, panel, Lanes(builder), prefetch
        self.n_vectors = ORDERED_COLUMNS // self.lanes.n
        self.rows = [
            builder.add(panel.left, builder.mul(panel.row_stride, ir.Constant(I64, row)))
            for row in range(n_rows)
        ]

    def emit(self, order: Any) -> list[list[Any]]:
        """Sums [rows][registers]; order: see ordered_tile."""
        n_paired = self.builder.sext(load(self.builder, order, I32), I64)
        places = offset(self.builder, order, ORDER_BYTES)
        zero = integers(self.lanes.i32, 0)
        sums = [zero] * (len(self.rows) * self.n_vectors)
        sums = self._loop(places, ir.Constant(I64, 0), n_paired, AT_ONCE, sums)
        sums = self._loop(places, n_paired, self.panel.n_steps, 1, sums)
        return [sums[at : at + self.n_vectors] for at in range(0, len(sums), self.n_vectors)]

    def _loop(self, places: Any, start: Any, end: Any, n_steps: int, starts: list[Any]) -> list[Any]:
        """Sums and the steps start to end, n_steps of them in a turn, joined where they are several."""
        builder = self.builder
        before, head = builder.basic_block, builder.append_basic_block("steps")
        body, after = builder.append_basic_block("step"), builder.append_basic_block("steps_end")
        builder.branch(head)
        builder.position_at_end(head)
        step = builder.phi(I64)
        step.add_incoming(start, before)
        sums = [builder.phi(self.lanes.i32) for _ in starts]
        for total, first in zip(sums, starts, strict=True):
            total.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<", step, end), body, after)
        builder.position_at_end(body)
        if n_steps > 1:
            ahead = builder.add(self.panel.ahead, builder.mul(step, ir.Constant(I64, self.prefetch)))
            for line in range(0, self.prefetch * n_steps, LINE_BYTES):
                prefetch_line(builder, offset(builder, ahead, line))
        n_joined, results = min(n_steps, JOINED), sums
        for at in range(0, n_steps, n_joined):
            results = self._add(places, builder.add(step, ir.Constant(I64, at)), n_joined, results)
        step.add_incoming(builder.add(step, ir.Constant(I64, n_steps)), body)
        for total, result in zip(sums, results, strict=True):
            total.add_incoming(result, body)
        builder.branch(head)
        builder.position_at_end(after)
        return sums

    def _add(self, places: Any, step: Any, n_joined: int, sums: list[Any]) -> list[Any]:
        """Sums and the products of a step, or of two that are joined."""
        builder, supplied = self.builder, instructions()
        place = builder.add(places, builder.mul(step, ir.Constant(I64, ORDER_BYTES)))
        size = STEP_BYTES * ORDERED_COLUMNS
        columns = builder.add(self.panel.right, builder.mul(step, ir.Constant(I64, size)))
        offsets = [
            builder.sext(load(builder, offset(builder, place, ORDER_BYTES * n), I32), I64)
            for n in range(n_joined)
        ]
        rights = [
            [
                supplied.right(
                    builder, INT8, self.lanes.column(columns, ORDERED_COLUMNS * n + at, self.lanes.i32)
                )
                for n in range(n_joined)
            ]
            for at in range(0, ORDERED_COLUMNS, self.lanes.n)
        ]
        results = []
        for row, base in enumerate(self.rows):
            left = [supplied.left(builder, INT8, self._row(builder.add(base, at))) for at in offsets]
            totals = sums[row * self.n_vectors :]
            results += [
                supplied.multiply_add_steps(builder, total, left, right)
                for total, right in zip(totals, rights, strict=False)
            ]
        return results

    def _row(self, place: Any) -> Any:
        return broadcast(self.builder, load(self.builder, place, I32), self.lanes.n)


def _ordered_tile(n_rows: int, prefetch: int) -> Any:
    @intrinsic
    def tile(
        typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
        ahead: Any, row_scale: Any, row_offset: Any, column_scale: Any, column_sum: Any, bias: Any,
        order: Any,
    ) -> Any:  # fmt: skip
        """As the integer tile (engine.kernels.vector.gemm), of 16 columns.

        order: address of int32 [1 + n_steps]: how many steps are joined two by two, and where each step's
        bytes of a row begin. right: address of int8 [n_steps, 16, 4], steps in this order.
        """

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            panel, lanes = Panel(*arguments[:7]), Lanes(builder)
            part = Part(0, 0, _Sums(builder, panel, n_rows, prefetch).emit(arguments[12]))
            bring_back(builder, lanes, panel, part, arguments[7:12])
            return context.get_dummy_value()

        return types.void(*([types.intp] * 13)), implement

    return tile


ordered_tile = _ordered_tile(ORDERED_ROWS, SHARED_PREFETCH)
ordered_tile_1, ordered_tile_2, ordered_tile_3, ordered_tile_4 = (
    _ordered_tile(n_rows, WHOLE_PREFETCH) for n_rows in (1, 2, 3, 4)
)
