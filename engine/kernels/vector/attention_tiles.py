"""Tiles of attention: scores and mixtures in whole numbers, and float rows by bfloat16 keys or values."""

from __future__ import annotations

from typing import Any

from numba.core import types

from engine.kernels.vector.build import fused, larger, load, offset, store
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS, Lanes, Panel, finish_each, parts, place_of
from engine.kernels.vector.instructions import HALF, SPLIT
from engine.kernels.vector.simd import intrinsic


@intrinsic
def score_tile(
    typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
    ahead: Any, row_scale: Any, column_scale: Any, start: Any, bias: Any, tops: Any, plane: Any,
) -> Any:  # fmt: skip
    """out = row_scale * column_scale * (start + sums) + bias, and how far its rows reach.

    start: address of int32 [32]. tops: address of float32 [12, 16], of whose lanes the largest of a row is
    raised to the largest of its results. plane: see Panel. The others are as in the integer tile.
    """

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        panel = Panel(*arguments[:7])._replace(plane=arguments[12])
        row_scale, column_scale, start, bias, tops = arguments[7:12]
        lanes = Lanes(builder)

        for part in parts(builder, SPLIT, panel, TILE_ROWS, TILE_COLUMNS, start):
            columns = [part.column + lanes.n * n for n in range(len(part.sums[0]))]
            factors = [(lanes.column(column_scale, at), lanes.column(bias, at)) for at in columns]
            for row, sums in enumerate(part.sums, part.row):
                # Whichever lanes: all of them are compared in the end.
                place = offset(builder, tops, 64 * row)
                scale, top = lanes.row(row_scale, row), load(builder, place, lanes.f32)
                for total, column, (factor, shift) in zip(sums, columns, factors, strict=True):
                    value = builder.fmul(lanes.floats(total), factor)
                    value = fused(builder, value, scale, shift)
                    store(builder, value, place_of(builder, panel, row, column))
                    top = larger(builder, value, top)
                store(builder, top, place)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 13)), implement


@intrinsic
def mix_tile(
    typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
    ahead: Any, old: Any, new: Any, plane: Any,
) -> Any:  # fmt: skip
    """out = old * out + new * sums; old and new are addresses of float32 [12], a factor for each row."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        panel, (old, new) = Panel(*arguments[:7])._replace(plane=arguments[9]), arguments[7:9]
        lanes = Lanes(builder)

        def finish(row: int, column: int, sums: Any, values: list[Any]) -> None:
            target = place_of(builder, panel, row, column)
            kept = builder.fmul(load(builder, target, lanes.f32), lanes.row(old, row))
            store(builder, fused(builder, lanes.floats(sums), lanes.row(new, row), kept), target)

        for part in parts(builder, SPLIT, panel, TILE_ROWS, TILE_COLUMNS):
            finish_each(part, lanes, (), finish)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 10)), implement


def _half_tile(n_rows: int) -> Any:
    @intrinsic
    def tile(
        typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
        ahead: Any, bias: Any, plane: Any,
    ) -> Any:  # fmt: skip
        """out = sums + bias; addresses but for strides and plane (bytes) and n_steps (of two elements)."""

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            panel, lanes = Panel(*arguments[:7])._replace(plane=arguments[8]), Lanes(builder)

            def finish(row: int, column: int, sums: Any, values: list[Any]) -> None:
                store(builder, builder.fadd(sums, values[0]), place_of(builder, panel, row, column))

            for part in parts(builder, HALF, panel, n_rows, TILE_COLUMNS):
                finish_each(part, lanes, (arguments[7],), finish)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 9)), implement

    return tile


half_tile = _half_tile(TILE_ROWS)
half_tile_1, half_tile_2, half_tile_4, half_tile_6, half_tile_8 = (_half_tile(n) for n in (1, 2, 4, 6, 8))
