"""An attention decoder over an encoder's states: keys and values of an utterance, and the layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.encoder.layer import BLOCK_ROWS
from engine.kernels.layers.dense import INT8, multiply_rows, prepare_rows
from engine.kernels.seq2seq.cross_attention import Remembered, attend_remembered, pack_block
from engine.kernels.seq2seq.layer import (
    Work,
    attend_past,
    dense,
    embed_rows,
    enter_block,
    feed_forward,
    leave_block,
    normalize_into,
)
from engine.kernels.seq2seq.plan import NORM, CrossAttention, cross_at, dense_at, layer_at, norm_at
from engine.kernels.seq2seq.rows import log_softmax_rows

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
I32Array = NDArray[np.int32]
U16Array = NDArray[np.uint16]
I8Array = NDArray[np.int8]


class Weights(NamedTuple):
    """A decoder.

    Attributes:
        codes: int8 [vocab_size, d], the embeddings. scales: float32 [vocab_size].
        positions: float32 [max_positions, d].
        plan: int64 [n_layers, numbers], see engine.kernels.seq2seq.plan.
        head: int64 [1, numbers], the last norm and the output layer.
    """

    codes: I8Array
    scales: F32Array
    positions: F32Array
    plan: I64Array
    head: I64Array


class Utterance(NamedTuple):
    """What rows of one utterance share.

    Attributes:
        keys, values: bfloat16 [n_layers, n_positions * d]; bias: float32 [n_positions]; see Remembered.
        cache: float32 [max_tokens, n_layers, slots, 2 * d], keys and values of the tokens so far.
    """

    keys: U16Array
    values: U16Array
    bias: F32Array
    cache: F32Array


@kernel
def remember(
    plan: I64Array, states: F32Array, n_heads: int, keys: U16Array, values: U16Array, bias: F32Array,
    work: Work,
) -> None:  # fmt: skip
    """Keys and values of an utterance for every layer; rows are prepared once for all of them.

    Args:
        plan: int64 [n_layers, numbers], linear layers [d, 2 * d], keys, then values.
        states: float32 [n_frames, d].
        keys, values: bfloat16 [n_layers, n_positions * d], zeros; see Remembered, as for bias.
        work: its wide for BLOCK_ROWS rows.
    """
    n_frames, d = states.shape
    prepared, stride = address(work.prepared), work.wide.strides[0]
    for first in range(0, n_frames, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_frames - first)
        kind = -1
        for index in range(len(plan)):
            layer = dense_at(plan, index, 0)
            n_bytes = layer.n_in * (1 if layer.kind == INT8 else 2)
            if layer.kind != kind:
                kind, source = layer.kind, address(states[first:])
                prepare_rows(kind, source, 4 * d, count, d, prepared, work.scale, work.offset)
            multiply_rows(
                layer, prepared, n_bytes, count, work.scale, work.offset, address(work.wide), stride
            )  # fmt: skip
            memory = Remembered(keys[index], values[index], bias)
            pack_block(address(work.wide), stride, first, count, n_heads, d // n_heads, memory)


@inner
def attend_states(
    cross: CrossAttention, norm_first: int, n_heads: int, hidden: F32Array, n_rows: int, memory: Remembered,
    work: Work,
) -> None:  # fmt: skip
    """Attention of all rows over the utterance, with its norm, in place."""
    d = hidden.shape[1]
    source = enter_block(norm_first, cross.norm, hidden, n_rows, work)
    dense(cross.query, source, n_rows, work, work.wide)
    attend_remembered(
        address(work.wide), work.wide.strides[0], n_rows, memory, n_heads, d // n_heads, work.weights,
        address(work.mixed), work.mixed.strides[0],
    )  # fmt: skip
    dense(cross.output, work.mixed, n_rows, work, work.branch)
    leave_block(norm_first, cross.norm, hidden, work.branch, n_rows)


@kernel
def predict(
    weights: Weights, utterance: Utterance, ids: I64Array, positions: I64Array, ancestors: I32Array,
    hidden: F32Array, logits: F32Array, out: F32Array, work: Work,
) -> None:  # fmt: skip
    """Natural-log probabilities of the next token of each row.

    Args:
        ids: int64 [n_rows]. positions, ancestors: see engine.kernels.seq2seq.layer.attend_past.
        hidden: float32 [n_rows, d], scratch.
        logits: float32 [n_rows + 12, padded outputs of the head], scratch.
        out: float32 [n_rows, vocab_size], with room for 16 values after it.
    """
    n_rows = len(ids)
    embed_rows(weights.codes, weights.scales, ids, weights.positions, positions, hidden)
    for index in range(len(weights.plan)):
        layer, cross = layer_at(weights.plan, index), cross_at(weights.plan, index)
        memory = Remembered(utterance.keys[index], utterance.values[index], utterance.bias)
        attend_past(layer, index, hidden, n_rows, positions, utterance.cache, ancestors, work)
        attend_states(cross, layer.norm_first, layer.n_heads, hidden, n_rows, memory, work)
        feed_forward(layer, hidden, n_rows, work)
    normalize_into(norm_at(weights.head, 0, 0), hidden, n_rows, work.normed)
    dense(dense_at(weights.head, 0, NORM), work.normed, n_rows, work, logits)
    log_softmax_rows(logits, n_rows, len(weights.scales), out)
