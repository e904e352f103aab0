"""Kernels of decoders against their slow twins."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.kernels.encoder.layer import BLOCK_ROWS, Norm
from engine.kernels.seq2seq.cross_attention import Remembered, attend_remembered, pack_block
from engine.kernels.seq2seq.layer import inherit
from engine.kernels.seq2seq.plan import CrossAttention, Layer, OwnedNorm, cross_at, dense_at, layer_at
from engine.kernels.seq2seq.rows import ABSENT, attend_places, exponentiate, log_softmax_rows
from engine.kernels.seq2seq.two_pass import remember
from engine.kernels.vector.gemm import TILE_ROWS
from engine.native.heads import multiply
from engine.native.packing import pack_bf16, pack_int8, pack_together
from engine.native.seq2seq_parts import Plan, make_work
from engine.native.two_pass import make_bias
from engine.runtime.pair_safe import quantize_columns
from tests.reference import seq2seq_reference as reference
from tests.reference.encoder_kernels_reference import bits_of_bf16, from_bf16
from tests.reference.level_kernel import level_kernel

pytestmark = pytest.mark.levels

F32 = np.float32
attend_one = level_kernel(attend_places)
exponentiate_row = level_kernel(exponentiate)
pack_rows = level_kernel(pack_block)
SIZES = [(1, 16), (4, 16), (2, 48), (8, 64)]
HARD = {"usual": 1.0, "flat": 0.0, "peaked": 30.0, "far apart": 1000.0}  # factors of the queries


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


@pytest.mark.parametrize(("n_heads", "head_dim"), SIZES)
@pytest.mark.parametrize("factor", HARD.values(), ids=HARD)
def test_attention_over_scattered_places(n_heads: int, head_dim: int, factor: float) -> None:
    d = n_heads * head_dim
    for n in (1, 2, 15, 16, 17, 40):
        memory, query = normal(n, 60, 2 * d), normal(n + 1, d) * F32(factor)
        chosen = np.random.default_rng(n).permutation(60)[:n]
        places = np.array([memory[row:].ctypes.data for row in chosen], np.int64)
        weights = np.full(n_heads * (-(-n // 16) * 16) + 1, np.nan, F32)
        out = np.full(d + 16, np.nan, F32)
        attend_one(query.ctypes.data, places, n, n_heads, head_dim, weights, out.ctypes.data)
        wanted = reference.attend(query, memory[chosen, :d], memory[chosen, d:], n_heads)
        np.testing.assert_allclose(out[:d], wanted, rtol=0, atol=2e-5 * max(1, factor / 30))
        assert np.isnan(out[d:]).all() and np.isnan(weights[-1])


def test_weights_are_no_subnormal_numbers() -> None:
    scores = np.linspace(-300, 5, 64).astype(F32)
    scores[-3:] = ABSENT
    wanted = np.exp(scores.astype(np.float64) - scores.max())
    total = exponentiate_row(scores.ctypes.data, 64)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=5e-18)
    np.testing.assert_allclose(total, wanted.sum(), rtol=1e-5)
    assert scores.min() * 1e-18 > np.finfo(F32).tiny  # nor are their products with anything usual


@pytest.mark.parametrize("vocab_size", [1, 15, 16, 17, 31, 32, 8263])
def test_log_softmax_equals_its_definition(vocab_size: int) -> None:
    padded = -(-vocab_size // 32) * 32
    rows = [
        normal(0, vocab_size) * 5,
        np.zeros(vocab_size),
        np.r_[60.0, np.full(vocab_size - 1, -60.0)],
        np.full(vocab_size, -1e4),
        np.r_[np.zeros(vocab_size - 1), 3e4],
    ]
    logits = np.full((len(rows) + 2, padded), np.nan, F32)
    logits[: len(rows), :vocab_size] = rows
    wanted = np.array([reference.log_softmax(row) for row in logits[: len(rows), :vocab_size]])
    compact = np.full(len(rows) * vocab_size + 16, np.nan, F32)
    out = compact[:-16].reshape(len(rows), vocab_size)
    log_softmax_rows(logits.copy(), len(rows), vocab_size, out)
    np.testing.assert_allclose(out, wanted, rtol=1e-6, atol=2e-5)
    log_softmax_rows(logits, len(rows), vocab_size, logits)
    np.testing.assert_array_equal(logits[: len(rows), :vocab_size], out)
    assert np.isnan(logits[len(rows) :]).all()


def test_slots_are_inherited() -> None:
    rng = np.random.default_rng(0)
    wanted, now, n_before = [[]], np.zeros((7, 12), np.int32), 1
    for position, n_rows in enumerate((1, 4, 7, 7, 2, 5)):
        parents = rng.integers(0, n_before, n_rows)
        after = np.full((7, 12), -1, np.int32)
        inherit(now, parents, position, after)
        wanted, now, n_before = reference.inherit(wanted, parents.tolist()), after, n_rows
        assert [row[: position + 1].tolist() for row in now[:n_rows]] == wanted
        assert (now[n_rows:] == -1).all()


@pytest.mark.parametrize("n_frames", [1, 2, 31, 32, 33, 95, 200])
@pytest.mark.parametrize("head_dim", [32, 64, 96])
def test_attention_over_remembered_states(n_frames: int, head_dim: int) -> None:
    n_heads = 3
    d, bias = n_heads * head_dim, make_bias(n_frames)
    rows = normal(n_frames, n_frames, 2 * d)
    keys, values = np.zeros((2, len(bias) * d), np.uint16)
    memory = Remembered(keys, values, bias)
    for first in range(0, n_frames, 48):
        count = min(48, n_frames - first)
        pack_rows(rows[first:].ctypes.data, rows.strides[0], first, count, n_heads, head_dim, memory)
    scale = F32(1) / np.sqrt(F32(head_dim))
    found = reference.unpack_keys(keys, n_frames, n_heads, head_dim)
    np.testing.assert_array_equal(found, from_bf16(bits_of_bf16(rows[:, :d] * scale)))
    kept = reference.unpack_values(values, n_frames, n_heads, head_dim)
    np.testing.assert_array_equal(kept, from_bf16(bits_of_bf16(rows[:, d:])))
    for n_rows in (1, 2, 3, 5, 6, 7, 9, 12, 13, 25):
        for factor in HARD.values():
            queries = normal(n_rows, n_rows + TILE_ROWS, d) * F32(factor)
            out = np.full((n_rows + TILE_ROWS, d + 1), np.nan, F32)
            scores = np.full(TILE_ROWS * len(bias), np.nan, F32)
            attend_remembered(
                queries.ctypes.data, queries.strides[0], n_rows, memory, n_heads, head_dim, scores,
                out.ctypes.data, out.strides[0],
            )  # fmt: skip
            wanted = [reference.attend(query, found / scale, kept, n_heads) for query in queries[:n_rows]]
            np.testing.assert_allclose(out[:n_rows, :d], wanted, rtol=0, atol=1e-4 * max(1, factor / 30))
            assert np.isnan(out[:, d]).all()


@pytest.mark.parametrize("kinds", ["int8", "bf16", "mixed"])
def test_an_utterance_is_remembered_by_every_layer(kinds: str) -> None:
    n_frames, n_heads, head_dim, n_layers = 101, 2, 32, 3
    d, states, bias = n_heads * head_dim, normal(0, n_frames, n_heads * head_dim), make_bias(n_frames)
    layers = []
    for index in range(n_layers):
        weight, shift = normal(index + 1, d, 2 * d), normal(index + 9, 2 * d)
        rounded = kinds == "bf16" or (kinds == "mixed" and index == 1)
        layers.append(pack_bf16(weight, shift) if rounded else pack_int8(*quantize_columns(weight), shift))
    keys, values = np.zeros((2, n_layers, len(bias) * d), np.uint16)
    remember(
        Plan.of(layers).numbers, states, n_heads, keys, values, bias, make_work(BLOCK_ROWS, d, 2 * d, 0, 0)
    )
    for index, layer in enumerate(layers):
        rows = multiply(layer, states)
        found = reference.unpack_keys(keys[index], n_frames, n_heads, head_dim)
        wanted = rows[:, :d] * (F32(1) / np.sqrt(F32(head_dim)))
        np.testing.assert_array_equal(found, from_bf16(bits_of_bf16(wanted)))
        found = reference.unpack_values(values[index], n_frames, n_heads, head_dim)
        np.testing.assert_array_equal(found, from_bf16(bits_of_bf16(rows[:, d : 2 * d])))


def test_a_plan_gives_its_layers_back() -> None:
    denses = [pack_int8(*quantize_columns(normal(n, 32, 32 * n)), normal(n, 32 * n)) for n in range(1, 7)]
    norms = [OwnedNorm.of(Norm(normal(n, 32), normal(n + 1, 32), 10.0**-n)) for n in (5, 6, 7)]
    layer = Layer(*denses[:2], norms[0], *denses[2:4], norms[1], 8, 2, 1)
    cross = CrossAttention(*denses[4:], norms[2])
    plan = Plan.of([(layer, cross), (layer, cross)]).numbers
    assert layer_at(plan, 1) == layer and cross_at(plan, 1) == cross
    assert dense_at(Plan.of(denses).numbers, 3, 0) == denses[3]


def test_layers_that_lie_together_are_the_same_layers() -> None:
    layers = [pack_int8(*quantize_columns(normal(1, 32, 40)), None), pack_bf16(normal(2, 64, 32), None)]
    moved = pack_together(layers)
    rows = normal(3, 5, 32), normal(4, 5, 64)
    for before, after, one in zip(layers, moved, rows, strict=True):
        np.testing.assert_array_equal(multiply(after, one), multiply(before, one))
    assert moved[1].weight == moved[0].weight + layers[0].arrays[0].nbytes
    assert moved[0].weight % 64 == 0
