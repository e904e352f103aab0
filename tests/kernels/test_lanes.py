"""Groups of eight lanes against numpy, at every length around a group's."""

from __future__ import annotations

import numpy as np
import pytest

from engine.decoding.labels import build_labels
from engine.decoding.state import read_hypotheses
from engine.kernels._jit import kernel
from engine.kernels.ctc.prune import list_at_least
from engine.kernels.ctc.stay import lowest_bits, select_tokens
from engine.kernels.vector import lanes
from engine.types import Hypothesis, Word

pytestmark = pytest.mark.levels


@kernel
def select(row, spoken, blank, token_min, tokens, probs):
    return select_tokens(row, spoken, blank, token_min, tokens, probs)


@kernel
def list_ranks(ranks, n, floor, chosen):
    return list_at_least(ranks, n, floor, chosen)


@kernel
def compare(numbers, doubles, keys, other, number, key):
    """Bits of every comparison, then the choice of the larger lanes, the largest, and the lowest bits."""
    a, b = lanes.load(doubles.ctypes.data), lanes.load(other.ctypes.data)
    larger = lanes.choose(lanes.above(a, b), a, b)
    lanes.store(other.ctypes.data, larger)
    return (
        lanes.at_least(a, b), lanes.above(a, b), lanes.equal_32(numbers.ctypes.data, number),
        lanes.equal_64(keys.ctypes.data, key), lanes.not_negative_32(numbers.ctypes.data),
        lanes.largest(larger), lowest_bits(3), lowest_bits(64), lowest_bits(1000),
    )  # fmt: skip


def to_bits(values):
    return int(sum(1 << i for i, value in enumerate(values) if value))


@pytest.mark.parametrize("seed", range(5))
def test_comparisons_equal_numpy(seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-2, 3, 8).astype(np.int32)
    keys = rng.integers(0, 3, 8).astype(np.uint64) << np.uint64(61)
    a, b = rng.integers(-2, 3, 8) * 0.5, rng.integers(-2, 3, 8) * 0.5
    larger = np.maximum(a, b)
    key = keys[3]
    wanted = (
        to_bits(a >= b), to_bits(a > b), to_bits(numbers == -1), to_bits(keys == key), to_bits(numbers >= 0),
        larger.max(), 7, 2**64 - 1, 2**64 - 1,
    )  # fmt: skip
    assert compare(numbers, a, keys, b, -1, key) == wanted
    np.testing.assert_array_equal(b, larger)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 53, 64, 65])
def test_ranks_are_listed_in_order(n):
    ranks = np.random.default_rng(n).random(n + 8)
    chosen = np.full(n + 8, -1, np.int32)
    count = list_ranks(ranks, n, 0.4, chosen)
    assert chosen[:count].tolist() == np.flatnonzero(ranks[:n] >= 0.4).tolist()


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 29, 64, 100])
@pytest.mark.parametrize("token_min", [-5.0, -0.5, -3.4e38])
def test_tokens_are_selected_as_defined(size, token_min):
    rng = np.random.default_rng(size)
    for frame in range(20):
        row = np.log(rng.dirichlet(np.full(size, 0.1)) + 1e-30).astype(np.float32)
        row[rng.random(size) < 0.2] = -np.inf
        spoken, blank = (rng.random(size) < 0.8).astype(np.uint8), frame % size
        spoken[blank] = 1
        allowed = np.where(spoken != 0, row, -np.inf)
        best = allowed.max()
        kept = np.flatnonzero((allowed >= token_min) | (allowed == best)) if best > -np.inf else []
        tokens, probs = np.zeros(size, np.int32), np.zeros(size + 1)
        n, largest = select(row, spoken, blank, token_min, tokens, probs)
        assert tokens[:n].tolist() == list(kept)
        assert largest == (best if n else 0.0)
        np.testing.assert_allclose(probs[tokens[:n]], np.exp(allowed[tokens[:n]] - best), rtol=1e-5)
        assert np.count_nonzero(probs) == np.count_nonzero(probs[tokens[:n]])


def test_readings_are_the_public_types():
    labels = build_labels(["<pad>", "|", "j", "a", "o"], 0, "|")
    numbers = np.array([2, 0, 0, 1, 2, 4, 2, 3, 2, 4], np.int64)  # words of each; those; ends; tokens
    values = np.array([-2.0, -3.0, -0.5, 0.0, 0.5, 1.0, 0.75, 1.25, 0.9, 0.8])
    ja, jo = Word("ja", 0.5, 0.75, 0.9), Word("jo", 1.0, 1.25, 0.8)
    found = 2, numbers, values
    first, second = read_hypotheses(found, (), labels)
    assert type(first) is Hypothesis and first == Hypothesis("ja jo", (ja, jo), -2.0, -0.5, -2.5)
    assert second == Hypothesis("", (), -3.0, 0.0, -3.0)
    assert type(first.words[0]) is Word and hash(first.words[0]) == hash(ja) and hash(first)
    with pytest.raises(AttributeError):
        first.words[0].text = "nein"
    with pytest.raises(AttributeError):
        first.text = "nein"
    single = 1, np.array([1, 0, 2, 2, 4], np.int64), np.array([-1.0, 0.0, 1.0, 1.25, 0.8])
    (settled,) = read_hypotheses(single, (ja,), labels)
    assert settled == Hypothesis("ja jo", (ja, jo), -1.0, 0.0, -1.0)
