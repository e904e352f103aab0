"""The inner loop of every matrix product: a tile of 12 rows by 32 columns, summed in registers.

A tile walks along the inner dimension in steps of four bytes a row: four uint8 against int8, two
bfloat16 or one float32. How much of a tile is in registers at once, and what multiplies, is the
instruction set's (engine.kernels.vector.instructions); panels and results are the same in all. Rows are
`row_stride` bytes apart and may overlap, so a strided convolution over channels-last rows is a product
without any copying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from engine.kernels.vector.build import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    broadcast,
    constant,
    fused,
    integers,
    load,
    offset,
    pointer,
    store,
)
from engine.kernels.vector.instructions import BF16, HALF, INT8, INT8_ANY, SPLIT, instructions
from engine.kernels.vector.instructions import F32 as FLOAT
from engine.kernels.vector.simd import intrinsic

TILE_ROWS = 12
TILE_COLUMNS = 32
ROWS_A_POINTER = 3
STEP_BYTES = 4
COLUMN_BYTES = 4  # of a step, of a sum, and of what is known of a column
# Bytes a step that are fetched ahead: the four row tiles of a block fetch the next panel of columns between
# them; a tile whose panel no other one reads fetches all of it.
SHARED_PREFETCH, WHOLE_PREFETCH = 32, STEP_BYTES * TILE_COLUMNS
LINE_BYTES = 64


class Panel(NamedTuple):
    """Where a tile's operands begin, as values of llvmlite: addresses, and strides in bytes."""

    left: Any
    row_stride: Any
    right: Any
    n_steps: Any
    out: Any
    out_stride: Any
    ahead: Any
    plane: Any = None  # SPLIT, HALF: bytes from the first plane of a row to the second


class Part(NamedTuple):
    """A block of a tile: rows from `row` on, columns from `column` on, and its sums [rows][registers]."""

    row: int
    column: int
    sums: list[list[Any]]


class Lanes:
    """Loads and constants of a register's size."""

    def __init__(self, builder: Any) -> None:
        self.builder, self.n = builder, instructions().lanes
        self.f32, self.i32 = ir.VectorType(F32, self.n), ir.VectorType(I32, self.n)

    def column(self, place: Any, column: int, kind: Any = None) -> Any:
        """What an array at an address holds for the columns of a register."""
        return load(self.builder, offset(self.builder, place, COLUMN_BYTES * column), kind or self.f32)

    def row(self, place: Any, row: int) -> Any:
        """What an array of floats at an address holds for a row, in all lanes."""
        value = load(self.builder, offset(self.builder, place, 4 * row), F32)
        return broadcast(self.builder, value, self.n)

    def floats(self, sums: Any) -> Any:
        """Whole numbers as floats."""
        return self.builder.sitofp(sums, self.f32)


def prefetch_line(builder: Any, address: Any) -> None:
    """Ask for a cache line in the second-level cache; an address that does not exist is no error."""
    place = pointer(builder, address, I8)
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    insert: Any = cgutils.get_or_insert_function
    function = insert(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [place, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])


class _Loop:
    """Emits the loop along the inner dimension for a block of rows by registers of columns.

    n_columns: of the panel. n_chains: see Block. start: what the sums of columns begin with, an address
    of int32; None is zero. prefetch: bytes a step of what comes next that this block fetches.
    """

    def __init__(
        self, builder: Any, kind: str, n_columns: int, n_chains: int, start: Any, prefetch: int
    ) -> None:
        self.builder, self.kind, self.n_columns, self.n_chains = builder, kind, n_columns, n_chains
        self.lanes, self.start, self.prefetch = Lanes(builder), start, prefetch
        self.whole = kind in (INT8, INT8_ANY, SPLIT)
        self.sums_kind = self.lanes.i32 if self.whole else self.lanes.f32

    def emit(self, panel: Panel, row: int, n_rows: int, column: int, n_vectors: int) -> list[list[Any]]:
        """Sums [n_rows][n_vectors]; n_steps is at least 1 and a multiple of the chains."""
        builder, self.plane = self.builder, panel.plane
        starts = self._starts(column, n_vectors)
        before, loop = builder.basic_block, builder.append_basic_block("steps")
        end = builder.append_basic_block("steps_end")
        strides = [builder.mul(panel.row_stride, ir.Constant(I64, at)) for at in range(n_rows + row)]
        offsets = strides[:ROWS_A_POINTER]
        firsts = [builder.add(panel.left, strides[row + at]) for at in range(0, n_rows, ROWS_A_POINTER)]
        right = offset(builder, panel.right, COLUMN_BYTES * column)
        builder.branch(loop)
        builder.position_at_end(loop)
        step, columns = self._phi(I64, ir.Constant(I64, 0), before), self._phi(I64, right, before)
        rows = [self._phi(I64, first, before) for first in firsts]
        chains = [
            [[self._phi(self.sums_kind, start, before) for start in first] for _ in range(n_rows)]
            for first in starts
        ]
        moving = [(columns, STEP_BYTES * self.n_columns), *((pointer, STEP_BYTES) for pointer in rows)]
        if self.prefetch:
            fetched = self._phi(I64, panel.ahead, before)
            for line in range(0, self.prefetch * self.n_chains, LINE_BYTES):
                prefetch_line(builder, offset(builder, fetched, line))
            moving.append((fetched, self.prefetch))
        results = [self._step(rows, offsets, columns, sums, at) for at, sums in enumerate(chains)]
        following = builder.add(step, ir.Constant(I64, self.n_chains))
        step.add_incoming(following, loop)
        for value, size in moving:
            value.add_incoming(offset(builder, value, size * self.n_chains), loop)
        for old, new in zip(_flat(chains), _flat(results), strict=True):
            old.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, panel.n_steps), loop, end)
        builder.position_at_end(end)
        return self._join(results)

    def _starts(self, column: int, n_vectors: int) -> list[list[Any]]:
        """What the sums of each chain begin with, for each register of columns."""
        zero = integers(self.lanes.i32, 0) if self.whole else constant(0.0, self.lanes.n)
        zeros = [[zero] * n_vectors for _ in range(self.n_chains)]
        if self.start is None:
            return zeros
        columns = [column + self.lanes.n * n for n in range(n_vectors)]
        return [[self.lanes.column(self.start, at, self.lanes.i32) for at in columns], *zeros[1:]]

    def _join(self, chains: list[Any]) -> list[list[Any]]:
        add = self.builder.add if self.whole else self.builder.fadd
        total: list[list[Any]] = chains[0]
        for chain in chains[1:]:
            total = [
                [add(a, b) for a, b in zip(left, right, strict=True)]
                for left, right in zip(total, chain, strict=True)
            ]
        return total

    def _phi(self, kind: Any, start: Any, before: Any) -> Any:
        value = self.builder.phi(kind)
        value.add_incoming(start, before)
        return value

    def _step(
        self, rows: list[Any], offsets: list[Any], columns: Any, sums: list[list[Any]], ahead: int
    ) -> list[list[Any]]:
        builder, supplied, kind = self.builder, instructions(), self.kind
        base = STEP_BYTES * self.n_columns * ahead

        def right(n: int) -> Any:
            place = offset(builder, columns, base + 4 * self.lanes.n * n)
            return supplied.right(builder, kind, load(builder, place, self.lanes.i32))

        # A single row needs no vector of columns twice. Where registers are few, each is loaded where it is
        # multiplied: a compiler that has all of them before it runs out of registers.
        held = None if len(sums) == 1 and self.lanes.n < LANES else [right(n) for n in range(len(sums[0]))]
        results = []
        for row, totals in enumerate(sums):
            address = builder.add(rows[row // ROWS_A_POINTER], offsets[row % ROWS_A_POINTER])
            left = supplied.left(builder, kind, self._row(offset(builder, address, STEP_BYTES * ahead)))
            results.append(
                [
                    supplied.multiply_add(builder, kind, total, left, held[n] if held else right(n))
                    for n, total in enumerate(totals)
                ]
            )
        return results

    def _row(self, address: Any) -> Any:
        """A step of a row in all lanes; two where the row lies in two planes."""
        places = [address]
        if self.kind == HALF or (self.kind == SPLIT and instructions().saturates):
            places.append(self.builder.add(address, self.plane))
        values = [broadcast(self.builder, load(self.builder, at, I32), self.lanes.n) for at in places]
        return values[0] if len(values) == 1 else tuple(values)


def _flat(chains: list[Any]) -> list[Any]:
    return [value for chain in chains for row in chain for value in row]


def parts(
    builder: Any, kind: str, panel: Panel, n_rows: int, n_columns: int, start: Any = None,
    prefetch: int = SHARED_PREFETCH,
) -> Iterator[Part]:  # fmt: skip
    """The sums of a tile, a block at a time; code emitted between two of them lies between their loops."""
    n_vectors = n_columns // instructions().lanes
    block = instructions().block(kind, n_rows, n_vectors)
    for column in range(0, n_vectors, block.vectors):
        for row in range(0, n_rows, block.rows):
            ahead = prefetch if row == column == 0 else 0
            loop = _Loop(builder, kind, n_columns, block.chains, start, ahead)
            at = column * instructions().lanes
            height, width = min(block.rows, n_rows - row), min(block.vectors, n_vectors - column)
            yield Part(row, at, loop.emit(panel, row, height, at, width))


def vector_columns() -> int:
    """Columns of a tile of a single row: those of 8 registers, so that it reads a panel in one go."""
    return 8 * instructions().lanes


@intrinsic
def vector_tile_columns(typing: Any) -> Any:
    """The same inside kernels."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(I64, vector_columns())

    return types.intp(), implement


def place_of(builder: Any, panel: Panel, row: int, column: int) -> Any:
    """The address of a result."""
    start = builder.add(panel.out, builder.mul(panel.out_stride, ir.Constant(I64, row)))
    return offset(builder, start, COLUMN_BYTES * column)


def finish_each(
    part: Part, lanes: Lanes, columns: tuple[Any, ...], finish: Callable[[int, int, Any, list[Any]], None]
) -> None:
    """Call finish(row, column, sum, values of the columns) for every register of a block."""
    for n in range(len(part.sums[0])):
        column = part.column + lanes.n * n
        values = [lanes.column(place, column) for place in columns]
        for row, sums in enumerate(part.sums):
            finish(part.row + row, column, sums[n], values)


def bring_back(
    builder: Any, lanes: Lanes, panel: Panel, part: Part, scales: Any, accumulate: bool = False,
    twice: bool = False,
) -> None:  # fmt: skip
    """Integer sums of a block to float32 results; scales and the others: see the integer tile."""
    row_scale, row_offset, *columns = scales

    def finish(row: int, column: int, sums: Any, values: list[Any]) -> None:
        factor, total, shift = values
        target = place_of(builder, panel, row, column)
        start = load(builder, target, lanes.f32) if accumulate else shift
        value = builder.fmul(lanes.floats(sums), factor)
        start = fused(builder, lanes.row(row_offset, row), total, start)
        result = fused(builder, value, lanes.row(row_scale, row), start)
        store(builder, result, target)
        if twice:
            half = builder.lshr(panel.out_stride, ir.Constant(I64, 1))
            store(builder, result, builder.add(target, half))

    finish_each(part, lanes, tuple(columns), finish)


def _choose(builder: Any, any_codes: Any, emit: Callable[[str], None]) -> None:
    """Emit the product of pair-safe codes, and that of any codes where it is another one."""
    if not instructions().saturates:
        emit(INT8)
        return
    unsafe = builder.icmp_signed("!=", any_codes, ir.Constant(I64, 0))
    with builder.if_else(unsafe) as (then, otherwise):
        with then:
            emit(INT8_ANY)
        with otherwise:
            emit(INT8)


def _integer_tile(
    accumulate: bool, n_rows: int = TILE_ROWS, twice: bool = False, prefetch: int = SHARED_PREFETCH
) -> Any:
    @intrinsic
    def tile(
        typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
        ahead: Any, row_scale: Any, row_offset: Any, column_scale: Any, column_sum: Any, bias: Any,
        any_codes: Any,
    ) -> Any:  # fmt: skip
        """out = row_scale * column_scale * sums + row_offset * column_sum + bias (or the old out).

        All but the strides (bytes), n_steps (of four elements) and any_codes are addresses. any_codes: not
        0 where the codes are not pair-safe. Where `twice`, each row goes to its place and to the one half a
        stride behind it.
        """

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            panel, lanes = Panel(*arguments[:7]), Lanes(builder)

            def emit(kind: str) -> None:
                for part in parts(builder, kind, panel, n_rows, TILE_COLUMNS, prefetch=prefetch):
                    bring_back(builder, lanes, panel, part, arguments[7:12], accumulate, twice)

            _choose(builder, arguments[12], emit)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 13)), implement

    return tile


def _float_tile(kind: str, accumulate: bool, n_rows: int = TILE_ROWS, n_columns: int = TILE_COLUMNS) -> Any:
    @intrinsic
    def tile(
        typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
        ahead: Any, bias: Any,
    ) -> Any:  # fmt: skip
        """out = sums + bias (or the old out); addresses but for the strides (bytes) and n_steps."""

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            panel, lanes = Panel(*arguments[:7]), Lanes(builder)

            def finish(row: int, column: int, sums: Any, values: list[Any]) -> None:
                target = place_of(builder, panel, row, column)
                start = load(builder, target, lanes.f32) if accumulate else values[0]
                store(builder, builder.fadd(sums, start), target)

            for part in parts(builder, kind, panel, n_rows, n_columns or vector_columns()):
                finish_each(part, lanes, (arguments[7],), finish)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 8)), implement

    return tile


int8_tile, int8_tile_add = _integer_tile(False), _integer_tile(True)
int8_tile_twice = _integer_tile(False, twice=True)
# For the few rows of a decoder's step, and the last rows of a block.
int8_tile_1, int8_tile_2, int8_tile_4, int8_tile_6, int8_tile_8, int8_tile_alone = (
    _integer_tile(False, n_rows, prefetch=WHOLE_PREFETCH) for n_rows in (1, 2, 4, 6, 8, TILE_ROWS)
)
bf16_tile, bf16_tile_add = _float_tile(BF16, False), _float_tile(BF16, True)
f32_tile = _float_tile(FLOAT, False)
NARROW_ROWS, NARROW_COLUMNS = 8, 48  # for groups of 48 channels
bf16_vector_tile = _float_tile(BF16, False, 1, 0)  # a single row by vector_columns(), for a recurrence
bf16_narrow_tile = _float_tile(BF16, False, NARROW_ROWS, NARROW_COLUMNS)
