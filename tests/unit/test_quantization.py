"""Pair-safe codes: exact in arithmetic that saturates at 16 bits, and within half a step of any weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.runtime.pair_safe import (
    MAX_CODE,
    MAX_PAIR,
    is_pair_safe,
    quantize_columns,
    quantize_stored,
    quantize_tensor,
)

Array = NDArray[np.float32]
LOW, HIGH = -(1 << 15), (1 << 15) - 1


def saturating_product(activations: NDArray[np.uint8], codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """uint8 [m, n_in] by int8 [n_in, n_out] as pmaddubsw does: sums of two products, cut off at 16 bits."""
    total = np.zeros((len(activations), codes.shape[1]), np.int64)
    for start in range(0, codes.shape[0], 2):
        pair = slice(start, start + 2)
        total += np.clip(activations[:, pair].astype(np.int64) @ codes[pair].astype(np.int64), LOW, HIGH)
    return total


def worst_activations(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """For every column, 255 where its codes are positive, and the opposite; [2 * n_out, n_in]."""
    return np.concatenate([codes.T > 0, codes.T < 0]).astype(np.uint8) * np.uint8(255)


def assert_exact(codes: NDArray[np.int8], rng: np.random.Generator) -> None:
    random = rng.integers(0, 256, (20, len(codes)), dtype=np.uint8)
    for activations in (random, worst_activations(codes), np.full_like(random, 255)):
        exact = activations.astype(np.int64) @ codes.astype(np.int64)
        np.testing.assert_array_equal(saturating_product(activations, codes), exact)


def make_weight(kind: str, n_in: int, n_out: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((n_in, n_out)).astype(np.float32)
    if kind == "constant":
        weight[:] = rng.standard_normal(n_out)
    elif kind == "one outlier":
        weight[rng.integers(n_in)] *= 1000
    elif kind == "one sign":
        weight = np.abs(weight)
    elif kind == "ties":  # many values exactly between two codes
        weight = rng.integers(-256, 257, (n_in, n_out)).astype(np.float32) / 2
    elif kind == "zeros":
        weight[:, ::2] = 0
    elif kind == "tiny":
        weight *= np.float32(1e-30)
    return weight


KINDS = ("normal", "constant", "one outlier", "one sign", "ties", "zeros", "tiny")


@given(
    kind=st.sampled_from(KINDS),
    n_in=st.integers(1, 40),
    n_out=st.integers(1, 9),
    seed=st.integers(0, 1 << 32),
    one_scale=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_codes_are_exact_in_saturating_arithmetic_and_half_a_step_off_at_most(
    kind: str, n_in: int, n_out: int, seed: int, one_scale: bool
) -> None:
    weight = make_weight(kind, n_in, n_out, seed)
    codes, scale = (quantize_tensor if one_scale else quantize_columns)(weight)
    assert codes.dtype == np.int8
    assert scale.dtype == np.float32
    assert codes.shape == weight.shape
    assert scale.shape == (() if one_scale else (n_out,))
    assert np.abs(codes.astype(int)).max() <= MAX_CODE
    assert is_pair_safe(codes).all()
    assert_exact(codes, np.random.default_rng(seed))
    assert (np.abs(codes * scale.astype(np.float64) - weight) <= 0.50001 * scale).all()


@given(n_in=st.integers(0, 7), n_out=st.integers(0, 4), seed=st.integers(0, 1 << 32), large=st.booleans())
@settings(deadline=None, max_examples=300)
def test_is_pair_safe_says_what_the_worst_activations_do(
    n_in: int, n_out: int, seed: int, large: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = [-128, -127, -65, -64, -63, -1, 0, 1, 63, 64, 65, 127]
    codes = (rng.choice(values, (n_in, n_out)) if large else rng.integers(-128, 128, (n_in, n_out))).astype(
        np.int8
    )
    activations = worst_activations(codes)
    exact = activations.astype(np.int64) @ codes.astype(np.int64)
    same = (saturating_product(activations, codes) == exact).all(axis=0)
    np.testing.assert_array_equal(is_pair_safe(codes), same)


def test_plain_codes_are_not_exact_where_pair_safe_ones_are() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 32)).astype(np.float32)
    plain = quantize_stored(weight)[0]
    assert not is_pair_safe(plain).all()
    activations = worst_activations(plain)
    exact = activations.astype(np.int64) @ plain.astype(np.int64)
    assert (saturating_product(activations, plain) != exact).any()
    assert_exact(quantize_columns(weight)[0], rng)


def test_a_step_is_no_longer_than_the_bounds_ask_for() -> None:
    weight = np.array([[100, 1, 0, 3], [50, -1, 0, 3], [-128, 0.5, 0, 3]], np.float32)
    codes, scale = quantize_columns(weight)
    steps = [150 / MAX_PAIR, 1 / MAX_CODE, 1e-12 / MAX_CODE, 6 / MAX_PAIR]
    np.testing.assert_allclose(scale, steps, rtol=1e-6)
    np.testing.assert_array_equal(codes, [[85, 127, 0, 64], [43, -127, 0, 64], [-109, 64, 0, 64]])
    assert quantize_tensor(weight)[1] == pytest.approx(150 / MAX_PAIR)


def test_a_normal_weight_costs_a_third_of_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((768, 256)).astype(np.float32)
    ratio = quantize_columns(weight)[1] / quantize_stored(weight)[1]
    assert ratio.min() >= 1 - 1e-6
    assert 1.2 < ratio.mean() < 1.4


def test_two_values_halfway_between_codes_do_not_pass_the_bound() -> None:
    codes, scale = quantize_columns(np.array([[64.5, -64.5], [63.5, -63.5]], np.float32))
    np.testing.assert_array_equal(scale, [1, 1])
    np.testing.assert_array_equal(codes.sum(axis=0), [MAX_PAIR, -MAX_PAIR])


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 0)])
def test_empty_and_single_rows(shape: tuple[int, int]) -> None:
    weight = np.ones(shape, np.float32)
    codes, scale = quantize_columns(weight)
    assert codes.shape == shape
    assert scale.shape == shape[1:]
    assert quantize_tensor(weight)[0].shape == shape
    assert (codes == MAX_CODE).all() or shape[0] == 2
