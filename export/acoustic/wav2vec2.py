"""A Hugging Face Wav2Vec2ForCTC or HubertForCTC as an ONNX graph, with any norms and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from engine.bundle.folder import AcousticConfig, FeatureConfig
from export.acoustic.export import AcousticSource, ExportOptions, export_acoustic
from export.checkpoint import read_checkpoint
from export.errors import ExportError
from export.graph.attention import Attention
from export.graph.builder import Choice, GraphBuilder
from export.graph.heads import emit_head
from export.graph.layer import Layer, emit_layer
from export.graph.linear import FloatArray, Linear, as_array
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
from export.verification.verify import Report

ARCHITECTURES = ("Wav2Vec2ForCTC", "HubertForCTC")
MAX_WINDOW_S = 30.0


def export_wav2vec2(checkpoint: str, folder: Path, options: ExportOptions) -> Report:
    """Export a checkpoint as a verified bundle.

    Args:
        checkpoint: a save_pretrained folder, or a hub name.
        folder: where the bundle will be.
    Raises:
        ExportError: the checkpoint cannot be exported, or the graph differs from it.
    """
    return export_acoustic(load_wav2vec2(checkpoint), folder, options)


def load_wav2vec2(checkpoint: str) -> AcousticSource:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        ExportError: it is not a CTC model of a known architecture, or its files do not fit each other.
    """
    import torch
    import transformers

    folder = _local_folder(checkpoint)
    info = read_checkpoint(folder, ARCHITECTURES)
    model_class = getattr(transformers, info.architecture)
    try:
        model, loading = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            dtype=torch.float32,  # a checkpoint in half precision would stay so, and no CPU compares in it
        )
    except Exception as error:  # safetensors' own error derives from nothing else
        raise ExportError(
            f"{checkpoint!r} cannot be loaded ({str(error).splitlines()[0]})", "weights that fit config.json"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ExportError(
            f"{checkpoint!r} lacks {len(missing)} weights of {info.architecture}, {', '.join(missing[:3])}",
            "a fine-tuned CTC checkpoint, head included",
            "pass the fine-tuned checkpoint, not the pre-trained one",
        )
    model.eval()
    check_supported(model.config)
    features = FeatureConfig(kind="waveform", sample_rate=info.sample_rate, normalize=info.normalize)
    norm = "group norm" if model.config.feat_extract_norm == "group" else "layer norm"
    return AcousticSource(
        name=folder.resolve().name if Path(checkpoint).exists() else checkpoint.split("/")[-1],
        licence=info.licence,
        build=lambda precision, ranges: build_wav2vec2(model, precision, ranges),
        batchable=lambda precision, ranges: build_wav2vec2(model, precision, ranges, batchable=True),
        reference=lambda values: run_torch(model, values),
        vocabulary=info.vocabulary,
        config=AcousticConfig(
            features=features,
            samples_per_frame=info.samples_per_frame,
            blank_id=info.blank_id,
            word_delimiter=info.word_delimiter,
            max_window_s=MAX_WINDOW_S,
            trained_with_mask=info.trained_with_mask,
        ),
        about=(
            f"{info.architecture}, {model.config.num_hidden_layers} layers of {model.config.hidden_size}, "
            f"{norm} in the convolutions; trained {'with' if info.trained_with_mask else 'without'} a mask "
            "over padding.",
        ),
    )


def run_torch(model: Any, values: FloatArray) -> FloatArray:
    """Logits of the original model, without a mask."""
    import torch

    with torch.inference_mode():
        logits: FloatArray = model(torch.from_numpy(np.ascontiguousarray(values))).logits.float().numpy()
    return logits


def _local_folder(checkpoint: str) -> Path:
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    import huggingface_hub

    try:
        wanted = ["*.json", "*.safetensors", "README.md"]
        return Path(huggingface_hub.snapshot_download(checkpoint, allow_patterns=wanted))
    except Exception as error:  # the hub's errors share no base
        raise ExportError(
            f"{checkpoint!r} is neither a folder nor available from the hub ({type(error).__name__})",
            "a save_pretrained folder or a hub name",
            "check the path, or download the checkpoint first",
        ) from error


def build_wav2vec2(
    model: Any,
    precision: Choice = lambda block: "float32",
    ranges: Mapping[str, FloatArray] | None = None,
    batchable: bool = False,
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Build the graph of a CTC model.

    Args:
        model: transformers' Wav2Vec2ForCTC or HubertForCTC, in evaluation mode.
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
    if norm_first:
        with graph.scope("final_norm"):
            hidden = emit_layer_norm(graph, hidden, LayerNorm.of(encoder.layer_norm))
    return hidden


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
