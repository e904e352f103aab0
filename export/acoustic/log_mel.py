"""A log-mel CTC checkpoint (Whisper's encoder with a CTC head) as an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.acoustic.encoders import STATES_NAME
from engine.bundle.folder import AcousticConfig
from export.acoustic.export import export_acoustic
from export.acoustic.mel_checkpoint import read_mel_checkpoint
from export.acoustic.source import AcousticSource, ExportOptions
from export.graph.attention import Attention, Sinks
from export.graph.builder import Choice, GraphBuilder
from export.graph.heads import Head, LstmHead, LstmLayer, TransformerHead, emit_head
from export.graph.layer import Layer, emit_layer
from export.graph.linear import FloatArray, Linear, as_array
from export.graph.mel_stem import MelStem, emit_mel_stem
from export.graph.norm import LayerNorm
from export.graph.states import emit_mix, emit_time_normalization
from export.verification.verify import Report

SUBSAMPLING = 2  # of the stem's second convolution


def export_log_mel(checkpoint: Path, folder: Path, options: ExportOptions) -> Report:
    """Export a checkpoint of training/ as a verified bundle.

    Raises:
        ExportError: the checkpoint cannot be exported, or the graph differs from it.
    """
    return export_acoustic(load_log_mel(checkpoint), folder, options)


def load_log_mel(checkpoint: Path, states: bool = False) -> AcousticSource:
    """Read config.json, vocab.json and model.safetensors.

    Args:
        states: the graph gives the encoder's states too, for a second pass.
    Raises:
        ExportError: a file is missing, of another kind, or does not fit the others.
    """
    from training.asr.log_mel_ctc import load_checkpoint

    read = read_mel_checkpoint(
        checkpoint, load_checkpoint, kind="LogMelCTC", others="`conformer` or `wav2vec2`"
    )
    config = read.model.config
    window_s = config.max_frames * SUBSAMPLING * config.hop_length / config.sample_rate
    return AcousticSource(
        name=read.name,
        licence=read.licence,
        build=lambda precision, ranges: build_log_mel(read.model, precision, ranges, states),
        reference=read.reference,
        vocabulary=read.vocabulary,
        config=AcousticConfig(
            features=read.features(),
            samples_per_frame=SUBSAMPLING * config.hop_length,
            blank_id=config.blank_id,
            tail_silence_s=config.tail_silence_s,
            max_window_s=window_s - config.tail_silence_s,
        ),
        about=(
            f"Whisper's encoder, {config.n_layers} layers of {config.hidden_size}, "
            f"with a CTC head ({config.head}).",
        ),
    )


def build_log_mel(
    model: Any,
    precision: Choice = lambda block: "float32",
    ranges: Mapping[str, FloatArray] | None = None,
    states: bool = False,
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Build the graph of a LogMelCtc.

    Args:
        model: training.asr.log_mel_ctc.LogMelCtc, in evaluation mode.
        precision: of each block.
        ranges: for a block, the largest magnitude of each channel that it reads.
        states: a second output.
    Returns:
        The graph (input_features [batch, n_mels, n_frames100] -> logits [batch, n_frames, vocab_size], and
        with `states` the encoder's states [batch, n_frames, hidden] after its final norm), and the value
        that each block reads.
    """
    graph, config = GraphBuilder(precision, ranges), model.config
    hidden = emit_mel_stem(graph, "input_features", _stem(model))
    layers = []
    for index, layer in enumerate(model.layers):
        with graph.scope(f"layer_{index}"):
            hidden = emit_layer(graph, hidden, _layer(layer))
        layers.append(hidden)
    weights = np.ones(1, np.float32) if model.mix is None else as_array(model.mix.softmax(0))
    with graph.scope("states"):
        hidden = encoded = emit_mix(graph, layers[-len(weights) :], weights, LayerNorm.of(model.layer_norm))
        if config.normalize_states:
            hidden = emit_time_normalization(graph, hidden)
    graph.rename(emit_head(graph, hidden, _head(model.head)), "logits")
    outputs = {"logits": ("batch", "n_frames", config.vocab_size)}
    if states:
        graph.publish(encoded, STATES_NAME)
        outputs[STATES_NAME] = ("batch", "n_frames", config.hidden_size)
    inputs = {"input_features": ("batch", config.n_mels, "n_frames100")}
    return graph.build(inputs, outputs), graph.blocks


def _stem(model: Any) -> MelStem:
    conv1, conv2 = model.conv1, model.conv2
    weights = (conv1.weight, conv1.bias, conv2.weight, conv2.bias, model.positions)
    return MelStem(*(as_array(weight) for weight in weights))


def _layer(layer: Any) -> Layer:
    block = layer.attention
    sinks = None
    if block.n_sinks:
        sinks = Sinks(as_array(block.sink_keys), as_array(block.sink_values), as_array(block.sink_bias))
    return Layer(
        attention=Attention(
            query=Linear.of(block.q_proj),
            key=Linear.of(block.k_proj),
            value=Linear.of(block.v_proj),
            output=Linear.of(block.out_proj),
            n_heads=block.n_heads,
            sinks=sinks,
        ),
        attention_norm=LayerNorm.of(layer.layer_norm),
        feed_in=Linear.of(layer.intermediate_dense),
        feed_out=Linear.of(layer.output_dense),
        feed_norm=LayerNorm.of(layer.final_layer_norm),
        norm_first=True,
    )


def _head(head: Any) -> Head:
    if hasattr(head, "lstm"):
        return LstmHead(_lstm_layers(head.lstm), Linear.of(head.output))
    return TransformerHead(
        input=Linear.of(head.input),
        convs=tuple((as_array(conv.weight), as_array(conv.bias)) for conv in head.convs),
        layers=tuple(_layer(layer) for layer in head.layers),
        norm=LayerNorm.of(head.norm),
        output=Linear.of(head.output),
    )


def _lstm_layers(lstm: Any) -> tuple[LstmLayer, ...]:
    return tuple(
        LstmLayer(
            _both_directions(lstm, f"weight_ih_l{index}"),
            _both_directions(lstm, f"weight_hh_l{index}"),
            _both_directions(lstm, f"bias_ih_l{index}") + _both_directions(lstm, f"bias_hh_l{index}"),
        )
        for index in range(lstm.num_layers)
    )


def _both_directions(lstm: Any, name: str) -> Any:
    return np.stack([as_array(getattr(lstm, name)), as_array(getattr(lstm, f"{name}_reverse"))])
