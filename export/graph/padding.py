"""Utterances of different lengths in one call, each with exactly the result that it has alone.

A convolution without padding computes every frame from its own samples, so the padding after an utterance
affects its frames only in steps that see more: statistics over time (group norm), the positional convolution
(which must see zeros there, as at a real end) and attention (which must not see it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import TensorProto

from export.graph.builder import GraphBuilder

MASK_NAME, COUNTS_NAME = "attention_mask", "frame_counts"


@dataclass(frozen=True)
class Padding:
    """What is valid: lengths int64 [batch, 1], the number of valid frames of each utterance."""

    lengths: str


def emit_lengths(graph: GraphBuilder, mask: str) -> Padding:
    """Count the samples of each utterance in a mask of ones and zeros, int64 [batch, n_samples]."""
    with graph.scope("lengths"):
        return Padding(graph.op("ReduceSum", mask, graph.integers(1), keepdims=1))


def emit_strided(graph: GraphBuilder, padding: Padding, width: int, stride: int) -> Padding:
    """The lengths after a convolution without padding."""
    span = graph.op("Sub", padding.lengths, graph.integers(width))
    windows = graph.op("Div", span, graph.integers(stride))
    return Padding(graph.op("Add", windows, graph.integers(1)))


def emit_valid(graph: GraphBuilder, padding: Padding, rows: str, to: int = TensorProto.FLOAT) -> str:
    """Ones at the valid rows of [batch, n_rows, ...] and zeros after them: [batch, n_rows]."""
    n_rows = graph.op("Squeeze", graph.size(rows, 1))
    positions = graph.op("Range", graph.scalar(0), n_rows, graph.scalar(1))
    return graph.op("Cast", graph.op("Less", positions, padding.lengths), to=to)


def emit_zeroed(graph: GraphBuilder, rows: str, padding: Padding) -> str:
    """Rows [batch, n_rows, n_channels] with zeros after each utterance's end."""
    valid = graph.op("Unsqueeze", emit_valid(graph, padding, rows), graph.integers(2))
    return graph.op("Mul", rows, valid)


def emit_all_strided(graph: GraphBuilder, padding: Padding, shapes: Iterable[tuple[int, int]]) -> Padding:
    """The lengths after convolutions of the given (width, stride)."""
    for width, stride in shapes:
        padding = emit_strided(graph, padding, width, stride)
    return padding
