"""A CTC model of Wav2Vec2's shape (HuBERT, UniSpeech) as an ONNX graph, with any norms and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from export.errors import ExportError
from export.graph.attention import Attention, emit_smoothed_norm
from export.graph.builder import Choice, GraphBuilder
from export.graph.heads import emit_head
from export.graph.layer import Layer, emit_layer
from export.graph.linear import FloatArray, Linear, as_array, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.padding import (
    COUNTS_NAME,
    MASK_NAME,
    emit_all_strided,
    emit_lengths,
    emit_valid,
    emit_zeroed,
)
from export.graph.positional_conv import PositionalConv, emit_positional_conv, emit_positional_gemm
from export.graph.waveform_convs import WaveformConv, emit_projection, emit_waveform_convs


def run_torch(model: Any, values: FloatArray) -> FloatArray:
    """Logits of the original model, without a mask."""
    import torch

    with torch.inference_mode():
        logits: FloatArray = model(torch.from_numpy(np.ascontiguousarray(values))).logits.float().numpy()
    return logits


def build_wav2vec2(
    model: Any,
    precision: Choice = lambda block: "float32",
    ranges: Mapping[str, FloatArray] | None = None,
    batchable: bool = False,
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Build the graph of a CTC model.

    Args:
        model: transformers' Wav2Vec2ForCTC or one of the same shape, in evaluation mode.
        precision: of each block.
        ranges: for a block, the largest magnitude of each channel it reads.
        batchable: with an input attention_mask int64 [batch, n_samples], ones then zeros; the valid frames
            of an utterance then do not depend on its batch, also after a group norm, and an output
            frame_counts int64 [batch] counts them.
    Returns:
        The graph (input_values [batch, n_samples] -> logits [batch, n_frames, vocab_size]) and the
        value that each block reads.
    Raises:
        ExportError: the model has parts that this graph does not know.
    """
    check_supported(model.config)
    graph, base = GraphBuilder(precision, ranges), getattr(model, model.base_model_prefix)
    convs = _convs(base.feature_extractor, model.config)
    padding = emit_lengths(graph, MASK_NAME) if batchable else None
    rows = emit_waveform_convs(graph, "input_values", convs, padding)
    feature_projection = base.feature_projection
    norm = getattr(feature_projection, "layer_norm", None)
    projection = Linear.of(feature_projection.projection)
    hidden = emit_projection(graph, rows, LayerNorm.of(norm) if norm is not None else None, projection)
    if padding is not None:
        frames = emit_all_strided(graph, padding, [(c.weight.shape[2], c.stride) for c in convs])
        graph.rename(graph.op("Squeeze", frames.lengths, graph.integers(1)), COUNTS_NAME)
        graph.key_mask = emit_valid(graph, frames, hidden, TensorProto.INT32)
        hidden = emit_zeroed(graph, hidden, frames)
    hidden = _emit_encoder(graph, hidden, base.encoder, bool(model.config.do_stable_layer_norm), batchable)
    graph.rename(emit_head(graph, hidden, Linear.of(model.lm_head)), "logits")
    vocab_size = model.lm_head.out_features
    inputs, outputs = ("batch", "n_samples"), ("batch", "n_frames", vocab_size)
    masks, counts = ({MASK_NAME: inputs}, {COUNTS_NAME: ("batch",)}) if batchable else ({}, {})
    model = graph.build({"input_values": inputs}, {"logits": outputs}, masks=masks, counts=counts)
    return model, graph.blocks


def check_supported(config: Any) -> None:
    """Refuse a configuration with parts that the graph does not cover.

    Raises:
        ExportError: names all of them.
    """
    problems = find_unsupported(config)
    if problems:
        raise ExportError(
            f"a model with {', '.join(problems)}",
            "a CTC model of Wav2Vec2's shape, with GELU and group or layer norm",
            "use export.acoustic.pretrained, which traces such a model",
        )


def find_unsupported(config: Any) -> list[str]:
    """The parts of a configuration that the graph does not cover; none for most checkpoints."""
    wanted: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("gelu",),
        "feat_extract_activation": ("gelu",),
        "feat_extract_norm": ("group", "layer"),
        "add_adapter": (False,),
        "conv_pos_batch_norm": (False,),
    }
    return [
        f"{name}={getattr(config, name)!r}"
        for name, values in wanted.items()
        if getattr(config, name, None) not in (*values, None)
    ]


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


def _emit_encoder(graph: GraphBuilder, hidden: str, encoder: Any, norm_first: bool, batchable: bool) -> str:
    conv = encoder.pos_conv_embed.conv
    emit_positions = emit_positional_gemm if batchable else emit_positional_conv  # batches are for CUDA
    with graph.scope("positions"):
        positional = PositionalConv(as_array(conv.weight), as_array(conv.bias), conv.groups)
        hidden = emit_residual(graph, hidden, emit_positions(graph, hidden, positional))
        if not norm_first:
            hidden = emit_layer_norm(graph, hidden, LayerNorm.of(encoder.layer_norm))
    for index, layer in enumerate(encoder.layers):
        with graph.scope(f"layer_{index}"):
            hidden = emit_layer(graph, hidden, _layer(layer, norm_first))
            if getattr(layer, "adapter_layer", None) is not None:
                hidden = emit_residual(graph, hidden, _emit_adapter(graph, hidden, layer.adapter_layer))
    if norm_first:
        with graph.scope("final_norm"):
            hidden = emit_layer_norm(graph, hidden, LayerNorm.of(encoder.layer_norm))
    return hidden


def _emit_adapter(graph: GraphBuilder, hidden: str, adapter: Any) -> str:
    """What the adapter of a language adds to a layer's result."""
    with graph.scope("adapter_in"):
        normed, linear = emit_smoothed_norm(
            graph, hidden, LayerNorm.of(adapter.norm), Linear.of(adapter.linear_1)
        )
        inner = graph.op("Relu", emit_linear(graph, normed, linear))
    with graph.scope("adapter_out"):
        return emit_linear(graph, inner, Linear.of(adapter.linear_2))


def _layer(layer: Any, norm_first: bool) -> Layer:
    block = layer.attention
    return Layer(
        attention=Attention(
            query=Linear.of(block.q_proj),
            key=Linear.of(block.k_proj),
            value=Linear.of(block.v_proj),
            output=Linear.of(block.out_proj),
            n_heads=block.num_heads,
        ),
        attention_norm=LayerNorm.of(layer.layer_norm),
        feed_in=Linear.of(layer.feed_forward.intermediate_dense),
        feed_out=Linear.of(layer.feed_forward.output_dense),
        feed_norm=LayerNorm.of(layer.final_layer_norm),
        norm_first=norm_first,
    )
