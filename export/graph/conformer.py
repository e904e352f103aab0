"""A Conformer layer and its stem: every linear layer is a GEMM that may be int8.

Batch norms and the factor of one half of feed-forward blocks are folded into weights. Each layer gathers its
bias from a small table by the clipped distances of all pairs of frames, which the layers share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.attention import emit_smoothed_norm
from export.graph.builder import MICROSOFT, GraphBuilder
from export.graph.linear import FloatArray, Linear, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.windows import as_matrix, emit_windows


@dataclass(frozen=True)
class FeedForward:
    """Norm and two linear layers; the second already holds the factor of one half."""

    norm: LayerNorm
    feed_in: Linear
    feed_out: Linear


@dataclass(frozen=True)
class DistanceAttention:
    """Norm, the four projections, and a bias [2 * max_distance + 1, n_heads] by clipped distance."""

    norm: LayerNorm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    n_heads: int
    bias: FloatArray


@dataclass(frozen=True)
class ConvModule:
    """Norm, expansion to [value, gate], depthwise weight [n, 1, width] and bias with batch norm folded in."""

    norm: LayerNorm
    expand: Linear
    weight: FloatArray
    bias: FloatArray
    contract: Linear


@dataclass(frozen=True)
class ConformerLayer:
    """The parts of a layer in their order."""

    feed_before: FeedForward
    attention: DistanceAttention
    convolution: ConvModule
    feed_after: FeedForward
    norm: LayerNorm


def fold_batch_norm(
    weight: FloatArray, bias: FloatArray, mean: FloatArray, variance: FloatArray, norm: LayerNorm
) -> tuple[FloatArray, FloatArray]:
    """A convolution [n, ...] and the batch norm after it as one convolution."""
    factor = norm.weight / np.sqrt(variance + np.float32(norm.epsilon))
    shaped = factor.reshape(-1, *[1] * (weight.ndim - 1))
    return (weight * shaped).astype(np.float32), ((bias - mean) * factor + norm.bias).astype(np.float32)


def emit_subsampling(
    graph: GraphBuilder, features: str, convs: tuple[tuple[FloatArray, FloatArray], ...]
) -> str:
    """Convolutions of width 3, stride 2 and padding 1 with SiLU, over features [batch, n_mels, n_frames]."""
    rows = graph.op("Transpose", features, perm=[0, 2, 1])
    for index, (weight, bias) in enumerate(convs, 1):
        with graph.scope(f"stem/conv{index}"):
            padded = graph.op("Pad", rows, graph.integers(0, 1, 0, 0, 1, 0))
            windows = emit_windows(graph, padded, 3, 2, weight.shape[1])
            rows = emit_silu(graph, emit_linear(graph, windows, Linear(as_matrix(weight), bias)))
    return rows


def emit_distances(graph: GraphBuilder, hidden: str, max_distance: int) -> str:
    """Clipped distances from frame to frame as indices into a table: int64 [n_frames, n_frames]."""
    with graph.scope("distances"):
        n_frames = graph.op("Squeeze", graph.size(hidden, 1))
        frames = graph.op("Range", graph.scalar(0), n_frames, graph.scalar(1))
        to, since = graph.integers(0), graph.integers(1)
        difference = graph.op("Sub", graph.op("Unsqueeze", frames, to), graph.op("Unsqueeze", frames, since))
        shifted = graph.op("Add", difference, graph.scalar(max_distance))
        return graph.op("Clip", shifted, graph.scalar(0), graph.scalar(2 * max_distance))


def emit_conformer_layer(graph: GraphBuilder, hidden: str, layer: ConformerLayer, distances: str) -> str:
    """Add one layer over [batch, n_frames, hidden]."""
    with graph.scope("before"):
        hidden = emit_residual(graph, hidden, _emit_feed_forward(graph, hidden, layer.feed_before))
    with graph.scope("attention"):
        mixed = _emit_attention(graph, hidden, layer.attention, distances)
        hidden = emit_residual(graph, hidden, mixed)
    with graph.scope("convolution"):
        hidden = emit_residual(graph, hidden, _emit_convolution(graph, hidden, layer.convolution))
    with graph.scope("after"):
        hidden = emit_residual(graph, hidden, _emit_feed_forward(graph, hidden, layer.feed_after))
    return emit_layer_norm(graph, hidden, layer.norm)


def emit_silu(graph: GraphBuilder, value: str) -> str:
    """value * sigmoid(value)."""
    return graph.op("Mul", value, graph.op("Sigmoid", value))


def _emit_feed_forward(graph: GraphBuilder, hidden: str, feed: FeedForward) -> str:
    with graph.scope("feed_in"):
        inner = emit_linear(graph, *emit_smoothed_norm(graph, hidden, feed.norm, feed.feed_in))
        inner = emit_silu(graph, inner)
    with graph.scope("feed_out"):
        return emit_linear(graph, inner, feed.feed_out)


def _emit_attention(graph: GraphBuilder, hidden: str, attention: DistanceAttention, distances: str) -> str:
    joined = Linear.joined(attention.query, attention.key, attention.value)
    with graph.scope("qkv"):
        packed = emit_linear(graph, *emit_smoothed_norm(graph, hidden, attention.norm, joined))
    parts = graph.ops("Split", packed, n_outputs=3, axis=-1, num_outputs=3)
    with graph.scope("bias"):
        table = graph.constant(np.ascontiguousarray(attention.bias.T), "table")
        bias = graph.op("Unsqueeze", graph.op("Gather", table, distances, axis=1), graph.integers(0))
    mixed = graph.op(
        "MultiHeadAttention", *parts, "", graph.key_mask, bias, domain=MICROSOFT, num_heads=attention.n_heads
    )
    with graph.scope("output"):
        return emit_linear(graph, mixed, attention.output)


def _emit_convolution(graph: GraphBuilder, hidden: str, conv: ConvModule) -> str:
    with graph.scope("expand"):
        doubled = emit_linear(graph, *emit_smoothed_norm(graph, hidden, conv.norm, conv.expand))
    value, gate = graph.ops("Split", doubled, n_outputs=2, axis=-1, num_outputs=2)
    gated = graph.op("Mul", value, graph.op("Sigmoid", gate))
    channels_first = graph.op("Transpose", gated, perm=[0, 2, 1])
    half = conv.weight.shape[2] // 2
    weight, bias = graph.constant(conv.weight, "weight"), graph.constant(conv.bias, "bias")
    mixed = graph.op("Conv", channels_first, weight, bias, group=len(conv.weight), pads=[half, half])
    rows = emit_silu(graph, graph.op("Transpose", mixed, perm=[0, 2, 1]))
    with graph.scope("contract"):
        return emit_linear(graph, rows, conv.contract)
