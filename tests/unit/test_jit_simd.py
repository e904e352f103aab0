"""Functions of vectors as intrinsics: their accuracy, their limits, and where they may run."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.vector import levels, simd
from tests.reference import encoder_kernels_reference as reference
from tests.reference.level_kernel import level_kernel

pytestmark = pytest.mark.levels

needs_vectors = pytest.mark.skipif(
    not levels.has_vector_kernels(), reason="no vector kernels at this instruction set level"
)
F32 = np.float32
NAMES = ("exp", "sigmoid", "tanh", "relu", "sum", "max", "min", "bytes")


@level_kernel
def apply(name: int, source: int, n: int, target: int) -> None:
    for at in range(0, n, 16):
        value = simd.load_f32(source + 4 * at)
        if name == 0:
            value = simd.exp(value)
        elif name == 1:
            value = simd.sigmoid(value)
        elif name == 2:
            value = simd.tanh(value)
        elif name == 3:
            value = simd.relu(value)
        elif name == 4:
            value = simd.splat(simd.sum_lanes(value))
        elif name == 5:
            value = simd.splat(simd.max_lanes(value))
        elif name == 6:
            value = simd.splat(simd.min_lanes(value))
        if name == 7:
            simd.store_u8(target + at, value)
        else:
            simd.store_f32(target + 4 * at, value)


def run(name: str, values: np.ndarray) -> np.ndarray:
    row = np.ascontiguousarray(np.resize(values, -(-len(values) // 16) * 16), F32)
    out = np.zeros_like(row)
    apply(NAMES.index(name), row.ctypes.data, len(row), out.ctypes.data)
    return out.view(np.uint8)[: len(values)] if name == "bytes" else out[: len(values)]


@needs_vectors
def test_exp_is_as_near_as_it_says_and_small_results_vanish() -> None:
    values = np.linspace(-87, 88, 200_001).astype(F32)
    found = run("exp", values)
    # Its argument times log2(e) is rounded to float32: half a unit in the last place of up to 127.
    rounding = 2.0**-24 * np.abs(values) * 1.5
    assert (np.abs(found / np.exp(values.astype(np.float64)) - 1) <= 2.8e-6 + rounding).all()
    near = np.abs(values) < 0.3
    assert np.abs(found[near] / np.exp(values[near].astype(np.float64)) - 1).max() < 3e-6
    tiny = run("exp", np.array([-88, -100, -1e30, -np.inf], F32))
    assert (tiny >= 0).all() and (tiny < 1.2e-38).all()


@needs_vectors
@pytest.mark.parametrize(("name", "twin"), [("sigmoid", reference.sigmoid), ("tanh", np.tanh)])
def test_sigmoid_and_tanh_equal_their_definitions(name: str, twin) -> None:  # type: ignore[no-untyped-def]
    values = np.r_[np.linspace(-50, 50, 100_000), -1e30, 1e30, -np.inf, np.inf].astype(F32)
    found = run(name, values)
    np.testing.assert_allclose(found, twin(values.astype(np.float64)), rtol=0, atol=2e-6)
    assert found.min() >= (-1 if name == "tanh" else 0)
    assert found.max() <= 1


@needs_vectors
def test_lanes_are_reduced_whichever_holds_the_value() -> None:
    for lane in range(16):
        values = np.zeros(16, F32)
        values[lane] = 7
        assert (run("sum", values) == 7).all()
        assert (run("max", values) == 7).all()
        assert (run("min", -values) == -7).all()
    values = np.random.default_rng(0).standard_normal(16).astype(F32)
    assert (run("max", values) == values.max()).all()
    assert (run("min", values) == values.min()).all()
    np.testing.assert_allclose(run("sum", values), values.sum(), rtol=1e-6)
    np.testing.assert_array_equal(run("relu", values), np.maximum(values, 0))


@needs_vectors
def test_bytes_are_cut_to_whole_numbers() -> None:
    assert run("bytes", np.array([0, 0.99, 1, 127.5, 128, 254.99, 255, 255.5], F32)).tolist() == [
        0, 0, 1, 127, 128, 254, 255, 255,
    ]  # fmt: skip
