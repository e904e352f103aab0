"""A ConformerCTC checkpoint of training/ as an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.bundle.folder import AcousticConfig
from export.acoustic.export import export_acoustic
from export.acoustic.mel_checkpoint import read_mel_checkpoint
from export.acoustic.source import AcousticSource, ExportOptions
from export.graph.builder import Choice, GraphBuilder
from export.graph.conformer import (
    ConformerLayer,
    ConvModule,
    DistanceAttention,
    FeedForward,
    emit_conformer_layer,
    emit_distances,
    emit_subsampling,
    fold_batch_norm,
)
from export.graph.heads import emit_head
from export.graph.linear import FloatArray, Linear, as_array
from export.graph.norm import LayerNorm
from export.verification.verify import Report

HALF = np.float32(0.5)


def export_conformer(checkpoint: Path, folder: Path, options: ExportOptions) -> Report:
    """Export a checkpoint of training/ as a verified bundle.

    Raises:
        ExportError: the checkpoint cannot be exported, or the graph differs from it.
    """
    return export_acoustic(load_conformer(checkpoint), folder, options)


def load_conformer(checkpoint: Path) -> AcousticSource:
    """Read config.json, vocab.json and model.safetensors.

    Raises:
        ExportError: a file is missing, of another kind, or does not fit the others.
    """
    from training.asr.conformer import SUBSAMPLING, load_checkpoint

    read = read_mel_checkpoint(
        checkpoint, load_checkpoint, kind="ConformerCTC", others="`log-mel` or `wav2vec2`"
    )
    config = read.model.config
    return AcousticSource(
        name=read.name,
        licence=read.licence,
        build=lambda precision, ranges: build_conformer(read.model, precision, ranges),
        reference=read.reference,
        vocabulary=read.vocabulary,
        config=AcousticConfig(
            features=read.features(),
            samples_per_frame=SUBSAMPLING * config.hop_length,
            blank_id=config.blank_id,
            max_window_s=config.max_window_s,
        ),
        about=(f"Conformer, {config.n_layers} layers of {config.hidden_size}, with a linear CTC head.",),
    )


def build_conformer(
    model: Any,
    precision: Choice = lambda block: "float32",
    ranges: Mapping[str, FloatArray] | None = None,
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Build the graph of a ConformerCtc.

    Args:
        model: training.asr.conformer.ConformerCtc, in evaluation mode.
        precision: of each block.
        ranges: for a block, the largest magnitude of each channel that it reads.
    Returns:
        The graph (input_features [batch, n_mels, n_frames100] -> logits [batch, n_frames, vocab_size]),
        and the value that each block reads.
    """
    graph, config = GraphBuilder(precision, ranges), model.config
    with graph.scope("stem/normalize"):
        mean, scale = (as_array(array)[:, None] for array in (model.mel_mean, model.mel_scale))
        centred = graph.op("Sub", "input_features", graph.constant(mean, "mean"))
        features = graph.op("Mul", centred, graph.constant(scale, "scale"))
    convs = tuple((as_array(conv.weight), as_array(conv.bias)) for conv in (model.conv1, model.conv2))
    hidden = emit_subsampling(graph, features, convs)
    distances = emit_distances(graph, hidden, config.max_distance)
    for index, layer in enumerate(model.layers):
        with graph.scope(f"layer_{index}"):
            hidden = emit_conformer_layer(graph, hidden, _layer(layer), distances)
    graph.rename(emit_head(graph, hidden, Linear.of(model.output)), "logits")
    shapes = ("batch", config.n_mels, "n_frames100"), ("batch", "n_frames", config.vocab_size)
    return graph.build({"input_features": shapes[0]}, {"logits": shapes[1]}), graph.blocks


def _layer(layer: Any) -> ConformerLayer:
    return ConformerLayer(
        feed_before=_feed_forward(layer.feed_before),
        attention=_attention(layer.attention),
        convolution=_convolution(layer.convolution),
        feed_after=_feed_forward(layer.feed_after),
        norm=LayerNorm.of(layer.norm),
    )


def _feed_forward(feed: Any) -> FeedForward:
    out = Linear.of(feed.output_dense)
    assert out.bias is not None
    halved = Linear(out.weight * HALF, out.bias * HALF)
    return FeedForward(LayerNorm.of(feed.norm), Linear.of(feed.intermediate_dense), halved)


def _attention(block: Any) -> DistanceAttention:
    return DistanceAttention(
        LayerNorm.of(block.norm),
        Linear.of(block.q_proj),
        Linear.of(block.k_proj),
        Linear.of(block.v_proj),
        Linear.of(block.out_proj),
        n_heads=block.n_heads,
        bias=as_array(block.distance_bias),
    )


def _convolution(block: Any) -> ConvModule:
    norm = block.batch_norm
    weight, bias = fold_batch_norm(
        as_array(block.depthwise.weight),
        as_array(block.depthwise.bias),
        as_array(norm.running_mean),
        as_array(norm.running_var),
        LayerNorm.of(norm),
    )
    return ConvModule(
        LayerNorm.of(block.norm), Linear.of(block.expand), weight, bias, Linear.of(block.contract)
    )
