"""What layers of encoder-decoder models have in common: linear layers over all rows, norms, the past.

A row is one token of one sequence: of a sentence that is encoded, of a beam, or one of the first tokens of
a sequence (prefill).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.encoder.layer import BLOCK_ROWS
from engine.kernels.layers.dense import INT8, DenseFields, multiply_rows, prepare_rows
from engine.kernels.layers.rows import add_row, copy_row, normalize_row
from engine.kernels.seq2seq.plan import Layer, RowNorm
from engine.kernels.seq2seq.rows import activate_row, attend_places, embed_row

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
I32Array = NDArray[np.int32]
U8Array = NDArray[np.uint8]


class Work(NamedTuple):
    """Scratch of one batch.

    Attributes:
        prepared: uint8, a block's rows as tiles read them. scale, offset: float32 [BLOCK_ROWS + 12].
        wide: float32 [rows + 12, widest layer output]. mixed: float32 [rows + 12, d].
        branch: float32 [rows + 12, d], what a block adds.
        normed: the same, what a block reads; empty where norms come after the blocks.
        places: int64 [positions]. weights: float32, scores of all heads: see attend_places.
    """

    prepared: U8Array
    scale: F32Array
    offset: F32Array
    wide: F32Array
    mixed: F32Array
    branch: F32Array
    normed: F32Array
    places: I64Array
    weights: F32Array


@kernel
def dense(layer: DenseFields, rows: F32Array, n_rows: int, work: Work, out: F32Array) -> None:
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
def normalize_into(norm: RowNorm, rows: F32Array, n_rows: int, out: F32Array) -> None:
    """out = norm(rows) for the first n_rows; both may be the same."""
    for row in range(n_rows):
        normalize_row(
            address(rows[row:]), rows.shape[1], norm.weight, norm.bias, norm.epsilon, address(out[row:])
        )


@inner
def enter_block(norm_first: int, norm: RowNorm, hidden: F32Array, n_rows: int, work: Work) -> F32Array:
    """What a block reads: the rows, or their norms."""
    if not norm_first:
        return hidden
    normalize_into(norm, hidden, n_rows, work.normed)
    return work.normed


@inner
def leave_block(norm_first: int, norm: RowNorm, hidden: F32Array, branch: F32Array, n_rows: int) -> None:
    """hidden += branch, and the norm where it comes after the block."""
    for row in range(n_rows):
        add_row(address(hidden[row:]), address(branch[row:]), hidden.shape[1])
    if not norm_first:
        normalize_into(norm, hidden, n_rows, hidden)


@kernel
def feed_forward(layer: Layer, hidden: F32Array, n_rows: int, work: Work) -> None:
    """The feed-forward block with its norm, in place."""
    source = enter_block(layer.norm_first, layer.feed_norm, hidden, n_rows, work)
    dense(layer.feed_in, source, n_rows, work, work.wide)
    for row in range(n_rows):
        activate_row(layer.activation, address(work.wide[row:]), layer.feed_in.padded)
    dense(layer.feed_out, work.wide, n_rows, work, work.branch)
    leave_block(layer.norm_first, layer.feed_norm, hidden, work.branch, n_rows)


@inner
def attend_past(
    layer: Layer, index: int, hidden: F32Array, n_rows: int, positions: I64Array, cache: F32Array,
    ancestors: I32Array, work: Work,
) -> None:  # fmt: skip
    """Self-attention of a decoder's rows over what came before them, with its norm, in place.

    Args:
        index: of the layer. hidden: float32 [>= n_rows, d].
        positions: int64 [n_rows], of each row in its sequence.
        cache: float32 [max_positions, n_layers, slots, 2 * d], keys and values; those of each row are
            written to its position, so that rows may be later tokens of one sequence.
        ancestors: int32 [>= n_rows, max_positions], the slot that holds each position of a row's sequence, up
            to its own.
    """
    d = hidden.shape[1]
    source = enter_block(layer.norm_first, layer.attention_norm, hidden, n_rows, work)
    dense(layer.qkv, source, n_rows, work, work.wide)
    for row in range(n_rows):
        place = address(cache[positions[row], index, ancestors[row, positions[row]] :])
        copy_row(address(work.wide[row:]) + 4 * d, 2 * d, place)
    for row in range(n_rows):
        count = positions[row] + 1
        for at in range(count):
            work.places[at] = address(cache[at, index, ancestors[row, at] :])
        attend_places(
            address(work.wide[row:]), work.places, count, layer.n_heads, d // layer.n_heads, work.weights,
            address(work.mixed[row:]),
        )  # fmt: skip
    dense(layer.output, work.mixed, n_rows, work, work.branch)
    leave_block(layer.norm_first, layer.attention_norm, hidden, work.branch, n_rows)


@kernel
def embed_rows(
    codes: NDArray[np.int8], scales: F32Array, ids: I64Array, positions: F32Array, first: I64Array,
    out: F32Array,
) -> None:  # fmt: skip
    """Embeddings of tokens plus those of their positions.

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


@kernel
def inherit(ancestors: I32Array, parents: I64Array, position: int, out: I32Array) -> None:
    """The slots of each row's sequence up to `position`: those of its parent, and slot i for row i.

    ancestors: int32 [rows before, max_positions]; parents: int64 [rows], the earlier row that each continues;
    out: int32 [>= rows, max_positions].
    """
    for row in range(len(parents)):
        for at in range(position):
            out[row, at] = ancestors[parents[row], at]
        out[row, position] = row
