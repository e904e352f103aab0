"""Self-attention: one GEMM for queries, keys and values, then onnxruntime's fused attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph.builder import MICROSOFT, GraphBuilder
from export.graph.linear import FloatArray, Linear, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm
from export.graph.outliers import smooth


@dataclass(frozen=True)
class Sinks:
    """Learned key/value pairs that every frame may attend to: [n_sinks, hidden]; bias [n_sinks]."""

    keys: FloatArray
    values: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class Attention:
    """The weights of one self-attention block."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    n_heads: int
    sinks: Sinks | None = None


def emit_attention(graph: GraphBuilder, value: str, attention: Attention, norm: LayerNorm | None) -> str:
    """Add self-attention over [batch, n_frames, hidden], after a norm where one is given."""
    joined = Linear.joined(attention.query, attention.key, attention.value)
    with graph.scope("qkv"):
        packed = emit_linear(graph, *emit_smoothed_norm(graph, value, norm, joined))
    query, key, states = graph.ops("Split", packed, n_outputs=3, axis=-1, num_outputs=3)
    extra = _emit_sinks(graph, value, attention) if attention.sinks is not None else ()
    if not extra and graph.key_mask:
        extra = ("", graph.key_mask)
    n_outputs = 3 if attention.sinks is not None else 1  # the past is read only with the present
    mixed = graph.ops(
        "MultiHeadAttention",
        *(query, key, states, *extra),
        n_outputs=n_outputs,
        domain=MICROSOFT,
        num_heads=attention.n_heads,
    )[0]
    with graph.scope("output"):
        return emit_linear(graph, mixed, attention.output)


def emit_smoothed_norm(
    graph: GraphBuilder, value: str, norm: LayerNorm | None, linear: Linear
) -> tuple[str, Linear]:
    """Normalise what a linear layer reads; known ranges of the channels move into the layer."""
    if norm is None:
        return value, linear
    magnitudes = graph.range()
    if magnitudes is not None:
        norm, linear = smooth(norm, linear, magnitudes)
    return emit_layer_norm(graph, value, norm), linear


def _emit_sinks(graph: GraphBuilder, value: str, attention: Attention) -> tuple[str, ...]:
    """Pass the sinks as the past of a cache: they come before the utterance's keys."""
    sinks = attention.sinks
    assert sinks is not None
    batch, n_frames = graph.size(value, 0), graph.size(value, 1)
    past = [_emit_past(graph, array, attention.n_heads, batch) for array in (sinks.keys, sinks.values)]
    zeros = graph.op("ConstantOfShape", n_frames)
    row = graph.op("Concat", graph.constant(sinks.bias, "bias"), zeros, axis=0)
    shape = graph.op("Concat", graph.integers(1, 1), n_frames, graph.size(row, 0), axis=0)
    bias = graph.op("Expand", row, shape)
    return ("", "", bias, *past)  # no projection bias, no padding mask


def _emit_past(graph: GraphBuilder, array: FloatArray, n_heads: int, batch: str) -> str:
    heads = np.ascontiguousarray(array.reshape(len(array), n_heads, -1).transpose(1, 0, 2))[None]
    shape = graph.op("Concat", batch, graph.integers(*heads.shape[1:]), axis=0)
    return graph.op("Expand", graph.constant(heads, "past"), shape)
