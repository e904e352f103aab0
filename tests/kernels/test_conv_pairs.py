"""Convolutions by five products for two outputs, against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.kernels.encoder.conv_pairs import plane_rows
from engine.kernels.encoder.conv_rows import PAIRED, Conv, convolve_pair_block, prepare_block
from engine.kernels.encoder.layer import BLOCK_ROWS
from engine.kernels.layers.dense import INT8, quantize_row
from engine.native.buffers import make_conv_buffers
from engine.native.layers import pack_conv, pair_conv
from engine.native.weights import Product, Weight
from engine.runtime.pair_safe import quantize_columns
from tests.reference import encoder_kernels_reference as reference

pytestmark = pytest.mark.levels

F32 = np.float32
HALF_STEP = 0.5 + 1e-4  # a step is a 255th of the range; the rest is the rounding of float32
PAIR_TILE = 24


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def make_conv(weight: np.ndarray, bias: np.ndarray) -> tuple[Conv, np.ndarray]:
    """A paired convolution of [3, n_in, n_out], and the weights that its codes mean."""
    codes, scale = quantize_columns(weight.reshape(-1, weight.shape[2]))
    product = Product(Weight(codes, scale, None, True), bias)
    conv = pair_conv(pack_conv(product, 3, weight.shape[1], 2, None), product)
    assert conv.kind == PAIRED
    return conv, product.weight.floats().astype(np.float64).reshape(weight.shape)


def planes_of(conv: Conv, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [5, plane, n], scale and offset [5, plane] of float32 rows, block by block."""
    buffers = make_conv_buffers(None, (conv,), len(rows))
    plane, (n_rows, n) = plane_rows(len(rows)), rows.shape
    buffers.first[:], buffers.first_scale[:], buffers.first_offset[:] = 77, np.nan, np.nan
    for start in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - start)
        buffers.block[:count, :n] = rows[start : start + count]
        arguments = (buffers.first, buffers.first_scale, buffers.first_offset, buffers)
        prepare_block(PAIRED, start, count, n_rows, n, *arguments)
    assert (buffers.first[5 * plane * n :] == 77).all()
    assert np.isnan(buffers.first_scale[5 * plane :]).all()
    return buffers.first, buffers.first_scale, buffers.first_offset


def convolve(conv: Conv, rows: np.ndarray) -> np.ndarray:
    """float32 [n_outputs, n_out], in blocks."""
    planes = planes_of(conv, rows)
    n_rows, n_out = (len(rows) - 3) // 2 + 1, conv.dense.padded
    found = np.full((n_rows, n_out), np.nan, F32)
    for start in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - start)
        out = np.full((BLOCK_ROWS + 1, n_out + 16), np.nan, F32)
        convolve_pair_block(conv, *planes, start, count, n_rows, out.ctypes.data, out.strides[0])
        assert np.isnan(out[:, n_out:]).all()
        assert np.isnan(out[-(-count // PAIR_TILE) * PAIR_TILE :]).all()
        found[start : start + count] = out[:count, :n_out]
    return found


@pytest.mark.parametrize("n_rows", [3, 4, 5, 6, 7, 47, 48, 49, 97, 99, 151])
def test_the_planes_hold_odd_rows_differences_and_every_second_even_row(n_rows: int) -> None:
    conv, _ = make_conv(normal(0, 3, 64, 32), normal(1, 32))
    rows = normal(2, n_rows, 64) * np.geomspace(1e-3, 10, n_rows).astype(F32)[:, None]
    codes, scale, offset = planes_of(conv, rows)
    plane = plane_rows(n_rows)
    codes = codes[: 5 * plane * 64].reshape(5, plane, 64)
    wanted = {
        0: rows[1::4],
        1: rows[3::4],
        2: rows[0::4][: len(rows[2::4])] - rows[2::4],
        3: rows[4::4] - rows[2::4][: len(rows[4::4])],
        4: rows[2::4],
    }
    for index, values in wanted.items():
        for at, row in enumerate(np.ascontiguousarray(values)):
            target = np.zeros(64, np.uint8)
            place = index * plane + at
            assert (scale[place], offset[place]) == quantize_row(row.ctypes.data, 64, target.ctypes.data)
            np.testing.assert_array_equal(codes[index, at], target)
        assert (codes[index, len(values) :] == 77).all()


@pytest.mark.parametrize("n_out", [32, 96])
@pytest.mark.parametrize("n_rows", [3, 5, 7, 49, 51, 97, 99, 197])
def test_small_whole_numbers_are_convolved_exactly(n_out: int, n_rows: int) -> None:
    """Rows and differences each have a range of 255, so steps of one; no sum of neighbours passes 128."""
    rng = np.random.default_rng(n_rows)
    weight, bias = rng.integers(-30, 31, (3, 64, n_out)).astype(F32), normal(1, n_out)
    weight[1, 0], weight[1, 1] = 127, 0  # the scale of every column is one, and so is that of w0 + w2
    rows = rng.integers(0, 100, (n_rows, 64)).astype(F32)
    rows[:, 0], rows[:, 1] = 155 + 0 * rows[:, 0], 0
    rows[0::4, 2:4], rows[2::4, 2:4] = (155, 0), (0, 100)  # differences from -100 to 155
    rows[1::2, 2:4], rows[2::4, 4], rows[1::2, 4] = 0, 255, 255
    rows[0::4, 4] = 255
    rows[:, 0] = np.where(np.arange(n_rows) % 2 == 1, 255, rows[:, 0])
    conv, exact = make_conv(weight, bias)
    np.testing.assert_allclose(exact, weight, rtol=1e-6)
    wanted = reference.convolve(rows, weight, bias, 2)
    np.testing.assert_allclose(convolve(conv, rows), wanted, rtol=0, atol=0.1)


def bound(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The largest error of each output: half a step of every quantised row, and of the sum of two weights."""

    def half_steps(values: np.ndarray) -> np.ndarray:
        low, high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
        return HALF_STEP * np.maximum(high - low, 1e-20) / 255

    rows = rows.astype(np.float64)
    n = (len(rows) - 3) // 2 + 1
    even, odd = rows[0::2], rows[1::2]
    sizes = np.abs(weight).sum(1)  # [3, n_out]
    columns = np.maximum(np.abs(weight).max((0, 1)), 1e-12) / 127
    middle = np.abs(weight[0] + weight[2])
    step = HALF_STEP * np.maximum(columns, middle.max(0) / 127)
    limits = np.empty((n, weight.shape[2]))
    for t in range(n):
        shared, other, tap = (even[t + 1], even[t], 0) if t % 2 == 0 else (even[t], even[t + 1], 2)
        limits[t] = half_steps(odd[t : t + 1]) * sizes[1] + half_steps((other - shared)[None]) * sizes[tap]
        limits[t] += half_steps(shared[None]) * (middle + step).sum(0) + step * np.abs(shared).sum()
        # float32: sums of four products, each the size of codes times weights.
        reach = np.abs(odd[t]).max() + np.abs(other).max() + 2 * np.abs(shared).max()
        limits[t] += 3e-6 * (reach * sizes.sum(0) + np.abs(bias))
    return limits


@given(
    n_rows=st.integers(3, 150),
    n_in=st.sampled_from([32, 64, 96]),
    level=st.sampled_from([0.0, 1.0, -30.0]),
    loudest=st.sampled_from([1e-15, 1.0, 1e12]),
    smooth=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_the_error_is_within_that_of_quantisation(
    n_rows: int, n_in: int, level: float, loudest: float, smooth: bool, seed: int
) -> None:
    """Loud beside quiet rows, rows far from zero, equal neighbours, columns with one large weight."""
    rows = (normal(seed, n_rows, n_in) + F32(level)) * F32(loudest)
    rows *= np.geomspace(1e-5, 1, n_rows).astype(F32)[:, None]
    if smooth:
        rows[:] = rows[-1]
    weight, bias = normal(seed + 1, 3, n_in, 32), F32(loudest) * normal(seed + 2, 32)
    weight[:, :, 1], weight[0, 0, 1], weight[2, 0, 1] = 1e-3, 50, 50
    weight[2, :, 2] = -weight[0, :, 2]  # their sum is nothing
    weight[:, :, 3] = 0
    conv, exact = make_conv(weight, bias)
    error = np.abs(convolve(conv, rows) - reference.convolve(rows, exact, bias, 2))
    assert (error <= bound(rows, exact, bias)).all()


def test_a_pair_of_outputs_knows_only_its_seven_rows() -> None:
    conv, _ = make_conv(normal(0, 3, 64, 32), normal(1, 32))
    rows = normal(2, 203, 64)
    whole = convolve(conv, rows)
    for start in (0, 4, 52, 100):
        np.testing.assert_array_equal(convolve(conv, rows[start:])[:40], whole[start // 2 :][:40])
    for n_rows in (3, 5, 7, 9, 51, 99):
        np.testing.assert_array_equal(convolve(conv, rows[:n_rows]), whole[: (n_rows - 3) // 2 + 1])


@pytest.mark.parametrize(("width", "stride", "integer"), [(2, 2, True), (3, 1, True), (3, 2, False)])
def test_other_convolutions_stay_as_they_are(width: int, stride: int, integer: bool) -> None:
    weight = normal(0, width * 64, 32)
    codes, scale = quantize_columns(weight)
    held = Weight(codes, scale, None, True) if integer else Weight(None, None, weight, False)
    product = Product(held, None)
    conv = pack_conv(product, width, 64, stride, None)
    assert pair_conv(conv, product) is conv
    assert (conv.kind == INT8) == integer
