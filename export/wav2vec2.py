"""A Hugging Face Wav2Vec2ForCTC or HubertForCTC as an ONNX graph, whatever its norms and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from export.errors import ExportError
from export.graph.attention import Attention
from export.graph.builder import Choice, GraphBuilder
from export.graph.heads import emit_head
from export.graph.layer import Layer, emit_layer
from export.graph.linear import FloatArray, Linear, as_array
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.positional_conv import PositionalConv, emit_positional_conv
from export.graph.waveform_convs import WaveformConv, emit_projection, emit_waveform_convs

ARCHITECTURES = ("Wav2Vec2ForCTC", "HubertForCTC")


def build_wav2vec2(
    model: Any,
    precision: Choice = lambda block: "float32",
    ranges: Mapping[str, FloatArray] | None = None,
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Build the graph of a CTC model.

    Args:
        model: transformers' Wav2Vec2ForCTC or HubertForCTC, in evaluation mode.
        precision: of each block.
        ranges: for a block, the largest magnitude of each channel it reads.
    Returns:
        The graph (input_values [batch, n_samples] -> logits [batch, n_frames, vocab_size]) and the
        value that each block reads.
    Raises:
        ExportError: the model has parts that this graph does not know.
    """
    check_supported(model.config)
    graph, base = GraphBuilder(precision, ranges), getattr(model, model.base_model_prefix)
    rows = emit_waveform_convs(graph, "input_values", _convs(base.feature_extractor, model.config))
    feature_projection = base.feature_projection
    norm = getattr(feature_projection, "layer_norm", None)
    projection = Linear.of(feature_projection.projection)
    hidden = emit_projection(graph, rows, LayerNorm.of(norm) if norm is not None else None, projection)
    hidden = _emit_encoder(graph, hidden, base.encoder, bool(model.config.do_stable_layer_norm))
    graph.rename(emit_head(graph, hidden, Linear.of(model.lm_head)), "logits")
    vocab_size = model.lm_head.out_features
    inputs, outputs = ("batch", "n_samples"), ("batch", "n_frames", vocab_size)
    return graph.build({"input_values": inputs}, {"logits": outputs}), graph.blocks


def check_supported(config: Any) -> None:
    """Collect everything in a configuration that the graph does not cover.

    Raises:
        ExportError: names all of it.
    """
    wanted: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("gelu",),
        "feat_extract_activation": ("gelu",),
        "feat_extract_norm": ("group", "layer"),
        "add_adapter": (False, None),
        "adapter_attn_dim": (None,),
        "conv_pos_batch_norm": (False, None),
    }
    problems = [
        f"{name}={getattr(config, name)!r}"
        for name, values in wanted.items()
        if getattr(config, name, None) not in (*values, None)
    ]
    if problems:
        raise ExportError(
            f"a model with {', '.join(problems)}",
            "a Wav2Vec2 or HuBERT CTC model without adapters, with GELU and group or layer norm",
            "merge or remove the adapters, or fine-tune from a plain checkpoint",
        )


def _convs(extractor: Any, config: Any) -> tuple[WaveformConv, ...]:
    over = {"GroupNorm": "time", "LayerNorm": "channels", "NoneType": None}
    convs = []
    for layer, stride in zip(extractor.conv_layers, config.conv_stride, strict=True):
        norm = getattr(layer, "layer_norm", None)
        bias = None if layer.conv.bias is None else as_array(layer.conv.bias)
        kind = over[type(norm).__name__]
        norm = LayerNorm.of(norm) if norm is not None else None
        convs.append(WaveformConv(as_array(layer.conv.weight), bias, stride, norm, kind))
    return tuple(convs)


def _emit_encoder(graph: GraphBuilder, hidden: str, encoder: Any, norm_first: bool) -> str:
    conv = encoder.pos_conv_embed.conv
    with graph.scope("positions"):
        positional = PositionalConv(as_array(conv.weight), as_array(conv.bias), conv.groups)
        hidden = emit_residual(graph, hidden, emit_positional_conv(graph, hidden, positional))
        if not norm_first:
            hidden = emit_layer_norm(graph, hidden, LayerNorm.of(encoder.layer_norm))
    for index, layer in enumerate(encoder.layers):
        with graph.scope(f"layer_{index}"):
            hidden = emit_layer(graph, hidden, _layer(layer, norm_first))
    if norm_first:
        with graph.scope("final_norm"):
            hidden = emit_layer_norm(graph, hidden, LayerNorm.of(encoder.layer_norm))
    return hidden


def _layer(layer: Any, norm_first: bool) -> Layer:
    block = layer.attention
    projections = (Linear.of(p) for p in (block.q_proj, block.k_proj, block.v_proj, block.out_proj))
    return Layer(
        attention=Attention(*projections, block.num_heads),
        attention_norm=LayerNorm.of(layer.layer_norm),
        feed_in=Linear.of(layer.feed_forward.intermediate_dense),
        feed_out=Linear.of(layer.feed_forward.output_dense),
        feed_norm=LayerNorm.of(layer.final_layer_norm),
        norm_first=norm_first,
    )
