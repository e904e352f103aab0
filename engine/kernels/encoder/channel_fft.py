"""Complex transforms of 256 points over time, 16 channels side by side in the lanes of a vector.

Nothing is ever moved between lanes, and nothing between points either: the forward transform leaves its
result in the order that four passes of radix 4 make (digits of the index reversed), the inverse one takes
it so. Between the two lie the rows of a matrix product in bfloat16, a row of pairs for each real part that
the product shall give. Points are 128 bytes: 16 real parts, then 16 imaginary ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from engine.kernels._jit import kernel
from engine.kernels.vector.build import F32, F32X16, I64, broadcast, fused, load, offset, store
from engine.kernels.vector.simd import emit_bf16_pairs, intrinsic

LENGTH = 256
N_BINS = LENGTH // 2 + 1
POINT_BYTES = 2 * 64
_QUARTER = LENGTH // 4
_ROOT_BYTES = 3 * 2 * 4
_PASSES = (LENGTH, LENGTH // 4, LENGTH // 16)  # lengths; the fourth pass, of 4, has no factors
Complex = tuple[Any, Any]


def _make_roots() -> NDArray[np.float32]:
    """exp(-2 pi i j m / length) for m = 1, 2, 3 and j up to a quarter of each pass's length: [84, 3, 2]."""
    angles = [-2 * np.pi * np.outer(np.arange(n // 4), (1, 2, 3)) / n for n in _PASSES]
    joined = np.concatenate(angles)
    return np.stack([np.cos(joined), np.sin(joined)], axis=-1).astype(np.float32)


ROOTS = _make_roots()
FIRST_BINS = np.array([16 * (b % 4) + 4 * (b // 4 % 4) + b // 16 for b in range(_QUARTER)])  # of each four


def _plus(builder: Any, a: Complex, b: Complex) -> Complex:
    return builder.fadd(a[0], b[0]), builder.fadd(a[1], b[1])


def _minus(builder: Any, a: Complex, b: Complex) -> Complex:
    return builder.fsub(a[0], b[0]), builder.fsub(a[1], b[1])


def _plus_i(builder: Any, a: Complex, b: Complex) -> Complex:
    """a + i b."""
    return builder.fsub(a[0], b[1]), builder.fadd(a[1], b[0])


def _minus_i(builder: Any, a: Complex, b: Complex) -> Complex:
    """a - i b."""
    return builder.fadd(a[0], b[1]), builder.fsub(a[1], b[0])


def _four_points(builder: Any, x: list[Complex], inverse: bool) -> list[Complex]:
    even, odd = _plus(builder, x[0], x[2]), _minus(builder, x[0], x[2])
    left, right = _plus(builder, x[1], x[3]), _minus(builder, x[1], x[3])
    first, last = (_plus_i, _minus_i) if inverse else (_minus_i, _plus_i)
    return [
        _plus(builder, even, left), first(builder, odd, right),
        _minus(builder, even, left), last(builder, odd, right),
    ]  # fmt: skip


def _turn(builder: Any, points: list[Complex], roots: Any, conjugate: bool) -> list[Complex]:
    """The second to the fourth point times their factors."""
    turned = points[:1]
    for index, (real, imaginary) in enumerate(points[1:]):
        place = offset(builder, roots, 8 * index)
        wr = broadcast(builder, load(builder, place, F32))
        wi = broadcast(builder, load(builder, offset(builder, place, 4), F32))
        wi = builder.fneg(wi) if conjugate else wi
        cross = builder.fneg(builder.fmul(imaginary, wi))
        turned.append(
            (
                fused(builder, real, wr, cross),
                fused(builder, real, wi, builder.fmul(imaginary, wr)),
            )
        )
    return turned


def _load_points(builder: Any, real: Any, imaginary: Any, step: Any) -> list[Complex]:
    steps = [builder.mul(step, ir.Constant(I64, index)) for index in range(4)]
    return [
        (
            load(builder, builder.add(real, at), F32X16),
            load(builder, builder.add(imaginary, at), F32X16),
        )
        for at in steps
    ]


def _store_points(builder: Any, points: list[Complex], target: Any, step: Any) -> None:
    for index, (real, imaginary) in enumerate(points):
        place = builder.add(target, builder.mul(step, ir.Constant(I64, index)))
        store(builder, real, place)
        store(builder, imaginary, offset(builder, place, POINT_BYTES // 2))


@intrinsic
def _forward(
    typing: Any, real: Any, imaginary: Any, step: Any, target: Any, target_step: Any, roots: Any
) -> Any:
    """A butterfly of four points `step` bytes apart, to places target_step apart. All are addresses."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real, imaginary, step, target, target_step, roots = arguments
        points = _four_points(builder, _load_points(builder, real, imaginary, step), False)
        _store_points(builder, _turn(builder, points, roots, False), target, target_step)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 6)), implement


@intrinsic
def _forward_to_rows(
    typing: Any, points: Any, row: Any, first: Any, second: Any, third: Any, fourth: Any
) -> Any:
    """The last butterfly, of four neighbours, to pairs for the product: two rows at each of four places.

    A pair's product with (wr, wi) is zr wr - zi wi in the first row and zr wi + zi wr in the second;
    at the third and fourth place, bins of negative frequency, with the conjugate of w.
    """

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, row, *places = arguments
        middle = offset(builder, source, POINT_BYTES // 2)
        loaded = _load_points(builder, source, middle, ir.Constant(I64, POINT_BYTES))
        for index, (real, imaginary) in enumerate(_four_points(builder, loaded, False)):
            conjugate, place = index >= 2, places[index]
            upper = (real, imaginary if conjugate else builder.fneg(imaginary))
            lower = (imaginary, builder.fneg(real) if conjugate else real)
            emit_bf16_pairs(builder, place, *upper)
            emit_bf16_pairs(builder, builder.add(place, row), *lower)
        return context.get_dummy_value()

    return types.void(*([types.intp] * 6)), implement


@intrinsic
def _inverse_of_rows(
    typing: Any, row: Any, first: Any, second: Any, third: Any, fourth: Any, points: Any
) -> Any:
    """The first butterfly back: four bins, each two rows of float32, to neighbouring points."""

    def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, *places, target = arguments
        loaded = [
            (load(builder, place, F32X16), load(builder, builder.add(place, row), F32X16)) for place in places
        ]
        _store_points(
            builder, _four_points(builder, loaded, True), target, ir.Constant(I64, POINT_BYTES)
        )  # fmt: skip
        return context.get_dummy_value()

    return types.void(*([types.intp] * 6)), implement


def _inverse(n_kept: int) -> Any:
    @intrinsic
    def butterfly(typing: Any, points: Any, step: Any, roots: Any) -> Any:
        """A butterfly back in place, of four points `step` bytes apart; the first n_kept are written."""

        def implement(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            points, step, roots = arguments
            loaded = _load_points(builder, points, offset(builder, points, POINT_BYTES // 2), step)
            turned = _turn(builder, loaded, roots, True)
            _store_points(builder, _four_points(builder, turned, True)[:n_kept], points, step)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 3)), implement

    return butterfly


_inverse_all, _inverse_first_half = _inverse(4), _inverse(2)


@kernel
def transform(
    real: int, imaginary: int, stride: int, points: int, pairs: int, row: int, bin_bytes: int
) -> None:  # fmt: skip
    """The spectrum of two signals at once, one as real and one as imaginary parts.

    Args:
        real, imaginary: addresses of 256 vectors of 16 floats each, stride bytes apart.
        points: address of scratch, 256 points.
        pairs: address in bfloat16 rows [129 bins, 4 rows], written: for each bin k the two rows of
            frequency k, then the two of 256 - k (unwritten for 0 and 128), each 16 pairs. Bin 128 is
            written for the conjugate of its weight, which is real.
        row, bin_bytes: bytes from row to row, and from bin to bin.
    """
    roots, quarter = ROOTS.ctypes.data, _QUARTER * POINT_BYTES
    for j in range(_QUARTER):
        source, shift = j * stride, imaginary - real
        target = points + j * POINT_BYTES
        place = real + source
        _forward(place, place + shift, _QUARTER * stride, target, quarter, roots + j * _ROOT_BYTES)
    roots += _QUARTER * _ROOT_BYTES
    for _ in range(2):
        quarter //= 4
        count = quarter // POINT_BYTES
        for j in range(count):
            for base in range(j * POINT_BYTES, LENGTH * POINT_BYTES, 4 * quarter):
                place = points + base
                _forward(place, place + 64, quarter, place, quarter, roots + j * _ROOT_BYTES)
        roots += count * _ROOT_BYTES
    for index in range(_QUARTER):
        k = FIRST_BINS[index]
        third = pairs + 2 * _QUARTER * bin_bytes if k == 0 else pairs + (128 - k) * bin_bytes + 2 * row
        _forward_to_rows(
            points + 4 * index * POINT_BYTES, row, pairs + k * bin_bytes, pairs + (k + 64) * bin_bytes,
            third, pairs + (64 - k) * bin_bytes + 2 * row,
        )  # fmt: skip


@kernel
def transform_back(sums: int, row: int, bin_bytes: int, points: int) -> None:
    """256 times the first 128 values of two signals from their spectrum.

    Args:
        sums: address in float32 rows [129 bins, 4 rows]: what the product made of the rows of transform.
        row, bin_bytes: bytes from row to row, and from bin to bin.
        points: address of 256 points, written: one signal's values as real parts, the other's as imaginary.
    """
    for index in range(_QUARTER):
        k = FIRST_BINS[index]
        third = sums + 2 * _QUARTER * bin_bytes if k == 0 else sums + (128 - k) * bin_bytes + 2 * row
        _inverse_of_rows(
            row, sums + k * bin_bytes, sums + (k + 64) * bin_bytes,
            third, sums + (64 - k) * bin_bytes + 2 * row, points + 4 * index * POINT_BYTES,
        )  # fmt: skip
    roots, quarter = ROOTS.ctypes.data + len(ROOTS) * _ROOT_BYTES, 4 * POINT_BYTES
    for _ in range(2):
        count = quarter // POINT_BYTES
        roots -= count * _ROOT_BYTES
        for j in range(count):
            for base in range(j * POINT_BYTES, LENGTH * POINT_BYTES, 4 * quarter):
                _inverse_all(points + base, quarter, roots + j * _ROOT_BYTES)
        quarter *= 4
    roots -= _QUARTER * _ROOT_BYTES
    for j in range(_QUARTER):
        _inverse_first_half(points + j * POINT_BYTES, quarter, roots + j * _ROOT_BYTES)
