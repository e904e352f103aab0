"""A transformer layer, with its norms before the blocks (Whisper, XLS-R) or behind them (wav2vec2-base)."""

from __future__ import annotations

from dataclasses import dataclass

from export.graph.attention import Attention, emit_attention
from export.graph.builder import GraphBuilder
from export.graph.linear import Linear, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual


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
        normed = emit_layer_norm(graph, hidden, layer.attention_norm)
        hidden = emit_residual(graph, hidden, _emit_attention(graph, normed, layer))
        normed = emit_layer_norm(graph, hidden, layer.feed_norm)
        return emit_residual(graph, hidden, _emit_feed_forward(graph, normed, layer))
    hidden = emit_residual(graph, hidden, _emit_attention(graph, hidden, layer))
    hidden = emit_layer_norm(graph, hidden, layer.attention_norm)
    hidden = emit_residual(graph, hidden, _emit_feed_forward(graph, hidden, layer))
    return emit_layer_norm(graph, hidden, layer.feed_norm)


def _emit_attention(graph: GraphBuilder, value: str, layer: Layer) -> str:
    with graph.scope("attention"):
        return emit_attention(graph, value, layer.attention)


def _emit_feed_forward(graph: GraphBuilder, value: str, layer: Layer) -> str:
    with graph.scope("feed_in"):
        inner = graph.op("Gelu", emit_linear(graph, value, layer.feed_in))
    with graph.scope("feed_out"):
        return emit_linear(graph, inner, layer.feed_out)
