"""Row-wise kernels and matrix products of the encoder against their slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.kernels.layers.dense import Dense, multiply_rows, quantize_row, round_row, to_bf16
from engine.kernels.layers.rows import add_row, copy_row, gelu_row, normalize_row, scale_row, softmax_row
from engine.native.packing import pack_bf16, pack_int8
from engine.runtime.pair_safe import quantize_columns
from tests.reference import encoder_kernels_reference as reference

pytestmark = pytest.mark.levels

F32 = np.float32
HALF_STEP = 0.5 + 1e-4  # a step is a 255th of the range; the rest is the rounding of float32
# Spans of less than the largest float32, so that the range itself is a number.
NUMBERS = st.floats(-(2.0**126), 2.0**126, width=32)
USUAL = st.floats(-100, 100, width=32)


def rows_of_floats(numbers: st.SearchStrategy[float] = NUMBERS) -> st.SearchStrategy[np.ndarray]:
    return arrays(F32, st.sampled_from([16, 48, 64]), elements=numbers)


def quantize(row: np.ndarray) -> tuple[np.ndarray, float, float]:
    codes = np.full(len(row) + 16, 77, np.uint8)
    scale, offset = quantize_row(row.ctypes.data, len(row), codes.ctypes.data)
    assert (codes[len(row) :] == 77).all()
    return codes[: len(row)], scale, offset


def assert_quantized(row: np.ndarray) -> None:
    codes, scale, offset = quantize(row)
    wanted, wanted_scale, _ = reference.quantize_row(row)
    assert scale == pytest.approx(wanted_scale, rel=1e-6)
    back = codes.astype(np.float64) * scale + offset
    assert np.abs(back - row.astype(np.float64)).max() <= HALF_STEP * scale
    # Half a step, and one more where the zero point is a tie: then it may be rounded up or down.
    assert np.abs(codes - wanted).max() <= 1.5 + 1e-3
    assert (codes.astype(F32) * F32(scale) + F32(offset))[row == 0].sum() == 0  # exactly


@given(st.one_of(rows_of_floats(), rows_of_floats(USUAL)))
@settings(max_examples=300, deadline=None)
def test_a_quantised_row_is_within_half_a_step(row: np.ndarray) -> None:
    assert_quantized(row)


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [3.7],
        [-3.7],
        [1e-45],
        [1e-45, -1e-45],
        [1e-39, 2e-39],
        [1e-21, -1e-22],
        [3e38],
        [-3e38, 1.0],
        [3e38, 1e-30, 0.0],
        [1.0] * 15 + [1e6],
        [-127.5, 127.5],
        [-0.5, 254.5],
        [-1.5, 0.54],  # the zero point is 187.5
    ],
)
def test_hard_rows_are_quantised(values: list[float]) -> None:
    assert_quantized(np.resize(np.array(values, F32), 32))
    assert_quantized(np.array([*values, *[0.0] * (32 - len(values))], F32))


def test_the_codes_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        row = (rng.standard_normal(512) * rng.uniform(0.01, 10) + rng.uniform(-3, 3)).astype(F32)
        codes, _, _ = quantize(row)
        wanted, _, _ = reference.quantize_row(row)
        clear = np.abs(wanted % 1 - 0.5) > 1e-3
        np.testing.assert_array_equal(codes[clear], np.rint(wanted)[clear])
        assert clear.mean() > 0.98


def normal_floats() -> st.SearchStrategy[np.ndarray]:
    return rows_of_floats(st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False))


@given(normal_floats())
@settings(max_examples=300, deadline=None)
def test_bfloat16_is_the_nearest_even_number(row: np.ndarray) -> None:
    found = np.zeros(len(row) + 16, np.uint16)
    round_row(row.ctypes.data, len(row), found.ctypes.data)
    wanted = reference.bits_of_bf16(row)
    np.testing.assert_array_equal(found[: len(row)], wanted)
    assert not found[len(row) :].any()
    np.testing.assert_array_equal(to_bf16(row), wanted)


def test_ties_of_bfloat16_go_to_even_and_infinity_stays() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF, 0xBF808000, 0x7F800000], np.uint32)
    row = np.resize(bits, 16).view(F32)
    found = np.zeros(16, np.uint16)
    round_row(row.ctypes.data, 16, found.ctypes.data)
    assert found[:6].tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F81, 0xBF80, 0x7F80]
    np.testing.assert_array_equal(found, to_bf16(row))


def test_denormal_floats_become_zero_or_stay_denormal() -> None:
    row = np.array([1e-45, -1e-45, 1e-39, -1e-39] * 4, F32)
    found = np.zeros(16, np.uint16)
    round_row(row.ctypes.data, 16, found.ctypes.data)
    assert (np.abs(reference.from_bf16(found)) <= 1.1e-39).all()


@pytest.mark.parametrize("n", [16, 80, 512])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-12])
def test_layer_norm_equals_its_definition(n: int, epsilon: float) -> None:
    rng = np.random.default_rng(n)
    weight, bias = rng.standard_normal((2, n)).astype(F32)
    for factor, shift in ((1, 0), (1e-6, 0), (1e4, 0), (1, 30), (0, 2)):
        row = (rng.standard_normal(n) * factor + shift).astype(F32)
        wanted = reference.layer_norm(row, weight, bias, epsilon)
        out = np.empty(n, F32)
        arguments = (n, weight.ctypes.data, bias.ctypes.data, epsilon)
        normalize_row(row.ctypes.data, *arguments, out.ctypes.data)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-5 + 1e-6 * abs(shift) * (factor > 0))
        normalize_row(row.ctypes.data, *arguments, row.ctypes.data)  # in place
        np.testing.assert_array_equal(row, out)


def test_gelu_is_as_near_as_it_says() -> None:
    row = np.linspace(-12, 12, 16 * 20_000).astype(F32)
    wanted = reference.gelu(row)
    found = row.copy()
    gelu_row(found.ctypes.data, len(found))
    error = np.abs(found - wanted)
    assert error[np.abs(row) <= 4.5].max() < 8e-6
    assert (error / np.maximum(np.abs(row), 4.5)).max() < 5.1e-6  # beyond, Phi stays where 4.5 has left it


@pytest.mark.parametrize("n", [16, 96, 1504])
def test_softmax_equals_its_definition(n: int) -> None:
    rng = np.random.default_rng(n)
    for scores in (
        rng.standard_normal(n) * 5,
        np.zeros(n),
        np.r_[np.full(n - 1, -1e30), 4.0],
        np.r_[80.0, np.full(n - 1, -80.0)],
    ):
        row, weights = scores.astype(F32), np.zeros(n, np.uint16)
        total = softmax_row(row.ctypes.data, n, weights.ctypes.data)
        wanted = np.exp(row.astype(np.float64) - row.max())
        np.testing.assert_allclose(total, wanted.sum(), rtol=1e-5)
        np.testing.assert_allclose(reference.from_bf16(weights), wanted, rtol=2**-8, atol=1e-37)


def test_sums_copies_and_factors_touch_only_their_row() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 64)).astype(F32)
    target = left.copy()
    add_row(target.ctypes.data, right.ctypes.data, 48)
    np.testing.assert_array_equal(target, np.r_[(left + right)[:48], left[48:]])
    copy_row(right.ctypes.data, 32, target.ctypes.data)
    np.testing.assert_array_equal(target[:32], right[:32])
    scale_row(target.ctypes.data, 16, -0.25)
    np.testing.assert_array_equal(target[:16], right[:16] * F32(-0.25))
    np.testing.assert_array_equal(target[16:], np.r_[right[16:32], (left + right)[32:48], left[48:]])


def multiply(
    layer: Dense, rows: np.ndarray, n_rows: int, scale: np.ndarray, offset: np.ndarray, stride: int = 0
) -> np.ndarray:
    """rows with their slack -> float32 [n_rows, n_out]; checks that nothing behind the tiles is written."""
    n_written = -(-n_rows // 12) * 12
    out = np.full((n_written + 1, layer.padded), np.nan, F32)
    stride = stride or rows.strides[0]
    arguments = (rows.ctypes.data, stride, n_rows, scale, offset, out.ctypes.data, out.strides[0])
    multiply_rows(layer, *arguments)
    assert np.isnan(out[n_written]).all()
    return out[:n_rows, : layer.n_out]


@pytest.mark.parametrize(("n_in", "n_out"), [(16, 1), (48, 40), (64, 32), (160, 31), (512, 70)])
def test_integer_products_are_exact_up_to_the_last_scaling(n_in: int, n_out: int) -> None:
    rng = np.random.default_rng(n_in)
    weight = rng.integers(-127, 128, (n_in, n_out)).astype(np.int8)
    column_scale, bias = rng.uniform(1e-3, 1, n_out).astype(F32), rng.standard_normal(n_out).astype(F32)
    layer = pack_int8(weight, column_scale, bias)
    for n_rows in range(1, 51):
        rows = rng.integers(0, 256, (n_rows + 12, layer.n_in)).astype(np.uint8)
        rows[0], scale = 255, rng.uniform(1e-3, 1, n_rows + 12).astype(F32)
        zeros = rng.integers(0, 256, n_rows + 12)
        offset = (-scale * zeros).astype(F32)
        found = multiply(layer, rows, n_rows, scale, offset)
        used = slice(0, n_rows)
        arguments = (zeros[used], scale[used], weight, column_scale)
        wanted = reference.multiply_int8(rows[used, :n_in], *arguments, bias)
        terms = 255 * scale[used, None] * column_scale * np.abs(weight.astype(np.int64)).sum(0)
        assert (np.abs(found - wanted) <= 4e-7 * (terms + np.abs(bias))).all()
        rows[n_rows:], scale[n_rows:], offset[n_rows:] = 255, np.inf, np.nan
        np.testing.assert_array_equal(multiply(layer, rows, n_rows, scale, offset), found)


@pytest.mark.parametrize(("n_in", "n_out"), [(16, 1), (48, 40), (64, 32), (160, 31), (512, 70)])
def test_bfloat16_products_are_those_of_float32(n_in: int, n_out: int) -> None:
    rng = np.random.default_rng(n_in)
    weight, bias = rng.standard_normal((n_in, n_out)).astype(F32), rng.standard_normal(n_out).astype(F32)
    layer, none = pack_bf16(weight, bias), np.zeros(0, F32)
    for n_rows in range(1, 51):
        values = rng.standard_normal((n_rows + 12, layer.n_in)).astype(F32)
        rows = to_bf16(values)
        found = multiply(layer, rows, n_rows, none, none)
        left, right = reference.round_bf16(values[:n_rows, :n_in]), reference.round_bf16(weight)
        terms = np.abs(left) @ np.abs(right) + np.abs(bias)
        assert (np.abs(found - (left @ right + bias)) <= 2e-6 * terms).all()
        rows[n_rows:] = 0x7FC0  # not a number
        np.testing.assert_array_equal(multiply(layer, rows, n_rows, none, none), found)


def test_products_of_small_whole_numbers_are_exact() -> None:
    rng = np.random.default_rng(0)
    weight, values = rng.integers(-20, 21, (96, 33)), rng.integers(-100, 101, (36, 96))
    wanted = values[:25] @ weight
    none = np.zeros(0, F32)
    layer = pack_bf16(weight.astype(F32), None)
    np.testing.assert_array_equal(multiply(layer, to_bf16(values.astype(F32)), 25, none, none), wanted)
    ones, offset = np.ones(36, F32), np.full(36, -100, F32)
    layer = pack_int8(weight.astype(np.int8), np.ones(33, F32), None)
    found = multiply(layer, (values + 100).astype(np.uint8), 25, ones, offset)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("step", [32, 64])
def test_overlapping_rows_are_windows(step: int) -> None:
    rng = np.random.default_rng(step)
    n_in, n_rows = 96, 17
    line = rng.integers(-50, 51, step * 35 + n_in)
    weight = rng.integers(-20, 21, (n_in, 64))
    wanted = np.stack([line[step * row : step * row + n_in] @ weight for row in range(n_rows)])
    none, ones = np.zeros(0, F32), np.ones(36, F32)
    floats = to_bf16(line.astype(F32))
    layer = pack_bf16(weight.astype(F32), None)
    np.testing.assert_array_equal(multiply(layer, floats, n_rows, none, none, 2 * step), wanted)
    layer = pack_int8(weight.astype(np.int8), np.ones(64, F32), None)
    found = multiply(layer, (line + 50).astype(np.uint8), n_rows, ones, ones * -50, step)
    np.testing.assert_array_equal(found, wanted)


@given(arrays(F32, (8, 3), elements=USUAL))
@settings(max_examples=100, deadline=None)
def test_columns_are_quantised_to_within_half_a_step(weight: np.ndarray) -> None:
    codes, scale = quantize_columns(weight)
    assert np.abs(codes.astype(int)).max() <= 127
    assert (np.abs(codes * scale.astype(np.float64) - weight) <= HALF_STEP * scale).all()
