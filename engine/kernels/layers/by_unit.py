"""Rows by panels of columns where a matrix unit multiplies them: tiles of 24 rows, the last of 12."""

from __future__ import annotations

from engine.kernels._jit import inner
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.kernels.vector.matrix_unit import ROW_BYTES, close_matrix_unit, has_matrix_unit, open_matrix_unit
from engine.kernels.vector.unit_tile import UNIT_ROWS, unit_tile, unit_tile_alone

FEWEST_ROWS = 6  # fewer wait for their columns, whatever multiplies them


@inner
def unit_multiplies(n_bytes: int) -> bool:
    """Whether a matrix unit multiplies rows of so many bytes."""
    return has_matrix_unit() and n_bytes % ROW_BYTES == 0


@inner
def multiply_by_unit(
    rows: int, row_stride: int, n_rows: int, row_scale: int, row_offset: int, weight: int, n_in: int,
    n_columns: int, column_scale: int, column_sum: int, bias: int, out: int, out_stride: int,
) -> None:  # fmt: skip
    """Multiply prepared rows of codes by a packed layer; all but sizes and strides are addresses.

    Args:
        n_in: a multiple of 64.
        out: written up to a multiple of 12 rows.
    """
    open_matrix_unit()
    for panel in range(n_columns // TILE_COLUMNS):
        right, column = weight + panel * TILE_COLUMNS * n_in, 4 * TILE_COLUMNS * panel
        following = right + TILE_COLUMNS * n_in
        if n_rows <= TILE_ROWS:
            unit_tile_alone(
                n_rows, rows, row_stride, right, n_in // 4, out + column, out_stride, following,
                row_scale, row_offset, column_scale + column, column_sum + column, bias + column,
            )  # fmt: skip
            continue
        for row in range(0, n_rows, UNIT_ROWS):
            ahead = following + row // TILE_ROWS * 8 * n_in
            unit_tile(
                n_rows - row, rows + row * row_stride, row_stride, right, n_in // 4,
                out + row * out_stride + column, out_stride, ahead, row_scale + 4 * row, row_offset + 4 * row,
                column_scale + column, column_sum + column, bias + column,
            )  # fmt: skip
    close_matrix_unit()
