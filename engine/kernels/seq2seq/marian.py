"""A Marian model's layers over many rows at once: the encoder, and one step of the decoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.seq2seq.layer import (
    Work,
    attend_past,
    dense,
    enter_block,
    feed_forward,
    leave_block,
)
from engine.kernels.seq2seq.plan import CrossAttention, Layer, cross_at, layer_at
from engine.kernels.seq2seq.rows import attend_places

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
I32Array = NDArray[np.int32]


@inner
def encode_layer(layer: Layer, hidden: F32Array, offsets: I64Array, work: Work) -> None:
    """One layer over the rows of several sentences, in place.

    hidden: float32 [rows, d]. offsets: int64 [n_sentences + 1], where each sentence's rows begin.
    """
    n_rows, d = offsets[-1], hidden.shape[1]
    source = enter_block(layer.norm_first, layer.attention_norm, hidden, n_rows, work)
    dense(layer.qkv, source, n_rows, work, work.wide)
    for sentence in range(len(offsets) - 1):
        start, end = offsets[sentence], offsets[sentence + 1]
        for row in range(start, end):
            work.places[row - start] = address(work.wide[row:]) + 4 * d
        for row in range(start, end):
            attend_places(
                address(work.wide[row:]), work.places, end - start, layer.n_heads, d // layer.n_heads,
                work.weights, address(work.mixed[row:]),
            )  # fmt: skip
    dense(layer.output, work.mixed, n_rows, work, work.branch)
    leave_block(layer.norm_first, layer.attention_norm, hidden, work.branch, n_rows)
    feed_forward(layer, hidden, n_rows, work)


@inner
def attend_sources(
    cross: CrossAttention, norm_first: int, n_heads: int, hidden: F32Array, n_rows: int, memory: F32Array,
    offsets: I64Array, sentences: I64Array, work: Work,
) -> None:  # fmt: skip
    """Attention of each row over its sentence's source, with its norm, in place. See decode_layers."""
    d = hidden.shape[1]
    source = enter_block(norm_first, cross.norm, hidden, n_rows, work)
    dense(cross.query, source, n_rows, work, work.wide)
    for row in range(n_rows):
        start, end = offsets[sentences[row]], offsets[sentences[row] + 1]
        for at in range(start, end):
            work.places[at - start] = address(memory[at:])
        attend_places(
            address(work.wide[row:]), work.places, end - start, n_heads, d // n_heads, work.weights,
            address(work.mixed[row:]),
        )  # fmt: skip
    dense(cross.output, work.mixed, n_rows, work, work.branch)
    leave_block(norm_first, cross.norm, hidden, work.branch, n_rows)


@kernel
def decode_layers(
    plan: I64Array, hidden: F32Array, n_rows: int, positions: I64Array, cache: F32Array,
    ancestors: I32Array, memory: F32Array, offsets: I64Array, sentences: I64Array, work: Work,
) -> None:  # fmt: skip
    """One step of all layers for all rows, in place.

    Args:
        plan: int64 [n_layers, numbers], see engine.kernels.seq2seq.plan.
        hidden, positions, cache, ancestors: see engine.kernels.seq2seq.layer.attend_past.
        memory: float32 [n_layers, source rows, 2 * d], keys and values of the cross-attention.
        offsets: int64 [n_sentences + 1], the source rows of each sentence.
        sentences: int64 [n_rows], the sentence of each row.
    """
    for index in range(len(plan)):
        layer, cross = layer_at(plan, index), cross_at(plan, index)
        attend_past(layer, index, hidden, n_rows, positions, cache, ancestors, work)
        attend_sources(
            cross, layer.norm_first, layer.n_heads, hidden, n_rows, memory[index], offsets,
            sentences, work,
        )  # fmt: skip
        feed_forward(layer, hidden, n_rows, work)


@kernel
def encode_layers(plan: I64Array, hidden: F32Array, offsets: I64Array, work: Work) -> None:
    """All layers of the encoder, rows of a plan. See encode_layer."""
    for index in range(len(plan)):
        encode_layer(layer_at(plan, index), hidden, offsets, work)
