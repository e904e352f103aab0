"""A strided convolution over channels-last rows as a GEMM over neighbouring rows, joined end to end."""

from __future__ import annotations

import numpy as np

from export.graph.builder import END, GraphBuilder
from export.graph.linear import FloatArray


def emit_windows(graph: GraphBuilder, rows: str, width: int, stride: int, n_channels: int) -> str:
    """Join `width` neighbouring rows end to end, every `stride` rows.

    Args:
        rows: [batch, n_rows, n_channels] of any type, n_rows >= width.
    Returns:
        [batch, n_windows, width * n_channels], n_windows = (n_rows - width) // stride + 1.
    A whole stride of rows is a reshape, which is free when it starts at row 0; only the rest is copied.
    """
    n_rows = graph.size(rows, 1)
    span = graph.op("Sub", n_rows, graph.integers(width))
    n_windows = graph.op("Add", graph.op("Div", span, graph.integers(stride)), graph.integers(1))
    parts = []
    for start in range(0, width - width % stride, stride):
        end = graph.op("Add", graph.op("Mul", n_windows, graph.integers(stride)), graph.integers(start))
        block = _slice(graph, rows, start, end, 1)
        parts.append(graph.reshape(block, 0, -1, stride * n_channels))
    for start in range(width - width % stride, width):
        picked = graph.slice(rows, start, END, 1, stride)
        parts.append(_slice(graph, picked, 0, n_windows, 1))
    return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=2)


def as_matrix(weight: FloatArray) -> FloatArray:
    """torch's convolution weight [n_out, n_in, width] as [width * n_in, n_out], to go with emit_windows."""
    return np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, len(weight)))


def _slice(graph: GraphBuilder, value: str, start: int, end: str, axis: int) -> str:
    return graph.op("Slice", value, graph.integers(start), end, graph.integers(axis))
