"""The inner loop of every matrix product: a tile of 12 rows by 32 columns held in registers.

A tile walks along the inner dimension in steps of four bytes a row: four uint8 against int8
(vpdpbusd), two bfloat16 (vdpbf16ps) or one float32. On a Zen 4 core at 3.7 GHz it makes 430 to 444 of
473 GOP/s in int8. Rows are `row_stride` bytes apart and may overlap, so a strided convolution over
channels-last rows is a product without any copying.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from engine.kernels.simd import (
    BF16X32,
    F32,
    F32X16,
    I8,
    I32,
    I32X16,
    I64,
    broadcast,
    call,
    constant,
    intrinsic,
    larger,
    load,
    multiply_add,
    pointer,
    store,
)

TILE_ROWS = 12
TILE_VECTORS = 2
TILE_COLUMNS = 32
ROWS_A_POINTER = 3
STEP_BYTES = 4
VECTOR_BYTES = 64
PREFETCH_BYTES = 32  # a step: the four row tiles of a block fetch the next panel of columns between them


def _accumulate(builder: Any, kind: str, total: Any, left: Any, right: Any) -> Any:
    """total + left * right: left is one step of a row in all lanes, right a step of 16 columns."""
    if kind == "int8":
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", I32X16, total, left, right)
    if kind == "bf16":
        pairs = [builder.bitcast(value, BF16X32) for value in (left, right)]
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", F32X16, total, *pairs)
    return multiply_add(builder, builder.bitcast(left, F32X16), builder.bitcast(right, F32X16), total)


def _prefetch(builder: Any, address: Any) -> None:
    """Ask for a cache line in the second-level cache; an address that does not exist is no error."""
    place = pointer(builder, address, I8)
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    insert: Any = cgutils.get_or_insert_function
    function = insert(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [place, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])


class _Loop:
    """Emits the loop along the inner dimension for n_rows x (16 * n_vectors) sums.

    n_chains: sums of every place that run side by side, so that few rows do not wait for each result.
    starts: what the sums of each vector of columns begin with instead of zero (one chain only).
    """

    def __init__(
        self,
        builder: Any,
        kind: str,
        n_rows: int,
        n_vectors: int,
        n_chains: int = 1,
        starts: list[Any] | None = None,
    ) -> None:
        self.builder, self.kind, self.n_rows, self.n_vectors = builder, kind, n_rows, n_vectors
        self.n_chains = n_chains
        zero = ir.Constant(I32X16, None) if kind == "int8" else constant(0.0)
        self.starts = starts or [zero] * n_vectors

    def emit(self, left: Any, row_stride: Any, right: Any, n_steps: Any, ahead: Any) -> list[list[Any]]:
        """Sums [n_rows][n_vectors]; n_steps is at least 1; a quarter panel from ahead on is prefetched."""
        builder = self.builder
        before, loop = builder.basic_block, builder.append_basic_block("steps")
        end = builder.append_basic_block("steps_end")
        offsets = [builder.mul(row_stride, ir.Constant(I64, row)) for row in range(ROWS_A_POINTER)]
        starts = [
            builder.add(left, builder.mul(row_stride, ir.Constant(I64, row)))
            for row in range(0, self.n_rows, ROWS_A_POINTER)
        ]
        builder.branch(loop)
        builder.position_at_end(loop)
        step, columns = self._phi(I64, ir.Constant(I64, 0), before), self._phi(I64, right, before)
        rows = [self._phi(I64, start, before) for start in starts]
        kind = I32X16 if self.kind == "int8" else F32X16
        chains = [
            [[self._phi(kind, start, before) for start in self.starts] for _ in range(self.n_rows)]
            for _ in range(self.n_chains)
        ]
        fetched = self._phi(I64, ahead, before)
        _prefetch(builder, fetched)
        results = [self._step(rows, offsets, columns, sums, at) for at, sums in enumerate(chains)]
        following = builder.add(step, ir.Constant(I64, self.n_chains))
        step.add_incoming(following, loop)
        for value, size in [
            (fetched, PREFETCH_BYTES),
            (columns, VECTOR_BYTES * self.n_vectors),
            *((row, STEP_BYTES) for row in rows),
        ]:
            value.add_incoming(builder.add(value, ir.Constant(I64, size * self.n_chains)), loop)
        for old, new in zip(_flat(chains), _flat(results), strict=True):
            old.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, n_steps), loop, end)
        builder.position_at_end(end)
        return self._join(results)

    def _join(self, chains: list[Any]) -> list[list[Any]]:
        add = self.builder.add if self.kind == "int8" else self.builder.fadd
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
        builder = self.builder
        base = VECTOR_BYTES * self.n_vectors * ahead
        right = [
            load(builder, builder.add(columns, ir.Constant(I64, base + VECTOR_BYTES * n)), I32X16)
            for n in range(self.n_vectors)
        ]
        results = []
        for row, totals in enumerate(sums):
            address = builder.add(rows[row // ROWS_A_POINTER], offsets[row % ROWS_A_POINTER])
            address = builder.add(address, ir.Constant(I64, STEP_BYTES * ahead))
            left = broadcast(builder, load(builder, address, I32))
            results.append(
                [
                    _accumulate(builder, self.kind, total, left, vector)
                    for total, vector in zip(totals, right, strict=True)
                ]
            )
        return results


def _flat(chains: list[Any]) -> list[Any]:
    return [value for chain in chains for row in chain for value in row]


def _integer_tile(
    accumulate: bool,
    n_rows: int = TILE_ROWS,
    n_vectors: int = TILE_VECTORS,
    n_chains: int = 1,
    twice: bool = False,
) -> Any:
    @intrinsic
    def tile(
        typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
        ahead: Any, row_scale: Any, row_offset: Any, column_scale: Any, column_sum: Any, bias: Any,
    ) -> Any:  # fmt: skip
        """out = row_scale * column_scale * sums + row_offset * column_sum + bias (or the old out).

        All but the strides (bytes) and n_steps (of four elements) are addresses. Where `twice`, each row
        goes to its place and to the one half a stride behind it.
        """

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, row_stride, right, n_steps, out, out_stride, ahead = arguments[:7]
            loop = _Loop(builder, "int8", n_rows, n_vectors, n_chains)
            sums = loop.emit(left, row_stride, right, n_steps, ahead)
            for n in range(n_vectors):
                at = ir.Constant(I64, VECTOR_BYTES * n)
                factor, total, shift = (
                    load(builder, builder.add(address, at), F32X16) for address in arguments[9:]
                )
                for row in range(n_rows):
                    scale, offset = (
                        broadcast(builder, load(builder, builder.add(a, ir.Constant(I64, 4 * row)), F32))
                        for a in arguments[7:9]
                    )
                    target = _place(builder, out, out_stride, row, n)
                    start = load(builder, target, F32X16) if accumulate else shift
                    value = builder.fmul(builder.sitofp(sums[row][n], F32X16), factor)
                    start = multiply_add(builder, offset, total, start)
                    result = multiply_add(builder, value, scale, start)
                    store(builder, result, target)
                    if twice:
                        half = builder.lshr(out_stride, ir.Constant(I64, 1))
                        store(builder, result, builder.add(target, half))
            return context.get_dummy_value()

        return types.void(*([types.intp] * 12)), implement

    return tile


def _float_tile(kind: str, accumulate: bool, n_rows: int = TILE_ROWS, n_vectors: int = TILE_VECTORS) -> Any:
    @intrinsic
    def tile(
        typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
        ahead: Any, bias: Any,
    ) -> Any:  # fmt: skip
        """out = sums + bias (or the old out); addresses but for the strides (bytes) and n_steps."""

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, row_stride, right, n_steps, out, out_stride, ahead, bias = arguments
            loop = _Loop(builder, kind, n_rows, n_vectors)
            sums = loop.emit(left, row_stride, right, n_steps, ahead)
            for n in range(n_vectors):
                shift = load(builder, builder.add(bias, ir.Constant(I64, VECTOR_BYTES * n)), F32X16)
                for row in range(n_rows):
                    target = _place(builder, out, out_stride, row, n)
                    start = load(builder, target, F32X16) if accumulate else shift
                    store(builder, builder.fadd(sums[row][n], start), target)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 8)), implement

    return tile


@intrinsic
def score_tile(
    typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
    ahead: Any, row_scale: Any, column_scale: Any, start: Any, bias: Any, tops: Any,
) -> Any:  # fmt: skip
    """out = row_scale * column_scale * (start + sums) + bias, and how far its rows reach.

    start: address of int32 [32]. tops: address of float32 [12, 16], whose lanes are raised to the
    largest results of their row. The others are as in the integer tile.
    """

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, row_stride, right, n_steps, out, out_stride, ahead, row_scale = arguments[:8]
        column_scale, start, bias, tops = arguments[8:]
        loop = _Loop(builder, "int8", TILE_ROWS, TILE_VECTORS, starts=_columns(builder, start, I32X16))
        sums = loop.emit(left, row_stride, right, n_steps, ahead)
        factors, shifts = (_columns(builder, place, F32X16) for place in (column_scale, bias))
        for row in range(TILE_ROWS):
            scale = _scalar(builder, row_scale, row)
            top_place = builder.add(tops, ir.Constant(I64, VECTOR_BYTES * row))
            top = load(builder, top_place, F32X16)
            for n in range(TILE_VECTORS):
                value = builder.fmul(builder.sitofp(sums[row][n], F32X16), factors[n])
                value = multiply_add(builder, value, scale, shifts[n])
                store(builder, value, _place(builder, out, out_stride, row, n))
                top = larger(builder, value, top)
            store(builder, top, top_place)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 12)), implement


@intrinsic
def mix_tile(
    typing: Any, left: Any, row_stride: Any, right: Any, n_steps: Any, out: Any, out_stride: Any,
    ahead: Any, old: Any, new: Any,
) -> Any:  # fmt: skip
    """out = old * out + new * sums; old and new are addresses of float32 [12], a factor for each row."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, row_stride, right, n_steps, out, out_stride, ahead, old, new = arguments
        loop = _Loop(builder, "int8", TILE_ROWS, TILE_VECTORS)
        sums = loop.emit(left, row_stride, right, n_steps, ahead)
        for row in range(TILE_ROWS):
            before, now = (_scalar(builder, place, row) for place in (old, new))
            for n in range(TILE_VECTORS):
                target = _place(builder, out, out_stride, row, n)
                kept = builder.fmul(load(builder, target, F32X16), before)
                value = builder.sitofp(sums[row][n], F32X16)
                store(builder, multiply_add(builder, value, now, kept), target)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 9)), implement


def _columns(builder: Any, place: Any, kind: Any) -> list[Any]:
    return [
        load(builder, builder.add(place, ir.Constant(I64, VECTOR_BYTES * n)), kind)
        for n in range(TILE_VECTORS)
    ]


def _scalar(builder: Any, place: Any, row: int) -> Any:
    return broadcast(builder, load(builder, builder.add(place, ir.Constant(I64, 4 * row)), F32))


def _place(builder: Any, out: Any, out_stride: Any, row: int, vector: int) -> Any:
    start = builder.add(out, builder.mul(out_stride, ir.Constant(I64, row)))
    return builder.add(start, ir.Constant(I64, VECTOR_BYTES * vector))


int8_tile, int8_tile_add = _integer_tile(False), _integer_tile(True)
int8_tile_twice = _integer_tile(False, twice=True)
# For the last rows of a block, and for the few rows of a decoder's step.
int8_tile_1, int8_tile_2 = _integer_tile(False, 1, n_chains=4), _integer_tile(False, 2, n_chains=2)
int8_tile_4, int8_tile_8 = _integer_tile(False, 4, n_chains=2), _integer_tile(False, 8)
bf16_tile, bf16_tile_add = _float_tile("bf16", False), _float_tile("bf16", True)
f32_tile = _float_tile("f32", False)
NARROW_ROWS, NARROW_VECTORS = 8, 3  # for groups of 48 channels
VECTOR_COLUMNS = 8 * 16  # a single row by 128 columns, for the steps of a recurrence
bf16_vector_tile = _float_tile("bf16", False, 1, 8)
bf16_narrow_tile = _float_tile("bf16", False, NARROW_ROWS, NARROW_VECTORS)
