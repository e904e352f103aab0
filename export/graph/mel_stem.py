"""Whisper's two convolutions over log-mel frames, as GEMMs over neighbouring rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.builder import GraphBuilder
from export.graph.linear import FloatArray, Linear, emit_linear
from export.graph.windows import as_matrix, emit_windows

_POSITION_STEPS = 32767  # positions are sines and cosines, so int16 is exact to 1.5e-5


@dataclass(frozen=True)
class MelStem:
    """conv1 (stride 1), conv2 (stride 2), both of width 3 and padding 1, torch's [n_out, n_in, 3].

    positions: float32 [max_frames, hidden].
    """

    conv1: FloatArray
    bias1: FloatArray
    conv2: FloatArray
    bias2: FloatArray
    positions: FloatArray


def emit_mel_stem(graph: GraphBuilder, features: str, stem: MelStem) -> str:
    """Map features [batch, n_mels, n_frames100] to [batch, n_frames, hidden]: half the frames, rounded up."""
    n_hidden, n_mels = stem.conv1.shape[:2]
    with graph.scope("stem/conv1"):
        hidden = graph.op("Transpose", features, perm=[0, 2, 1])
        windows = emit_windows(graph, _pad(graph, hidden), 3, 1, n_mels)
        hidden = graph.op("Gelu", emit_linear(graph, windows, Linear(as_matrix(stem.conv1), stem.bias1)))
    with graph.scope("stem/conv2"):
        windows = emit_windows(graph, _pad(graph, hidden), 3, 2, n_hidden)
        hidden = graph.op("Gelu", emit_linear(graph, windows, Linear(as_matrix(stem.conv2), stem.bias2)))
    with graph.scope("stem/positions"):
        return graph.op("Add", hidden, _emit_positions(graph, hidden, stem.positions))


def _pad(graph: GraphBuilder, rows: str) -> str:
    return graph.op("Pad", rows, graph.integers(0, 1, 0, 0, 1, 0))


def _emit_positions(graph: GraphBuilder, hidden: str, positions: FloatArray) -> str:
    """The first rows of the table, which is stored as int16 where the graph is quantised."""
    if graph.precision() == "float32":
        table = graph.constant(positions, "table")
    else:
        scale = np.float32(np.abs(positions).max() / _POSITION_STEPS)
        rounded = graph.constant(np.rint(positions / scale).astype(np.int16), "table")
        table = graph.op("Mul", graph.op("Cast", rounded, to=1), graph.constant(scale, "scale"))
    return graph.op("Slice", table, graph.integers(0), graph.size(hidden, 1), graph.integers(0))
