"""Integer tiles on the hardest codes: every sum is the same whole number as in int64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.vector.instructions import instructions
from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.kernels._jit import address
from engine.kernels.layers.dense import INT8, Dense, multiply_rows, pack_weight
from engine.kernels.layers.order import put_in_order
from engine.kernels.vector.attention_tiles import mix_tile, score_tile
from engine.kernels.vector.gemm import (
    TILE_COLUMNS,
    TILE_ROWS,
    int8_tile_add,
    int8_tile_twice,
)
from engine.kernels.vector.matrix_unit import close_matrix_unit, open_matrix_unit
from engine.kernels.vector.ordered_tile import AT_ONCE, ORDERED_COLUMNS
from engine.kernels.vector.unit_tile import unit_tile_add, unit_tile_twice
from engine.native.packing import aligned, pack_int8
from engine.runtime.pair_safe import is_pair_safe, quantize_columns
from tests.reference.level_kernel import level_kernel

pytestmark = pytest.mark.levels

F32 = np.float32
LARGEST_INNER = 512  # 512 products of 255 * 128 are a whole number that float32 still holds exactly
SAFE_PAIRS = [(127, 1), (1, 127), (-127, -1), (-128, 0), (0, -128), (64, 64), (-64, -64), (127, -128),
              (-128, 127), (-127, 127), (0, 0)]  # fmt: skip
UNSAFE_PAIRS = [(127, 127), (-127, -127), (-128, -128), (-128, -1), (127, 2), (65, 64), (-65, -64)]
HARD_ROWS = [[255], [0], [255, 0], [0, 255], [255, 255, 0, 0], [1], [254, 255], [128, 127]]
Layer = tuple[Dense, np.ndarray]


@st.composite
def weights(draw: st.DrawFn, safe: bool) -> np.ndarray:
    """int8 [n_in, n_out] of hard pairs; any other codes too where they need not be pair-safe."""
    n_in = draw(st.sampled_from([32, 64, 96, 224, LARGEST_INNER]))
    n_out = draw(st.sampled_from([1, 31, 32, 33, 70]))
    kind = draw(st.sampled_from(["one pair", "mixed"] if safe else ["one pair", "mixed", "uniform"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "uniform":
        return rng.integers(-128, 128, (n_in, n_out)).astype(np.int8)
    pairs = np.array(SAFE_PAIRS if safe else SAFE_PAIRS + UNSAFE_PAIRS, np.int8)
    chosen = rng.integers(len(pairs), size=(n_in // 2, n_out))
    if kind == "one pair":
        chosen[:] = draw(st.integers(0, len(pairs) - 1))
    return np.ascontiguousarray(pairs[chosen].transpose(0, 2, 1).reshape(n_in, n_out))


@st.composite
def activations(draw: st.DrawFn, n_rows: int, n_in: int) -> np.ndarray:
    """uint8 [n_rows, n_in]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(0, 256, (n_rows, n_in)).astype(np.uint8)
    hard = draw(st.lists(st.sampled_from([None, *HARD_ROWS]), min_size=n_rows, max_size=n_rows))
    for row, pattern in zip(rows, hard, strict=True):
        if pattern is not None:
            row[:] = np.resize(np.array(pattern, np.uint8), n_in)
    return rows


def sums_of(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return rows.astype(np.int64) @ weight.astype(np.int64)


def multiplied(layer: Dense, rows: np.ndarray) -> np.ndarray:
    """float32 [n_rows, n_out], without any scaling."""
    n_rows = len(rows)
    n_whole = -(-n_rows // TILE_ROWS) * TILE_ROWS
    padded = np.full((n_whole + TILE_ROWS, rows.shape[1]), 255, np.uint8)
    padded[:n_rows] = rows
    out = np.full((n_whole, layer.padded), np.nan, F32)
    scale, offset = np.ones(n_whole, F32), np.zeros(n_whole, F32)
    place, stride = padded.ctypes.data, padded.strides[0]
    multiply_rows(layer, place, stride, n_rows, scale, offset, out.ctypes.data, out.strides[0])
    return out[:n_rows, : layer.n_out]


@pytest.mark.parametrize("safe", [True, False], ids=["pair-safe", "any codes"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_sums_of_every_height_are_exact(safe: bool, data: st.DataObject) -> None:
    weight = data.draw(weights(safe))
    layer = pack_int8(weight, np.ones(1, F32), None)
    assert layer.any_codes == int(not is_pair_safe(weight).all())
    assert not (safe and layer.any_codes)
    rows = data.draw(activations(data.draw(st.integers(1, 26)), len(weight)))
    np.testing.assert_array_equal(multiplied(layer, rows), sums_of(rows, weight))


def ordered(weight: np.ndarray) -> Dense:
    """A layer in order of its own at every level, also where the product has no use for it."""
    n_out = weight.shape[1]
    wide = np.pad(weight, ((0, 0), (0, -n_out % TILE_COLUMNS)))
    packed, steps = put_in_order(wide)
    ones, zeros = np.ones(wide.shape[1], F32), np.zeros(wide.shape[1], F32)
    return Dense.of(INT8, len(weight), n_out, aligned(packed), ones, zeros, zeros, steps=steps)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_sums_of_every_height_are_exact_in_another_order(data: st.DataObject) -> None:
    weight = data.draw(weights(safe=True))
    rows = data.draw(activations(data.draw(st.integers(1, 26)), len(weight)))
    np.testing.assert_array_equal(multiplied(ordered(weight), rows), sums_of(rows, weight))


def joined_steps(weight: np.ndarray) -> int:
    """Steps that are joined, of all panels; each pair is checked to fit 16 bits whatever the rows are."""
    packed, steps = put_in_order(weight)
    n_steps, total = len(weight) // 4, 0
    split = weight.reshape(n_steps, 4, -1, ORDERED_COLUMNS).transpose(2, 0, 3, 1)
    for panel, (n_joined, *places), whole in zip(packed, steps, split, strict=True):
        order = np.array(places) // 4
        assert sorted(order) == list(range(n_steps)) and (np.array(places) % 4 == 0).all()
        np.testing.assert_array_equal(panel.reshape(n_steps, ORDERED_COLUMNS, 4), whole[order])
        assert n_joined % AT_ONCE == 0 and 0 <= n_joined <= n_steps
        codes = panel[:n_joined].astype(int).reshape(-1, 2, 2 * ORDERED_COLUMNS, 2)  # pair, step, place, code
        for sign in (1, -1):
            assert np.maximum(sign * codes, 0).sum(axis=(1, 3)).max(initial=0) * 255 < 2**15
        total += int(n_joined)
    return total


@given(weight=weights(safe=True))
@settings(max_examples=100, deadline=None)
def test_steps_that_are_joined_fit_together(weight: np.ndarray) -> None:
    joined_steps(np.pad(weight, ((0, 0), (0, -weight.shape[1] % TILE_COLUMNS))))


@pytest.mark.parametrize(("largest", "share"), [(0, 1.0), (32, 1.0), (33, 0.0), (64, 0.0)])
def test_as_many_steps_are_joined_as_fit(largest: int, share: float) -> None:
    weight = np.full((96, 32), largest, np.int8)
    assert joined_steps(weight) == share * 2 * 24


def test_large_steps_are_joined_with_small_ones() -> None:
    weight = np.zeros((64, 32), np.int8)
    weight[:32] = 64
    assert joined_steps(weight) == 2 * 16


def test_most_steps_of_a_layer_are_joined() -> None:
    codes, _ = quantize_columns(np.random.default_rng(0).standard_normal((512, 64)).astype(F32))
    assert joined_steps(codes) > 0.9 * 4 * 128


@pytest.mark.parametrize("code", [127, -127, -128])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 8, 9, 12, 13])
def test_equal_codes_against_the_largest_activations_are_exact(code: int, n_rows: int) -> None:
    weight = np.full((LARGEST_INNER, 40), code, np.int8)
    rows = np.full((n_rows, LARGEST_INNER), 255, np.uint8)
    found = multiplied(pack_int8(weight, np.ones(1, F32), None), rows)
    assert (found == 255 * code * LARGEST_INNER).all()


@level_kernel
def add_tile(left, n_in, right, out, ones, zeros, any_codes):  # type: ignore[no-untyped-def]
    int8_tile_add(
        left, n_in, right, n_in // 4, out, 4 * TILE_COLUMNS, right, ones, zeros, ones, zeros, zeros, any_codes
    )


@level_kernel
def twice_tile(left, n_in, right, out, ones, zeros, any_codes):  # type: ignore[no-untyped-def]
    int8_tile_twice(
        left, n_in, right, n_in // 4, out, 8 * TILE_COLUMNS, right, ones, zeros, ones, zeros, zeros, any_codes
    )


@level_kernel
def scores(left, n_in, right, out, ones, start, zeros, tops, plane):  # type: ignore[no-untyped-def]
    score_tile(
        left, n_in, right, n_in // 4, out, 4 * TILE_COLUMNS, right, ones, ones, start, zeros, tops, plane
    )


@level_kernel
def mixture(left, n_in, right, out, old, new, plane):  # type: ignore[no-untyped-def]
    mix_tile(left, n_in, right, n_in // 4, out, 4 * TILE_COLUMNS, right, old, new, plane)


def in_planes(rows: np.ndarray) -> np.ndarray:
    """Rows as store_row_codes writes them where any codes need two planes: even bytes, then odd ones."""
    if not instructions().saturates:
        return rows
    pairs = np.ascontiguousarray(rows).view(np.uint16)
    return np.concatenate([pairs & 255, pairs >> 8]).view(np.uint8)


@pytest.mark.parametrize("safe", [True, False], ids=["pair-safe", "any codes"])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_sums_of_every_kind_of_tile_are_exact(safe: bool, data: st.DataObject) -> None:
    weight = data.draw(weights(safe))[:, :TILE_COLUMNS]
    weight = np.pad(weight, ((0, 0), (0, TILE_COLUMNS - weight.shape[1])))
    n_in = min(len(weight), 224)  # with what is added, still a number that float32 holds exactly
    weight = np.ascontiguousarray(weight[:n_in])
    rows = data.draw(activations(TILE_ROWS, n_in))
    wanted, any_codes = sums_of(rows, weight), int(not is_pair_safe(weight).all())
    panel = aligned(pack_weight(weight, 4))
    left, right = rows.ctypes.data, panel.ctypes.data
    ones, zeros = np.ones(TILE_COLUMNS, F32), np.zeros(TILE_COLUMNS, F32)
    one, zero = ones.ctypes.data, zeros.ctypes.data
    before = np.arange(TILE_ROWS * TILE_COLUMNS, dtype=F32).reshape(TILE_ROWS, TILE_COLUMNS)

    out = before.copy()
    add_tile(left, n_in, right, out.ctypes.data, one, zero, any_codes)
    np.testing.assert_array_equal(out, wanted + before)

    both = np.full((TILE_ROWS, 2, TILE_COLUMNS), np.nan, F32)
    twice_tile(left, n_in, right, both.ctypes.data, one, zero, any_codes)
    np.testing.assert_array_equal(both, np.stack([wanted, wanted], axis=1))

    split, plane = in_planes(rows), rows.size
    left = split.ctypes.data
    start = np.random.default_rng(n_in).integers(-(2**22), 2**22, TILE_COLUMNS).astype(np.int32)
    tops = np.full((TILE_ROWS, 16), -np.inf, F32)
    scores(left, n_in, right, out.ctypes.data, one, start.ctypes.data, zero, tops.ctypes.data, plane)
    np.testing.assert_array_equal(out, wanted + start)
    np.testing.assert_array_equal(tops.max(axis=1), (wanted + start).max(axis=1))

    out = before.copy()
    mixture(left, n_in, right, out.ctypes.data, one, one, plane)
    np.testing.assert_array_equal(out, wanted + before)


@pytest.mark.skipif(not instructions().has_matrix_unit, reason="no matrix unit at this instruction set level")
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_tiles_of_the_matrix_unit_are_those_of_vectors(data: st.DataObject) -> None:
    n_rows, n_in = (
        data.draw(st.sampled_from([1, 11, 12, 13, 23, 24])),
        data.draw(st.sampled_from([64, 192, 512])),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weight = rng.integers(-128, 128, (n_in, TILE_COLUMNS)).astype(np.int8)
    rows = rng.integers(0, 256, (2 * TILE_ROWS, n_in)).astype(np.uint8)
    scale, offset = (rng.standard_normal(2 * TILE_ROWS).astype(F32) for _ in range(2))
    layer = pack_int8(
        weight, rng.standard_normal(TILE_COLUMNS).astype(F32), rng.standard_normal(TILE_COLUMNS).astype(F32)
    )
    found = []
    for by_unit in (False, True):
        out = np.ones((4 * TILE_ROWS, TILE_COLUMNS), F32)
        put_tiles(by_unit, layer, rows, n_rows, scale, offset, out)
        found.append(out[: 2 * n_rows])
    np.testing.assert_array_equal(found[1], found[0])


@level_kernel
def put_tiles(by_unit, layer, rows, n_rows, scale, offset, out):
    """To each row of `out` what is added and twice written, by the unit or by vectors."""
    left, stride = address(rows), rows.shape[1]
    steps, target, out_stride = stride // 4, address(out), 2 * out.strides[0]
    row_scale, row_offset, right = address(scale), address(offset), layer.weight
    if by_unit:
        open_matrix_unit()
        unit_tile_twice(
            n_rows, left, stride, right, steps, target, out_stride, right, row_scale, row_offset,
            layer.scale, layer.column_sum, layer.bias,
        )  # fmt: skip
        unit_tile_add(
            n_rows, left, stride, right, steps, target, out_stride, right, row_scale, row_offset,
            layer.scale, layer.column_sum, layer.bias,
        )  # fmt: skip
        close_matrix_unit()
        return
    for at in range(0, n_rows, TILE_ROWS):
        int8_tile_twice(
            left + at * stride, stride, right, steps, target + at * out_stride, out_stride, right,
            row_scale + 4 * at, row_offset + 4 * at, layer.scale, layer.column_sum, layer.bias, 1,
        )  # fmt: skip
        int8_tile_add(
            left + at * stride, stride, right, steps, target + at * out_stride, out_stride, right,
            row_scale + 4 * at, row_offset + 4 * at, layer.scale, layer.column_sum, layer.bias, 1,
        )  # fmt: skip
