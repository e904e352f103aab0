"""Integer tiles of 24 rows, or 12, by 32 columns that the matrix unit multiplies (AMX)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from engine.kernels.vector.build import I32, I64, offset
from engine.kernels.vector.gemm import (
    COLUMN_BYTES,
    LINE_BYTES,
    SHARED_PREFETCH,
    STEP_BYTES,
    TILE_COLUMNS,
    TILE_ROWS,
    WHOLE_PREFETCH,
    Lanes,
    Panel,
    Part,
    bring_back,
    prefetch_line,
)
from engine.kernels.vector.instructions import instructions
from engine.kernels.vector.matrix_unit import (
    BLOCK_ROWS,
    N_BLOCKS,
    ROW_BYTES,
    STEPS,
    MatrixUnit,
    make_room,
)
from engine.kernels.vector.simd import intrinsic


def matrix_parts(builder: Any, panel: Panel, n_rows: int, prefetch: int) -> Iterator[Part]:
    """Integer sums by the matrix unit, which is open: a row at a time, from where the unit has written them.

    n_steps is a multiple of 16. Rows up to a multiple of 12 are read.
    """
    lanes, n_blocks = Lanes(builder), -(-n_rows // BLOCK_ROWS)
    unit = MatrixUnit(builder, n_blocks)
    unit.clear()
    column_stride = ir.Constant(I64, STEP_BYTES * TILE_COLUMNS)
    moving = (
        (panel.left, ROW_BYTES), (panel.right, STEPS * STEP_BYTES * TILE_COLUMNS),
        (panel.ahead, STEPS * prefetch),
    )  # fmt: skip
    n_whole = builder.lshr(panel.n_steps, ir.Constant(I64, STEPS.bit_length() - 1))
    with cgutils.for_range(builder, n_whole) as loop:
        left, right, fetched = (
            builder.add(first, builder.mul(loop.index, ir.Constant(I64, size))) for first, size in moving
        )
        for line in range(0, STEPS * prefetch, LINE_BYTES):
            prefetch_line(builder, offset(builder, fetched, line))
        unit.add_products(left, panel.row_stride, right, column_stride)
    place = make_room(builder, ir.ArrayType(I32, TILE_COLUMNS * BLOCK_ROWS * n_blocks))
    stride = COLUMN_BYTES * TILE_COLUMNS
    unit.store_sums(place, stride)
    columns = range(0, TILE_COLUMNS, lanes.n)
    for row in range(n_rows):
        at = offset(builder, place, stride * row)
        yield Part(row, 0, [[lanes.column(at, column, lanes.i32) for column in columns]])


def _unit_tile(
    accumulate: bool = False, twice: bool = False, most: int = N_BLOCKS * BLOCK_ROWS,
    prefetch: int = SHARED_PREFETCH,
) -> Any:  # fmt: skip
    @intrinsic
    def tile(
        typing: Any, n_rows: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any,
        out_stride: Any, ahead: Any, row_scale: Any, row_offset: Any, column_scale: Any, column_sum: Any,
        bias: Any,
    ) -> Any:  # fmt: skip
        """The integer tile by the matrix unit, which is open: of 12 rows, or of `most` where n_rows is more.

        n_steps is a multiple of 16. At a level without such a unit it does nothing.
        """

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            panel, scales, lanes = Panel(*arguments[1:8]), arguments[8:13], Lanes(builder)

            def put(height: int) -> None:
                for part in matrix_parts(builder, panel, height, prefetch * height // TILE_ROWS):
                    bring_back(builder, lanes, panel, part, scales, accumulate, twice)

            if not instructions().has_matrix_unit:
                return context.get_dummy_value()
            if most == BLOCK_ROWS:
                put(BLOCK_ROWS)
                return context.get_dummy_value()
            several = builder.icmp_signed(">", arguments[0], ir.Constant(I64, BLOCK_ROWS))
            with builder.if_else(several) as (then, otherwise):
                with then:
                    put(most)
                with otherwise:
                    put(BLOCK_ROWS)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 13)), implement

    return tile


UNIT_ROWS = N_BLOCKS * BLOCK_ROWS
unit_tile, unit_tile_add, unit_tile_twice = _unit_tile(), _unit_tile(accumulate=True), _unit_tile(twice=True)
unit_tile_alone = _unit_tile(most=BLOCK_ROWS, prefetch=WHOLE_PREFETCH)  # the only one that reads its panel
