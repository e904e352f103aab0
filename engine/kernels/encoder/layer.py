"""One transformer layer over the rows of one utterance, in two passes with a barrier between them.

The first pass projects queries, keys and values; the second attends and does everything else. Both
work on blocks of 48 rows, so that what lies between two products stays in the core's own cache,
and may run for disjoint ranges of rows from several threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.encoder.attention import attend, pack_keys, pack_queries, pack_values
from engine.kernels.encoder.attention_int8 import (
    Int8Rows,
    attend_int8,
    quantize_keys,
    quantize_queries,
    quantize_values,
)
from engine.kernels.layers.dense import INT8, Dense, multiply_rows, prepare_rows
from engine.kernels.layers.rows import add_row, gelu_row, normalize_row
from engine.kernels.vector.gemm import TILE_ROWS

BLOCK_ROWS = 4 * TILE_ROWS
F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]
U16Array = NDArray[np.uint16]


class Norm(NamedTuple):
    """Scale and shift float32 [n_channels], and what is added to the variance."""

    weight: F32Array
    bias: F32Array
    epsilon: float


class LayerWeights(NamedTuple):
    """A layer, packed.

    Attributes:
        outlier_in, outlier_out: the units of the feed-forward block that are computed apart, in bfloat16;
            outlier_in.n_out is 0 where there are none.
        norm_first: norms before the blocks instead of behind them.
    """

    n_heads: int
    norm_first: bool
    attention_norm: Norm
    qkv: Dense
    output: Dense
    feed_norm: Norm
    feed_in: Dense
    feed_out: Dense
    outlier_in: Dense
    outlier_out: Dense


class Utterance(NamedTuple):
    """The arrays of one utterance that the passes of all layers share.

    Attributes:
        hidden: float32 [n_rows, d]. queries: bfloat16 [n_rows + 12, d].
        keys, values: packed bfloat16 for n_positions. bias: float32 [n_positions].
        codes: the same in int8, for layers whose product of queries, keys and values is int8. Of the
            two, that which no layer uses is empty.
    """

    hidden: F32Array
    queries: U16Array
    keys: U16Array
    values: U16Array
    bias: F32Array
    codes: Int8Rows


class Scratch(NamedTuple):
    """What one thread needs for itself.

    Attributes:
        prepared: bytes of a block's rows as tiles read them. scale, offset: float32 [BLOCK_ROWS + 12].
        narrow, mixed: float32 [BLOCK_ROWS, d + 32]. wide: float32 [BLOCK_ROWS, widest output].
        scores, weights: float32 and bfloat16 [12 * n_positions]; scores is WORK_FLOATS at least.
    """

    prepared: U8Array
    scale: F32Array
    offset: F32Array
    narrow: F32Array
    mixed: F32Array
    wide: F32Array
    scores: F32Array
    weights: U16Array


@kernel
def dense_rows(
    layer: Dense, source: int, stride: int, n_rows: int, scratch: Scratch, out: int, out_stride: int
) -> None:
    """Prepare a block of float32 rows and multiply it. Addresses and strides in bytes."""
    prepared = address(scratch.prepared)
    prepare_rows(
        layer.kind, source, stride, n_rows, layer.n_in, prepared, scratch.scale, scratch.offset
    )  # fmt: skip
    n_bytes = layer.n_in * (1 if layer.kind == INT8 else 2)
    multiply_rows(layer, prepared, n_bytes, n_rows, scratch.scale, scratch.offset, out, out_stride)


@kernel
def normalize_rows(
    norm: Norm, source: int, stride: int, n_rows: int, n: int, out: int, out_stride: int
) -> None:
    """Layer norm of rows of n channels. Addresses and strides in bytes."""
    weight, bias = address(norm.weight), address(norm.bias)
    for row in range(n_rows):
        normalize_row(source + row * stride, n, weight, bias, norm.epsilon, out + row * out_stride)


@kernel
def project_rows(layer: LayerWeights, state: Utterance, scratch: Scratch, start: int, end: int) -> None:
    """First pass: queries, keys and values of rows start to end; start is a multiple of BLOCK_ROWS."""
    d = state.hidden.shape[1]
    stride, wide = scratch.wide.strides[0], address(scratch.wide)
    for first in range(start, end, BLOCK_ROWS):
        n_rows = min(BLOCK_ROWS, end - first)
        source, source_stride = address(state.hidden) + 4 * d * first, 4 * d
        if layer.norm_first:
            target, target_stride = address(scratch.narrow), scratch.narrow.strides[0]
            normalize_rows(layer.attention_norm, source, source_stride, n_rows, d, target, target_stride)
            source, source_stride = target, target_stride
        dense_rows(layer.qkv, source, source_stride, n_rows, scratch, wide, stride)
        if layer.qkv.kind == INT8:
            head_dim = d // layer.n_heads
            quantize_queries(wide, stride, n_rows, layer.n_heads, head_dim, first, state.codes)
            quantize_keys(wide + 4 * d, stride, n_rows, layer.n_heads, head_dim, first, state.codes)
            quantize_values(wide + 8 * d, stride, n_rows, layer.n_heads, head_dim, first, state.codes)
        else:
            scatter_rows(layer.n_heads, d, state, wide, stride, first, n_rows)


@inner
def scatter_rows(
    n_heads: int, d: int, state: Utterance, source: int, stride: int, first: int, n_rows: int
) -> None:
    """Rows of queries, keys and values to where attention in bfloat16 reads them."""
    n_positions, head_dim = len(state.bias), d // n_heads
    keys, values = address(state.keys), address(state.values)
    factor = np.float32(1.0) / np.sqrt(np.float32(head_dim))
    for row in range(n_rows):
        place, position = source + row * stride, first + row
        pack_queries(place, d, head_dim, factor, address(state.queries) + 2 * d * position)
        pack_keys(place + 4 * d, n_heads, head_dim, position, n_positions, keys)
        if row % 2 == 0:
            odd = place + stride + 8 * d if row + 1 < n_rows else 0
            pack_values(place + 8 * d, odd, n_heads, head_dim, position, n_positions, values)


@kernel
def finish_rows(layer: LayerWeights, state: Utterance, scratch: Scratch, start: int, end: int) -> None:
    """Second pass: attention, output projection and feed-forward block, in place on state.hidden."""
    d = state.hidden.shape[1]
    head_dim = d // layer.n_heads
    mixed, mixed_stride = address(scratch.mixed), scratch.mixed.strides[0]
    narrow, narrow_stride = address(scratch.narrow), scratch.narrow.strides[0]
    for first in range(start, end, BLOCK_ROWS):
        n_rows = min(BLOCK_ROWS, end - first)
        hidden = address(state.hidden) + 4 * d * first
        if layer.qkv.kind == INT8:
            attend_int8(
                state.codes, first, n_rows, layer.n_heads, head_dim, address(scratch.scores),
                mixed, mixed_stride,
            )  # fmt: skip
        else:
            attend(
                address(state.queries) + 2 * d * first, 2 * d, n_rows, address(state.keys),
                address(state.values), address(state.bias), len(state.bias), layer.n_heads, head_dim,
                scratch.scores, scratch.weights, mixed, mixed_stride,
            )  # fmt: skip
        dense_rows(layer.output, mixed, mixed_stride, n_rows, scratch, narrow, narrow_stride)
        for row in range(n_rows):
            add_row(hidden + 4 * d * row, narrow + row * narrow_stride, d)
        if not layer.norm_first:
            normalize_rows(layer.attention_norm, hidden, 4 * d, n_rows, d, hidden, 4 * d)
        feed_forward(layer, hidden, n_rows, d, scratch)
        if not layer.norm_first:
            normalize_rows(layer.feed_norm, hidden, 4 * d, n_rows, d, hidden, 4 * d)


@kernel
def feed_forward(layer: LayerWeights, hidden: int, n_rows: int, d: int, scratch: Scratch) -> None:
    """Add the feed-forward block of a block of rows to them. hidden: address of float32 [n_rows, d]."""
    source, stride = hidden, 4 * d
    mixed, mixed_stride = address(scratch.mixed), scratch.mixed.strides[0]
    narrow, narrow_stride = address(scratch.narrow), scratch.narrow.strides[0]
    if layer.norm_first:
        normalize_rows(layer.feed_norm, hidden, 4 * d, n_rows, d, narrow, narrow_stride)
        source, stride = narrow, narrow_stride
    if layer.outlier_in.n_out > 0:
        activated_pair(
            layer.outlier_in, layer.outlier_out, source, stride, n_rows, scratch, mixed, mixed_stride
        )
    wide, wide_stride = address(scratch.wide), scratch.wide.strides[0]
    activated(layer.feed_in, source, stride, n_rows, scratch)
    dense_rows(layer.feed_out, wide, wide_stride, n_rows, scratch, narrow, narrow_stride)
    for row in range(n_rows):
        add_row(hidden + 4 * d * row, narrow + row * narrow_stride, d)
        if layer.outlier_in.n_out > 0:
            add_row(hidden + 4 * d * row, mixed + row * mixed_stride, d)


@inner
def activated(layer: Dense, source: int, stride: int, n_rows: int, scratch: Scratch) -> None:
    """GELU of a linear layer, to the rows of scratch.wide."""
    out, out_stride = address(scratch.wide), scratch.wide.strides[0]
    dense_rows(layer, source, stride, n_rows, scratch, out, out_stride)
    for row in range(n_rows):
        gelu_row(out + row * out_stride, layer.padded)


@inner
def activated_pair(
    first: Dense,
    second: Dense,
    source: int,
    stride: int,
    n_rows: int,
    scratch: Scratch,
    out: int,
    out_stride: int,
) -> None:
    """Two linear layers with a GELU between them; the units between fill one panel."""
    activated(first, source, stride, n_rows, scratch)
    dense_rows(
        second, address(scratch.wide), scratch.wide.strides[0], n_rows, scratch, out, out_stride
    )  # fmt: skip
