"""Products of uint8 by int8 of whole tiles by the matrix unit (AMX): 12 rows by 64 bytes at once.

The columns of a panel lie as the unit reads them: four bytes of a step for each column. Of its eight
registers four hold sums (two blocks of 12 rows by two of 16 columns), two hold rows and two hold columns. A
kernel sets their shapes before its first tile and gives them back after its last one: a system saves less of
a thread that has none.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from engine.kernels.vector.build import I8, I32X16, I64, offset, pointer, store
from engine.kernels.vector.instructions import instructions
from engine.kernels.vector.simd import intrinsic

STEPS, ROW_BYTES = 16, 64  # of a register
BLOCK_ROWS, BLOCK_COLUMNS, N_BLOCKS = 12, 16, 2
_PALETTE = 1
_SUMS, _ROWS, _COLUMNS = ((0, 1), (2, 3)), (4, 5), (6, 7)
_HEIGHTS = [BLOCK_ROWS] * 6 + [STEPS] * 2


class MatrixUnit:
    """Emits the instructions of the unit for a tile of n_blocks times 12 rows."""

    def __init__(self, builder: Any, n_blocks: int) -> None:
        self.builder, self._n_blocks = builder, n_blocks

    def clear(self) -> None:
        """Set the sums to zero."""
        for sums in _SUMS[: self._n_blocks]:
            for register in sums:
                emit(self.builder, "tilezero", ir.Constant(I8, register))

    def add_products(self, left: Any, row_stride: Any, right: Any, column_stride: Any) -> None:
        """Add the products of 16 steps; left, right: addresses, strides in bytes."""
        builder = self.builder
        for half, register in enumerate(_COLUMNS):
            self._load(register, offset(builder, right, 4 * BLOCK_COLUMNS * half), column_stride)
        for block in range(self._n_blocks):
            if block:
                left = builder.add(left, builder.mul(row_stride, ir.Constant(I64, BLOCK_ROWS)))
            self._load(_ROWS[block], left, row_stride)
            for sums, register in zip(_SUMS[block], _COLUMNS, strict=True):
                numbers = (ir.Constant(I8, each) for each in (sums, _ROWS[block], register))
                emit(builder, "tdpbusd", *numbers)

    def store_sums(self, place: Any, stride: int) -> None:
        """Write the sums: 32-bit numbers, rows `stride` bytes apart."""
        for block in range(self._n_blocks):
            for half, register in enumerate(_SUMS[block]):
                at = offset(self.builder, place, BLOCK_ROWS * stride * block + 4 * BLOCK_COLUMNS * half)
                target = pointer(self.builder, at, I8)
                emit(
                    self.builder, "tilestored64", ir.Constant(I8, register), target, ir.Constant(I64, stride)
                )

    def _load(self, register: int, place: Any, stride: Any) -> None:
        source = pointer(self.builder, place, I8)
        emit(self.builder, "tileloadd64", ir.Constant(I8, register), source, stride)


def emit(builder: Any, name: str, *arguments: Any) -> None:
    """One instruction of the unit."""
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    insert: Any = cgutils.get_or_insert_function
    builder.call(insert(builder.module, kind, f"llvm.x86.{name}"), arguments)


def make_room(builder: Any, kind: Any) -> Any:
    """The address of a place on the stack for a value of this type, at a cache line's beginning.

    What numba itself allocates is filled with zeros each time.
    """
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    place.align = ROW_BYTES
    return builder.ptrtoint(place, I64)


@intrinsic
def open_matrix_unit(typing: Any) -> Any:
    """Set the shapes of the unit's registers, where the level has one."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if instructions().has_matrix_unit:
            lanes = [0] * 16
            lanes[0] = _PALETTE
            lanes[4:8] = [ROW_BYTES | ROW_BYTES << 16] * 4
            lanes[12:14] = [sum(_HEIGHTS[at + byte] << 8 * byte for byte in range(4)) for at in (0, 4)]
            place = make_room(builder, I32X16)
            store(builder, ir.Constant(I32X16, lanes), place)
            emit(builder, "ldtilecfg", pointer(builder, place, I8))
        return context.get_dummy_value()

    return types.void(), implement


@intrinsic
def close_matrix_unit(typing: Any) -> Any:
    """Give the registers back."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if instructions().has_matrix_unit:
            emit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), implement


@intrinsic
def has_matrix_unit(typing: Any) -> Any:
    """Whether the level has one: a constant for the compiler."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(1), int(instructions().has_matrix_unit))

    return types.boolean(), implement
