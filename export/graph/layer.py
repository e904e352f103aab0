"""A transformer layer, with its norms before the blocks (Whisper, XLS-R) or after them (wav2vec2-base)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.attention import Attention, emit_attention, emit_smoothed_norm
from export.graph.builder import GraphBuilder
from export.graph.linear import Linear, emit_float_linear, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.outliers import find_outlier_units, split_units


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; attention_norm and feed_norm as the checkpoint applies them."""

    attention: Attention
    attention_norm: LayerNorm
    feed_in: Linear
    feed_out: Linear
    feed_norm: LayerNorm
    norm_first: bool


def emit_layer(graph: GraphBuilder, hidden: str, layer: Layer) -> str:
    """Add one layer over [batch, n_frames, hidden]."""
    if layer.norm_first:
        with graph.scope("attention"):
            mixed = emit_attention(graph, hidden, layer.attention, layer.attention_norm)
        hidden = emit_residual(graph, hidden, mixed)
        return emit_residual(graph, hidden, emit_feed_forward(graph, hidden, layer, layer.feed_norm))
    with graph.scope("attention"):
        mixed = emit_attention(graph, hidden, layer.attention, None)
    hidden = emit_layer_norm(graph, emit_residual(graph, hidden, mixed), layer.attention_norm)
    hidden = emit_residual(graph, hidden, emit_feed_forward(graph, hidden, layer, None))
    return emit_layer_norm(graph, hidden, layer.feed_norm)


def emit_feed_forward(graph: GraphBuilder, value: str, layer: Layer, norm: LayerNorm | None) -> str:
    """Two linear layers with a GELU between; units with outliers in a separate float32 block."""
    with graph.scope("feed_in"):
        value, feed_in = emit_smoothed_norm(graph, value, norm, layer.feed_in)
    feed_out, outliers = layer.feed_out, None
    with graph.scope("feed_out"):
        magnitudes = graph.range()
        units = find_outlier_units(magnitudes) if magnitudes is not None else np.zeros(0, np.int64)
    if len(units):
        (feed_in, feed_out), outliers = split_units(feed_in, feed_out, units)
    with graph.scope("feed_in"):
        inner = graph.op("Gelu", emit_linear(graph, value, feed_in))
    with graph.scope("feed_out"):
        total = emit_linear(graph, inner, feed_out)
    if outliers is None:
        return total
    with graph.scope("feed_outliers"):
        inner = graph.op("Gelu", emit_float_linear(graph, value, outliers[0]))
        return emit_residual(graph, total, emit_float_linear(graph, inner, outliers[1]))
