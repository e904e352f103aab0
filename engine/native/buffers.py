"""Memory that the kernels work in: what an utterance shares, and what each thread has for itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels.encoder.attention import pack_keys
from engine.kernels.encoder.attention_int8 import CODE_OFFSET, LOG2_E, STEP, WORK_FLOATS, Int8Rows
from engine.kernels.encoder.conv_pairs import PLANES
from engine.kernels.encoder.conv_rows import MAX_WIDTH, Conv, ConvBuffers, FirstConv
from engine.kernels.encoder.layer import BLOCK_ROWS, LayerWeights, Scratch, Utterance
from engine.kernels.encoder.waveform import CHUNK_FRAMES
from engine.kernels.layers.dense import INT8, to_bf16
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.native.layers import Layer, Sinks
from engine.native.packing import aligned_bytes

PADDED_SCORE = np.float32(-1e30)
SMALLEST_TOP = 1e-12  # of a row of zeros
SLACK_ROWS = TILE_ROWS
PAST_SETS = 16  # floats: rows a power of two apart would share the few places of one set in the first cache
F32Array = NDArray[np.float32]


def lined_rows(n_rows: int, n_columns: int) -> F32Array:
    """Zeroed float32 rows from the start of a cache line on: a vector in two lines is written twice."""
    return aligned_bytes(4 * n_rows * n_columns).view(np.float32).reshape(n_rows, n_columns)


def rows_of(n_rows: int, n_columns: int) -> F32Array:
    """Zeroed float32 rows with the slack that tiles read and write behind them."""
    return np.zeros((n_rows + SLACK_ROWS, n_columns), np.float32)[:n_rows]


def make_utterance(hidden: F32Array, layers: list[Layer]) -> Utterance:
    """Arrays for the attention of one utterance; hidden float32 [n_frames, d]."""
    n_frames, d = hidden.shape
    n_sinks = max((len(layer.sinks.bias) for layer in layers if layer.sinks), default=0)
    n_positions = -(-(n_frames + n_sinks) // TILE_COLUMNS) * TILE_COLUMNS
    n_heads = layers[0].weights.n_heads
    bias = np.full(n_positions, PADDED_SCORE, np.float32)
    bias[:n_frames] = 0.0
    in_int8 = [_in_int8(layer.weights) for layer in layers]
    n_codes, n_rounded = n_positions * any(in_int8), n_positions * (not all(in_int8))
    head_columns = _head_columns(d // n_heads)
    return Utterance(
        hidden=hidden,
        queries=np.zeros((n_frames + SLACK_ROWS if n_rounded else 0, d), np.uint16),
        keys=np.zeros(n_rounded * d, np.uint16),
        values=np.zeros(n_rounded * n_heads * head_columns, np.uint16),
        bias=bias,
        codes=make_codes(n_frames if n_codes else 0, n_codes, n_heads, d // n_heads),
    )


def make_codes(n_rows: int, n_positions: int, n_heads: int, head_dim: int) -> Int8Rows:
    """Room for the queries of n_rows and for n_positions (a multiple of 32), all of which are padding."""
    by_head = (n_heads, n_positions)
    return Int8Rows(
        queries=np.zeros((2 * (n_rows + SLACK_ROWS), n_heads * head_dim), np.uint8),
        keys=np.zeros(n_positions * n_heads * head_dim, np.int8),
        values=np.zeros(n_positions * n_heads * _head_columns(head_dim), np.int8),
        query_scale=np.zeros((n_heads, n_rows + SLACK_ROWS), np.float32),
        key_scale=np.zeros(by_head, np.float32),
        key_start=np.zeros(by_head, np.int32),
        value_log=np.full(by_head, PADDED_SCORE, np.float32),
        value_rate=np.zeros(by_head, np.float32),
    )


def _in_int8(layer: LayerWeights) -> bool:
    return layer.qkv.kind == INT8


def _head_columns(head_dim: int) -> int:
    return -(-head_dim // TILE_COLUMNS) * TILE_COLUMNS


def place_sinks(state: Utterance, layer: LayerWeights, sinks: Sinks) -> None:
    """Write a layer's learned keys and values behind the utterance's own."""
    if _in_int8(layer):
        place_codes(state.codes, len(state.hidden), layer.n_heads, sinks)
        return
    n_frames, d = state.hidden.shape
    n_positions, head_dim = len(state.bias), d // layer.n_heads
    state.bias[n_frames : n_frames + len(sinks.bias)] = sinks.bias
    for index, key in enumerate(sinks.keys):
        pack_keys(
            key.ctypes.data, layer.n_heads, head_dim, n_frames + index, n_positions, state.keys.ctypes.data
        )
    _place_values(state, layer.n_heads, sinks.values)


def _place_values(state: Utterance, n_heads: int, values: F32Array) -> None:
    """The first may share a pair with the utterance's last frame, so single elements are written."""
    n_frames, d = state.hidden.shape
    head_dim = d // n_heads
    n_panels = -(-head_dim // TILE_COLUMNS)
    packed = state.values.reshape(n_heads, n_panels, -1, TILE_COLUMNS, 2)
    wide = np.zeros((len(values), n_heads, n_panels * TILE_COLUMNS), np.uint16)
    wide[:, :, :head_dim] = to_bf16(values).reshape(len(values), n_heads, head_dim)
    split = wide.reshape(len(values), n_heads, n_panels, TILE_COLUMNS)
    for index, row in enumerate(split):
        position = n_frames + index
        packed[:, :, position // 2, :, position % 2] = row


def place_codes(codes: Int8Rows, start: int, n_heads: int, sinks: Sinks) -> None:
    """Write learned keys and values in int8 to the positions from `start` on."""
    n_sinks, d = sinks.keys.shape
    head_dim = d // n_heads
    at = start + np.arange(n_sinks)
    keys, scale = _quantize_heads(sinks.keys, n_heads)
    packed = codes.keys.reshape(n_heads, -1, head_dim // STEP, TILE_COLUMNS, STEP)
    packed[:, at // TILE_COLUMNS, :, at % TILE_COLUMNS] = keys.reshape(n_sinks, n_heads, -1, STEP)
    codes.key_scale[:, at] = scale.T
    codes.key_start[:, at] = -CODE_OFFSET * keys.sum(axis=2, dtype=np.int32).T
    values, scale = _quantize_heads(sinks.values, n_heads)
    wide = np.zeros((n_sinks, n_heads, _head_columns(head_dim)), np.int8)
    wide[:, :, :head_dim] = values
    packed = codes.values.reshape(n_heads, wide.shape[2] // TILE_COLUMNS, -1, TILE_COLUMNS, STEP)
    packed[:, :, at // STEP, :, at % STEP] = wide.reshape(n_sinks, n_heads, -1, TILE_COLUMNS)
    codes.value_log[:, at] = np.log2(scale.T) + LOG2_E * sinks.bias
    codes.value_rate[:, at] = 1 / scale.T


def _quantize_heads(rows: F32Array, n_heads: int) -> tuple[NDArray[np.int8], F32Array]:
    """int8 [n, n_heads, head_dim] and float32 [n, n_heads]: each row's heads in 255 levels around zero."""
    split = rows.reshape(len(rows), n_heads, -1)
    scale = np.maximum(np.abs(split).max(axis=2), SMALLEST_TOP).astype(np.float32) / np.float32(127)
    return np.clip(np.rint(split / scale[..., None]), -127, 127).astype(np.int8), scale


def make_scratch(layers: list[Layer], d: int, n_positions: int) -> Scratch:
    """Scratch of one thread for an utterance with so many positions."""
    denses = [
        dense
        for layer in layers
        for dense in (layer.weights.qkv, layer.weights.feed_in, layer.weights.feed_out, layer.weights.output)
    ]
    n_rounded = n_positions * (not all(_in_int8(layer.weights) for layer in layers))
    widest_in = max(dense.n_in for dense in denses)
    widest_out = max(dense.padded for dense in denses)
    return Scratch(
        prepared=np.zeros((BLOCK_ROWS + SLACK_ROWS) * max(widest_in, d) * 2, np.uint8),
        scale=np.zeros(BLOCK_ROWS + SLACK_ROWS, np.float32),
        offset=np.zeros(BLOCK_ROWS + SLACK_ROWS, np.float32),
        narrow=lined_rows(BLOCK_ROWS, d + TILE_COLUMNS),
        mixed=lined_rows(BLOCK_ROWS, d + TILE_COLUMNS),
        wide=lined_rows(BLOCK_ROWS, widest_out + PAST_SETS),
        scores=np.zeros(max(TILE_ROWS * n_rounded, WORK_FLOATS), np.float32),
        weights=np.zeros(TILE_ROWS * n_rounded, np.uint16),
    )


def make_conv_buffers(first: FirstConv | None, convs: tuple[Conv, ...], n_rows: int = 0) -> ConvBuffers:
    """Scratch of one thread for a chunk of final frames; or for n_rows rows between two convolutions."""
    counts = [CHUNK_FRAMES]
    for conv in reversed(convs):
        counts.append((counts[-1] - 1) * conv.stride + conv.width)
    most = n_rows or counts[-1]
    widest = max([first.n_out if first else 0, *(max(conv.dense.padded, conv.n_channels) for conv in convs)])
    slack = SLACK_ROWS * max(conv.stride for conv in convs) + MAX_WIDTH
    size = (most + slack) * widest * 2 + PLANES * (SLACK_ROWS + 1) * widest
    # In planes: five rows for four, and the slack of each.
    scales = np.zeros((4, most + most // 4 + BLOCK_ROWS + slack + PLANES * (SLACK_ROWS + 1)), np.float32)
    return ConvBuffers(
        np.zeros(size, np.uint8),
        np.zeros(size if len(convs) > 1 else 0, np.uint8),
        scales[0],
        scales[1],
        scales[2],
        scales[3],
        np.zeros((MAX_WIDTH, BLOCK_ROWS + SLACK_ROWS), np.float32),
        np.zeros((MAX_WIDTH, BLOCK_ROWS + SLACK_ROWS), np.float32),
        lined_rows(BLOCK_ROWS + SLACK_ROWS, widest + PAST_SETS),
        lined_rows(2, widest),
    )
