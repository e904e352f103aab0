"""Whisper's two convolutions over log-mel frames, as GEMMs over neighbouring rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.builder import END, GraphBuilder
from export.graph.linear import FloatArray, Linear, emit_linear

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
    """Map features [batch, n_mels, n_frames100] to [batch, n_frames, hidden], n_frames = ceil(n_frames100 / 2)."""
    with graph.scope("stem/conv1"):
        rows = graph.op("Transpose", features, perm=[0, 2, 1])
        padded = graph.op("Pad", rows, graph.integers(0, 1, 0, 0, 1, 0))
        windows = [graph.slice(padded, k, END if k == 2 else k - 2, 1) for k in range(3)]
        hidden = graph.op("Concat", *windows, axis=2)
        hidden = graph.op("Gelu", emit_linear(graph, hidden, _as_linear(stem.conv1, stem.bias1)))
    with graph.scope("stem/conv2"):
        hidden = _emit_halving(graph, hidden, _as_linear(stem.conv2, stem.bias2))
    with graph.scope("stem/positions"):
        return graph.op("Add", hidden, _emit_positions(graph, hidden, stem.positions))


def _emit_halving(graph: GraphBuilder, hidden: str, linear: Linear) -> str:
    """Rows 2t - 1, 2t, 2t + 1 side by side; an odd last row meets the padding, a row behind it is cut off."""
    padded = graph.op("Pad", hidden, graph.integers(0, 1, 0, 0, 2, 0))
    n_frames = graph.op("Div", graph.op("Add", graph.size(hidden, 1), graph.integers(1)), graph.integers(2))
    steps = [graph.slice(padded, k, END, 1, 2) for k in range(3)]
    cut = [graph.op("Slice", step, graph.integers(0), n_frames, graph.integers(1)) for step in steps]
    return graph.op("Gelu", emit_linear(graph, graph.op("Concat", *cut, axis=2), linear))


def _as_linear(weight: FloatArray, bias: FloatArray) -> Linear:
    """[n_out, n_in, width] as a matrix over `width` rows laid end to end, [width * n_in, n_out]."""
    return Linear(np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, len(weight))), bias)


def _emit_positions(graph: GraphBuilder, hidden: str, positions: FloatArray) -> str:
    """The first rows of the table, which is stored as int16 where the graph is quantised."""
    if not graph.is_int8():
        table = graph.constant(positions, "table")
    else:
        scale = np.float32(np.abs(positions).max() / _POSITION_STEPS)
        rounded = graph.constant(np.rint(positions / scale).astype(np.int16), "table")
        table = graph.op("Mul", graph.op("Cast", rounded, to=1), graph.constant(scale, "scale"))
    return graph.op("Slice", table, graph.integers(0), graph.size(hidden, 1), graph.integers(0))
