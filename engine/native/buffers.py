"""Memory that the kernels work in: what an utterance shares, and what each thread has for itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels.attention import pack_keys
from engine.kernels.conv_pairs import PLANES
from engine.kernels.conv_rows import MAX_WIDTH, Conv, ConvBuffers, FirstConv
from engine.kernels.dense import to_bf16
from engine.kernels.encoder_layer import BLOCK_ROWS, LayerWeights, Scratch, Utterance
from engine.kernels.gemm import TILE_COLUMNS, TILE_ROWS
from engine.kernels.waveform_encoder import CHUNK_FRAMES
from engine.native.layers import Layer, Sinks
from engine.native.packing import aligned_bytes

PADDED_SCORE = np.float32(-1e30)
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
    head_columns = -(-d // n_heads // TILE_COLUMNS) * TILE_COLUMNS
    bias = np.full(n_positions, PADDED_SCORE, np.float32)
    bias[:n_frames] = 0.0
    return Utterance(
        hidden=hidden,
        queries=np.zeros((n_frames + SLACK_ROWS, d), np.uint16),
        keys=np.zeros(n_positions * d, np.uint16),
        values=np.zeros(n_positions * n_heads * head_columns, np.uint16),
        bias=bias,
    )


def place_sinks(state: Utterance, layer: LayerWeights, sinks: Sinks) -> None:
    """Write a layer's learned keys and values behind the utterance's own."""
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


def make_scratch(layers: list[Layer], d: int, n_positions: int) -> Scratch:
    """Scratch of one thread for an utterance with so many positions."""
    denses = [
        dense
        for layer in layers
        for dense in (layer.weights.qkv, layer.weights.feed_in, layer.weights.feed_out, layer.weights.output)
    ]
    widest_in = max(dense.n_in for dense in denses)
    widest_out = max(dense.padded for dense in denses)
    return Scratch(
        prepared=np.zeros((BLOCK_ROWS + SLACK_ROWS) * max(widest_in, d) * 2, np.uint8),
        scale=np.zeros(BLOCK_ROWS + SLACK_ROWS, np.float32),
        offset=np.zeros(BLOCK_ROWS + SLACK_ROWS, np.float32),
        narrow=lined_rows(BLOCK_ROWS, d + TILE_COLUMNS),
        mixed=lined_rows(BLOCK_ROWS, d + TILE_COLUMNS),
        wide=lined_rows(BLOCK_ROWS, widest_out + PAST_SETS),
        scores=np.zeros(TILE_ROWS * n_positions, np.float32),
        weights=np.zeros(TILE_ROWS * n_positions, np.uint16),
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
