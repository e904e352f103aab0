"""CTC heads: a linear layer, a bidirectional LSTM, or a small transformer with depthwise convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.runtime.pair_safe import quantize_columns
from export.graph.builder import MICROSOFT, GraphBuilder
from export.graph.layer import Layer, emit_layer
from export.graph.linear import FloatArray, Linear, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual

_GATE_ORDER = (0, 3, 1, 2)  # torch: input, forget, cell, output; ONNX: input, output, forget, cell


@dataclass(frozen=True)
class LstmLayer:
    """A bidirectional layer as in torch: [2, 4 * hidden, n] for both directions, bias [2, 4 * hidden]."""

    weight_input: FloatArray
    weight_hidden: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class LstmHead:
    """LSTM layers, then a linear layer."""

    layers: tuple[LstmLayer, ...]
    output: Linear


@dataclass(frozen=True)
class TransformerHead:
    """A projection, a residual depthwise convolution [n, 1, width] before every layer, norm and output."""

    input: Linear
    convs: tuple[tuple[FloatArray, FloatArray], ...]
    layers: tuple[Layer, ...]
    norm: LayerNorm
    output: Linear


Head = Linear | LstmHead | TransformerHead


def emit_head(graph: GraphBuilder, hidden: str, head: Head) -> str:
    """Map [batch, n_frames, hidden] to logits [batch, n_frames, vocab_size]."""
    if isinstance(head, LstmHead):
        for index, layer in enumerate(head.layers):
            with graph.scope(f"head/lstm_{index}"):
                hidden = emit_lstm(graph, hidden, layer)
        head = head.output
    elif isinstance(head, TransformerHead):
        hidden, head = _emit_transformer(graph, hidden, head), head.output
    with graph.scope("head/output"):
        return emit_linear(graph, hidden, head)


def _emit_transformer(graph: GraphBuilder, hidden: str, head: TransformerHead) -> str:
    with graph.scope("head/input"):
        hidden = emit_linear(graph, hidden, head.input)
    for index, ((weight, bias), layer) in enumerate(zip(head.convs, head.layers, strict=True)):
        with graph.scope(f"head/conv_{index}"):
            hidden = emit_residual(graph, hidden, _emit_depthwise(graph, hidden, weight, bias))
        with graph.scope(f"head/layer_{index}"):
            hidden = emit_layer(graph, hidden, layer)
    return emit_layer_norm(graph, hidden, head.norm)


def _emit_depthwise(graph: GraphBuilder, hidden: str, weight: FloatArray, bias: FloatArray) -> str:
    channels_first = graph.op("Transpose", hidden, perm=[0, 2, 1])
    half = weight.shape[2] // 2
    mixed = graph.op(
        "Conv",
        channels_first,
        graph.constant(weight, "weight"),
        graph.constant(bias, "bias"),
        group=len(weight),
        pads=[half, half],
    )
    return graph.op("Transpose", graph.op("Gelu", mixed), perm=[0, 2, 1])


def emit_lstm(graph: GraphBuilder, hidden: str, layer: LstmLayer) -> str:
    """Add a bidirectional LSTM over [batch, n_frames, n]; both directions joined, [..., 2 * hidden]."""
    size = layer.weight_hidden.shape[2]
    weights = [_reorder(array) for array in (layer.weight_input, layer.weight_hidden)]
    bias = _reorder(layer.bias)
    both = graph.constant(np.concatenate([bias, np.zeros_like(bias)], axis=1), "bias")
    steps_first = graph.op("Transpose", hidden, perm=[1, 0, 2])
    settings = {"direction": "bidirectional", "hidden_size": size}
    if graph.precision(hidden) == "int8":
        names: tuple[str, ...]
        names, scales, zeros = zip(*(_quantize(graph, array) for array in weights), strict=True)
        states = graph.op(
            "DynamicQuantizeLSTM", steps_first, *names, both, "", "", "", "",
            scales[0], zeros[0], scales[1], zeros[1], domain=MICROSOFT, **settings,
        )  # fmt: skip
    else:
        names = tuple(graph.constant(array, "weight") for array in weights)
        states = graph.op("LSTM", steps_first, *names, both, **settings)
    # [n_frames, 2, batch, hidden] -> [batch, n_frames, 2 * hidden]
    return graph.reshape(graph.op("Transpose", states, perm=[2, 0, 1, 3]), 0, 0, 2 * size)


def _reorder(array: FloatArray) -> FloatArray:
    """Gates along axis 1, from torch's order to ONNX's."""
    gates = np.split(array, 4, axis=1)
    return np.ascontiguousarray(np.concatenate([gates[i] for i in _GATE_ORDER], axis=1))


def _quantize(graph: GraphBuilder, array: FloatArray) -> tuple[str, str, str]:
    """[2, 4 * hidden, n] as int8 [2, n, 4 * hidden], with a scale and a zero for each column."""
    pairs = [quantize_columns(direction.T) for direction in array]
    weight, scale = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    zeros = graph.constant(np.zeros(scale.shape, np.int8), "zeros")
    return graph.constant(weight, "weight"), graph.constant(scale, "scale"), zeros
