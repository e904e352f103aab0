"""A Marian model's layers over many rows at once: the encoder, and one step of the decoder."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.dense import INT8, Dense, multiply_rows, prepare_rows
from engine.kernels.encoder_layer import BLOCK_ROWS, Norm
from engine.kernels.rows import add_row, normalize_row
from engine.kernels.seq2seq_rows import activate_row, attend_places, embed_row

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
I32Array = NDArray[np.int32]
U8Array = NDArray[np.uint8]


class EncoderLayer(NamedTuple):
    """Post-norm self-attention and feed-forward block. activation: see activate_row."""

    qkv: Dense
    output: Dense
    attention_norm: Norm
    feed_in: Dense
    feed_out: Dense
    feed_norm: Norm
    n_heads: int
    activation: int


class CrossAttention(NamedTuple):
    """The decoder's attention over the source; keys and values are computed once a sentence."""

    query: Dense
    output: Dense
    norm: Norm


class Work(NamedTuple):
    """Scratch of one batch.

    Attributes:
        prepared: uint8, a block's rows as tiles read them. scale, offset: float32 [BLOCK_ROWS + 12].
        wide: float32 [rows + 12, widest layer output]. mixed: float32 [rows + 12, d].
        branch: float32 [rows + 12, d], what a block adds.
        places: int64 [positions]. weights: float32 [positions + 16].
    """

    prepared: U8Array
    scale: F32Array
    offset: F32Array
    wide: F32Array
    mixed: F32Array
    branch: F32Array
    places: I64Array
    weights: F32Array


@kernel
def dense(layer: Dense, rows: F32Array, n_rows: int, work: Work, out: F32Array) -> None:
    """out = layer(rows) for the first n_rows; the arrays may have more columns than the layer."""
    n_bytes = layer.n_in * (1 if layer.kind == INT8 else 2)
    prepared = address(work.prepared)
    for at in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - at)
        source, target = address(rows[at:]), address(out[at:])
        prepare_rows(
            layer.kind, source, rows.strides[0], count, layer.n_in, prepared, work.scale, work.offset
        )  # fmt: skip
        multiply_rows(layer, prepared, n_bytes, count, work.scale, work.offset, target, out.strides[0])


@inner
def add_and_normalize(hidden: F32Array, branch: F32Array, n_rows: int, norm: Norm) -> None:
    """hidden = norm(hidden + branch) for the first n_rows."""
    d = hidden.shape[1]
    weight, bias = address(norm.weight), address(norm.bias)
    for row in range(n_rows):
        place = address(hidden[row:])
        add_row(place, address(branch[row:]), d)
        normalize_row(place, d, weight, bias, norm.epsilon, place)


@kernel
def feed_forward(layer: EncoderLayer, hidden: F32Array, n_rows: int, work: Work) -> None:
    """The feed-forward block with its norm, in place."""
    dense(layer.feed_in, hidden, n_rows, work, work.wide)
    for row in range(n_rows):
        activate_row(layer.activation, address(work.wide[row:]), layer.feed_in.padded)
    dense(layer.feed_out, work.wide, n_rows, work, work.branch)
    add_and_normalize(hidden, work.branch, n_rows, layer.feed_norm)


@inner
def encode_layer(layer: EncoderLayer, hidden: F32Array, offsets: I64Array, work: Work) -> None:
    """One layer over the rows of several sentences, in place.

    hidden: float32 [rows, d]. offsets: int64 [n_sentences + 1], where each sentence's rows begin.
    """
    n_rows, d = offsets[-1], hidden.shape[1]
    dense(layer.qkv, hidden, n_rows, work, work.wide)
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
    add_and_normalize(hidden, work.branch, n_rows, layer.attention_norm)
    feed_forward(layer, hidden, n_rows, work)


@kernel
def embed_rows(
    codes: NDArray[np.int8], scales: F32Array, ids: I64Array, positions: F32Array, first: I64Array,
    out: F32Array,
) -> None:  # fmt: skip
    """Embeddings of tokens plus their positions.

    Args:
        codes: int8 [vocab, d]; scales: float32 [vocab], the model's own scale included.
        ids: int64 [rows]. positions: float32 [max_positions, d]; first: int64 [rows], the row of it.
        out: float32 [rows, d].
    """
    for row in range(len(ids)):
        token = ids[row]
        embed_row(
            address(codes[token:]), scales[token], address(positions[first[row] :]), out.shape[1],
            address(out[row:]),
        )  # fmt: skip


@inner
def decode_layer(
    layer: EncoderLayer, cross: CrossAttention, hidden: F32Array, n_rows: int, step: int,
    cache: F32Array, ancestors: I32Array, memory: F32Array, offsets: I64Array, sentences: I64Array,
    work: Work,
) -> None:  # fmt: skip
    """One step of one layer for all rows, in place.

    Args:
        hidden: float32 [>= n_rows, d].
        cache: float32 [max_steps, max_rows, 2 * d], keys and values of this layer; row `step` is written.
        ancestors: int32 [>= n_rows, max_steps], the cache row that holds each earlier step of a row.
        memory: float32 [source rows, 2 * d], keys and values of this layer's cross-attention.
        offsets: int64 [n_sentences + 1], the source rows of each sentence.
        sentences: int64 [n_rows], the sentence of each row.
    """
    d = hidden.shape[1]
    head_dim = d // layer.n_heads
    dense(layer.qkv, hidden, n_rows, work, work.wide)
    for row in range(n_rows):
        for at in range(2 * d):
            cache[step, row, at] = work.wide[row, d + at]
    for row in range(n_rows):
        for at in range(step):
            work.places[at] = address(cache[at, ancestors[row, at] :])
        work.places[step] = address(cache[step, row:])
        attend_places(
            address(work.wide[row:]), work.places, step + 1, layer.n_heads, head_dim, work.weights,
            address(work.mixed[row:]),
        )  # fmt: skip
    dense(layer.output, work.mixed, n_rows, work, work.branch)
    add_and_normalize(hidden, work.branch, n_rows, layer.attention_norm)
    dense(cross.query, hidden, n_rows, work, work.wide)
    for row in range(n_rows):
        start, end = offsets[sentences[row]], offsets[sentences[row] + 1]
        for at in range(start, end):
            work.places[at - start] = address(memory[at:])
        attend_places(
            address(work.wide[row:]), work.places, end - start, layer.n_heads, head_dim, work.weights,
            address(work.mixed[row:]),
        )  # fmt: skip
    dense(cross.output, work.mixed, n_rows, work, work.branch)
    add_and_normalize(hidden, work.branch, n_rows, cross.norm)
    feed_forward(layer, hidden, n_rows, work)


@kernel
def decode_layers(
    layers: tuple[EncoderLayer, ...], crosses: tuple[CrossAttention, ...], hidden: F32Array, n_rows: int,
    step: int, cache: F32Array, ancestors: I32Array, memory: F32Array, offsets: I64Array, sentences: I64Array,
    work: Work,
) -> None:  # fmt: skip
    """One step of all layers; cache and memory have the layer as their first axis. See decode_layer."""
    for index in range(len(layers)):
        decode_layer(
            layers[index], crosses[index], hidden, n_rows, step, cache[index], ancestors, memory[index],
            offsets, sentences, work,
        )  # fmt: skip


@kernel
def encode_layers(layers: tuple[EncoderLayer, ...], hidden: F32Array, offsets: I64Array, work: Work) -> None:
    """All layers of the encoder. See encode_layer."""
    for index in range(len(layers)):
        encode_layer(layers[index], hidden, offsets, work)


@kernel
def inherit(ancestors: I32Array, parents: I64Array, step: int, out: I32Array) -> None:
    """Each row's cache rows of the steps before `step`: those of its parent, and the parent itself.

    ancestors: int32 [rows before, max_steps]; parents: int64 [rows]; out: int32 [>= rows, max_steps].
    """
    for row in range(len(parents)):
        parent = parents[row]
        for at in range(step - 1):
            out[row, at] = ancestors[parent, at]
        if step > 0:
            out[row, step - 1] = parent
