"""Attention in int8: its codes, its results within what rounding its weights explains, and hostile rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.kernels.encoder.attention_int8 import (
    SEGMENT,
    WORK_FLOATS,
    Int8Rows,
    attend_int8,
    quantize_keys,
    quantize_queries,
    quantize_values,
)
from engine.kernels.vector import simd, simd_int8
from engine.kernels.vector.instructions import instructions
from engine.native.buffers import make_codes, place_codes
from engine.native.layers import Sinks
from tests.reference import encoder_kernels_reference as reference
from tests.reference.level_kernel import level_kernel

pytestmark = pytest.mark.levels

F32 = np.float32
LOG2_E = np.log2(np.e)
TILE, PANEL = 12, 32
EXP2_ERROR = 7.6e-5  # of the kernel's 2^x
SHARPER = 2**0.0862  # a value's scale is so much coarser than its largest number needs


class Decoded(NamedTuple):
    """What codes say: rows [n, d], codes [n, d] and scales [n, n_heads]."""

    rows: np.ndarray
    codes: np.ndarray
    scale: np.ndarray


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def quantized(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, n_heads: int, n_more: int = 0
) -> Int8Rows:
    """Codes of rows [n, d], with room for n_more positions behind them."""
    (n_rows, d), n_keys = query.shape, len(key)
    codes = make_codes(n_rows, -(-(n_keys + n_more) // PANEL) * PANEL, n_heads, d // n_heads)
    codes.queries[n_rows:] = 0xAA  # behind the rows lies anything
    codes.query_scale[:, n_rows:] = np.nan
    for quantize, rows in ((quantize_queries, query), (quantize_keys, key), (quantize_values, value)):
        quantize(rows.ctypes.data, rows.strides[0], len(rows), n_heads, d // n_heads, 0, codes)
    return codes


def attended(codes: Int8Rows, first: int, n_rows: int) -> np.ndarray:
    """Rows [n_rows, d] from the row `first` on, taken as one block."""
    n_heads, d = len(codes.key_scale), codes.queries.shape[1]
    out = np.full((n_rows + 2 * TILE, d + PANEL), np.nan, F32)
    work = np.full(WORK_FLOATS, np.nan, F32)
    attend_int8(
        codes, first, n_rows, n_heads, d // n_heads, work.ctypes.data, out.ctypes.data, out.strides[0]
    )  # fmt: skip
    assert np.isnan(out[-(-n_rows // TILE) * TILE :]).all()
    return out[:n_rows, :d]


def scaled(codes: np.ndarray, scale: np.ndarray) -> Decoded:
    """From codes [n, n_heads, head_dim]."""
    rows = codes * scale[..., None].astype(np.float64)
    return Decoded(rows.reshape(len(codes), -1), codes.reshape(len(codes), -1).astype(np.float64), scale)


def joined(rows: np.ndarray) -> np.ndarray:
    """Rows of codes from what store_row_codes writes: one plane, or the even and the odd bytes apart."""
    even, odd = np.split(rows, 2)
    if not instructions().saturates:
        return even
    return (even.view(np.uint16) | odd.view(np.uint16) << 8).view(np.uint8)


def decoded(codes: Int8Rows, n_rows: int, n_keys: int) -> tuple[Decoded, Decoded, Decoded]:
    """Queries (with their factor), keys and values; the values' scales are those of their codes."""
    n_heads, d = len(codes.key_scale), codes.queries.shape[1]
    head_dim = d // n_heads
    query = joined(codes.queries)[:n_rows].astype(np.int64).reshape(n_rows, n_heads, head_dim) - 128
    keys = codes.keys.reshape(n_heads, -1, head_dim // 4, PANEL, 4).transpose(1, 3, 0, 2, 4)
    keys = keys.reshape(-1, n_heads, head_dim)
    assert (codes.key_start == -128 * keys.sum(2, dtype=np.int64).T).all()
    n_panels = -(-head_dim // PANEL)
    values = codes.values.reshape(n_heads, n_panels, -1, PANEL, 4).transpose(2, 4, 0, 1, 3)
    values = values.reshape(len(keys), n_heads, -1)
    assert not values[:, :, head_dim:].any()
    assert not values[n_keys:].any()
    assert not codes.value_rate[:, n_keys:].any()
    return (
        scaled(query, codes.query_scale[:, :n_rows].T / LOG2_E),
        scaled(keys[:n_keys], codes.key_scale[:, :n_keys].T),
        scaled(values[:n_keys, :, :head_dim], 1 / codes.value_rate[:, :n_keys].T.astype(np.float64)),
    )


def check(codes: Int8Rows, n_rows: int, n_keys: int, bias: np.ndarray | None = None) -> None:
    """Nothing but the rounding of weights, and the errors of 2^x and of float32, moves a result."""
    query, key, value = decoded(codes, n_rows, n_keys)
    n_heads = len(codes.key_scale)
    shift = np.zeros(n_keys) if bias is None else bias
    wanted, rounding = reference.attention_in_codes(
        query.rows, key.rows, value.codes, value.scale, shift, n_heads, SEGMENT
    )
    largest = np.abs(query.rows).reshape(n_rows, n_heads, -1).sum(2).max() * np.abs(key.rows).max()
    reach = largest + np.abs(codes.value_log[:, :n_keys]).max() + 8
    # 2^x of a weight, its scale, and the factor of its segment; a score in float32 is off by its
    # last places, and a code by half a step where its weight is that much too large.
    factor = 6 * EXP2_ERROR + 16 * 2.0**-24 * reach
    assert factor < 0.2
    terms = np.abs(value.rows).max(0) + 255 * rounding.max(0)
    found = attended(codes, 0, n_rows)
    assert (np.abs(found - wanted) <= rounding * (1 + factor) + factor * terms).all()


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80])
@pytest.mark.parametrize("n_keys", [1, 2, 31, 32, 33, 127, 128, 129, 161, 300])
@pytest.mark.parametrize("n_heads", [1, 3])
def test_attention_is_moved_by_the_rounding_of_its_weights_only(
    head_dim: int, n_keys: int, n_heads: int
) -> None:
    query, key, value = (1.5 * normal(seed, n_keys, n_heads * head_dim) for seed in range(3))
    codes = quantized(query, key, value, n_heads)
    check(codes, n_keys, n_keys)
    exact = reference.attention(
        query.astype(np.float64) / np.sqrt(head_dim), *(x.astype(np.float64) for x in (key, value)),
        np.zeros(n_keys), n_heads,
    )  # fmt: skip
    assert np.linalg.norm(attended(codes, 0, n_keys) - exact) < 0.025 * np.linalg.norm(exact)


def test_the_mass_of_a_long_tail_is_kept_behind_a_single_large_weight() -> None:
    """A thousand weights of 1/600 of the largest: less than half a step of it, more mass than it has."""
    n_keys, d = 1024, 64
    query, key = np.ones((1, d), F32), np.zeros((n_keys, d), F32)
    key[0] = np.log(600) / 8
    value = normal(5, n_keys, d) * F32(0.1) + np.r_[-np.ones((1, d)), np.ones((n_keys - 1, d))].astype(F32)
    found = attended(quantized(query, key, value, 1), 0, 1)
    weights = np.r_[1.0, np.full(n_keys - 1, 1 / 600)]
    wanted = weights @ value / weights.sum()
    # The tail in the segment of the large weight may vanish: 127 of 1023.
    lost = (SEGMENT - 1) / 600 / weights.sum()
    assert np.abs(found - wanted).max() < lost * 1.5
    assert np.abs(found[0, :].mean() - wanted.mean()) < lost * 1.2
    assert found.mean() > 0  # one scale for the whole row would leave the large weight's -1


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 5, 130]),
    st.sampled_from([16, 64]),
    st.sampled_from(["zero", "equal", "tiny", "huge", "one", "mixed"]),
    st.sampled_from(["zero", "equal", "tiny", "huge", "one", "mixed"]),
)
def test_hostile_rows(seed: int, n_keys: int, head_dim: int, of_keys: str, of_values: str) -> None:
    rng = np.random.default_rng(seed)

    def rows(kind: str, most: int) -> np.ndarray:
        base = rng.standard_normal((n_keys, 2 * head_dim))
        powers = rng.uniform(-30, most, (n_keys, 1))
        lone = np.where(np.arange(2 * head_dim) % head_dim == 3, 100.0, 1e-3)
        factors = {
            "zero": 0.0,
            "equal": 0.0,
            "tiny": 1e-30,
            "huge": 10.0**most,
            "one": lone,
            "mixed": 10.0**powers,
        }
        return (base * factors[kind] + (0.7 if kind == "equal" else 0.0)).astype(F32)

    key, value = rows(of_keys, 11), rows(of_values, 15)  # beyond 1.27e12, keys are cut
    query = rng.standard_normal((n_keys, 2 * head_dim)).astype(F32)
    query /= max(1.0, float(np.abs(key).max()))  # scores that float32 tells apart
    codes = quantized(query, key, value, 2)
    check(codes, n_keys, n_keys)
    for found, given_rows, coarser in zip(
        decoded(codes, n_keys, n_keys), (query / np.sqrt(head_dim), key, value), (1, 1, SHARPER), strict=True
    ):
        split = np.abs(given_rows.reshape(n_keys, 2, -1)).max(2)
        step = np.repeat(np.maximum(split, 1e-12) / 127, head_dim, axis=1) * coarser * (1 + 2e-4)
        assert (np.abs(found.codes) <= 127).all()
        error = np.abs(found.rows - given_rows)
        assert (error <= step * 0.5 + 2e-4 * np.abs(given_rows) + 1e-13).all()


@pytest.mark.parametrize("size", [1e9, 1e18, 3e38])
def test_scores_beyond_float32_give_a_mean_of_values(size: float) -> None:
    query, key, value = (normal(seed, 40, 64) * F32(1) for seed in range(3))
    query, key = (np.clip(rows, -1, 1) * F32(size) for rows in (query, key))
    found = attended(quantized(query, key, value, 2), 0, 40)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= np.abs(value).max(0) * 1.02).all()


def test_equal_keys_give_the_mean_of_the_values() -> None:
    value = normal(0, 300, 64)
    found = attended(quantized(normal(1, 5, 64), np.full((300, 64), 3.0, F32), value, 2), 0, 5)
    np.testing.assert_allclose(found, np.tile(value.mean(0), (5, 1)), atol=0.02)


def test_a_row_does_not_depend_on_its_block() -> None:
    codes = quantized(*(normal(seed, 100, 96) for seed in range(3)), 2)
    whole = attended(codes, 0, 100)
    for first, n_rows in ((48, 48), (96, 4), (12, 1), (5, 30)):
        np.testing.assert_array_equal(attended(codes, first, n_rows), whole[first : first + n_rows])


@pytest.mark.parametrize("n_frames", [1, 30, 31, 33, 127])
@pytest.mark.parametrize("head_dim", [48, 64])
def test_sinks_are_positions_like_the_others(n_frames: int, head_dim: int) -> None:
    d, n_sinks = 2 * head_dim, 23
    query, key, value = (normal(seed, n_frames + n_sinks, d) for seed in range(3))
    bias = 2 * normal(4, n_sinks)
    codes = quantized(query[:n_frames], key[:n_frames], value[:n_frames], 2, n_sinks)
    place_codes(codes, n_frames, 2, Sinks(key[n_frames:], value[n_frames:], bias))
    check(codes, n_frames, n_frames + n_sinks, np.r_[np.zeros(n_frames), bias])


def test_a_sink_that_is_shut_off_counts_for_nothing() -> None:
    query, key, value = (normal(seed, 40, 64) for seed in range(3))
    without = quantized(query, key, value, 2)
    shut = quantized(query, key, value, 2, 23)
    place_codes(shut, 40, 2, Sinks(normal(5, 23, 64), 1e6 * normal(6, 23, 64), np.full(23, -1e30, F32)))
    np.testing.assert_array_equal(attended(shut, 0, 40), attended(without, 0, 40))


@level_kernel
def apply(kind: int, source: int, n: int, target: int) -> None:
    for at in range(0, n, 16):
        value = simd.load_f32(source + 4 * at)
        if kind == 0:
            value = simd_int8.exp2(value)
        elif kind == 1:
            value = simd_int8.log2_above(value)
        simd.store_f32(target + 4 * at, value)
    if kind == 2:
        simd.store_f32(target, simd_int8.max_rows(source))
        simd.store_f32(target + 64, simd_int8.sum_rows(source))


def test_powers_and_logarithms_are_as_near_as_they_say() -> None:
    values = np.linspace(-126, 127, 200_000, dtype=F32)
    found = np.zeros_like(values)
    apply(0, values.ctypes.data, len(values), found.ctypes.data)
    np.testing.assert_allclose(found, np.exp2(values.astype(np.float64)), rtol=EXP2_ERROR)
    values = np.repeat(np.array([-1e30, -3e38, -200, 0], F32), 16)
    apply(0, values.ctypes.data, len(values), found.ctypes.data)
    np.testing.assert_allclose(found[:64:16], [0, 0, 0, 1], rtol=EXP2_ERROR)
    values = np.geomspace(1e-12, 3e38, 160_000).astype(F32)
    apply(1, values.ctypes.data, len(values), found.ctypes.data)
    above = found[: len(values)] - np.log2(values.astype(np.float64))
    assert above.min() > -1e-5
    assert above.max() < 0.0862


def test_rows_are_reduced_each_for_itself() -> None:
    rows, found = normal(0, 12, 16), np.zeros((12, 16), F32)
    apply(2, rows.ctypes.data, rows.size, found.ctypes.data)
    np.testing.assert_array_equal(found[0, :12], rows.max(1))
    np.testing.assert_allclose(found[1, :12], rows.sum(1), atol=1e-5)
