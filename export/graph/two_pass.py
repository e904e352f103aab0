"""Whisper's attention decoder as two graphs: the encoder's states once, then tokens; the cache is outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from engine.runtime.pair_safe import quantize_columns
from export.graph.builder import MICROSOFT, Choice
from export.graph.linear import Linear, as_array
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.row_linear import emit_row_linear, emit_tied_head
from export.graph.step_graph import Shapes, SharedTables, StepGraph

KINDS = ("key", "value")


@dataclass(frozen=True)
class TwoPassGraphs:
    """Both graphs, the table that they refer to, and the names of their blocks."""

    memory: onnx.ModelProto
    decoder: onnx.ModelProto
    tables: SharedTables
    blocks: tuple[str, ...]


def build_two_pass(
    decoder: Any, table_file: str, precision: Choice = lambda block: "float32"
) -> TwoPassGraphs:
    """Build the graphs of an AttentionDecoder.

    Args:
        decoder: training.whisper.decoder.AttentionDecoder, in evaluation mode.
        table_file: the name of the file with the embeddings.
        precision: of each block; the embeddings are int8 unless that of "head" is "float32".
    """
    tables = SharedTables(table_file)
    memory, steps = StepGraph(tables, precision), StepGraph(tables, precision)
    kind = "fp32" if precision("head") == "float32" else "int8"
    metadata = {"exporter": "engine-export", "precision": kind}
    graphs = build_memory(memory, decoder, metadata), build_steps(steps, decoder, metadata)
    return TwoPassGraphs(*graphs, tables, (*memory.blocks, *steps.blocks))


def build_memory(graph: StepGraph, decoder: Any, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The encoder's states -> keys and values of every layer's cross-attention, once per utterance.

    Inputs: states float32 [batch, n_frames, d].
    Outputs: cross_key_i, cross_value_i float32 [batch, heads, n_frames, head_dim].
    """
    config, outputs = decoder.config, {}
    for index, layer in enumerate(decoder.layers):
        attention = layer.encoder_attn
        joined = Linear.joined(Linear.of(attention.k_proj), Linear.of(attention.v_proj))
        with graph.scope(f"layer_{index}/memory"):
            packed = emit_row_linear(graph, "states", joined)
            parts = graph.ops("Split", packed, n_outputs=2, axis=-1, num_outputs=2)
            for part, kind in zip(parts, KINDS, strict=True):
                graph.rename(graph.split_heads(part, config.n_heads), f"cross_{kind}_{index}")
                outputs[f"cross_{kind}_{index}"] = ("float", _heads(config, "batch", "n_frames"))
    inputs = {"states": ("float", ("batch", "n_frames", config.hidden_size))}
    return graph.finish("memory", inputs, outputs, metadata)


def build_steps(graph: StepGraph, decoder: Any, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Tokens after those in the cache: one for each of several rows, or several for one row.

    Inputs: input_ids int64 [rows, n]; positions int64 [n]; row_idx int64 [rows], which row of the cache each
    row continues; cross_key_i, cross_value_i of one utterance, which all rows share; past_key_i,
    past_value_i float32 [past_rows, heads, past, head_dim].
    Outputs: log_probs float32 [rows, n, vocab_size], natural log; key_i, value_i, the cache n tokens longer.
    """
    cache: dict[str, str] = {}
    value, table, scale = _emit_embeddings(graph, decoder)
    for index, layer in enumerate(decoder.layers):
        with graph.scope(f"layer_{index}"):
            value = emit_residual(graph, value, _emit_self_attention(graph, value, layer, index, cache))
            value = emit_residual(graph, value, _emit_cross_attention(graph, value, layer, index))
            value = emit_residual(graph, value, _emit_feed_forward(graph, value, layer))
    with graph.scope("head"):
        logits = emit_tied_head(graph, _norm(graph, value, decoder.layer_norm), table, scale)
        log_probs = graph.op("LogSoftmax", logits, axis=-1)
    for name, inner in {"log_probs": log_probs, **cache}.items():
        graph.rename(inner, name)
    return graph.finish("decoder", *_shapes(decoder.config), metadata)


def _emit_embeddings(graph: StepGraph, decoder: Any) -> tuple[str, str, Any]:
    """Embedded tokens with their positions, the table's name, and its scales where it is int8."""
    weight, scale = as_array(decoder.embed_tokens.weight), None
    with graph.scope("head"):
        whole = graph.precision() == "float32"
    with graph.scope("embeddings"):
        if whole:
            table = graph.table(weight, "table")
            rows = graph.op("Gather", table, "input_ids")
        else:
            codes, scale = quantize_columns(weight.T)
            table = graph.table(codes.T, "table")
            rounded = graph.op("Cast", graph.op("Gather", table, "input_ids"), to=TensorProto.FLOAT)
            rows = graph.op(
                "Mul", rounded, graph.op("Gather", graph.constant(scale[:, None], "scale"), "input_ids")
            )
        positions = graph.constant(as_array(decoder.embed_positions.weight), "positions")
        return graph.op("Add", rows, graph.op("Gather", positions, "positions")), table, scale


def _emit_self_attention(graph: StepGraph, value: str, layer: Any, index: int, cache: dict[str, str]) -> str:
    attention = layer.self_attn
    with graph.scope("self/qkv"):
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        normed = _norm(graph, value, layer.self_attn_layer_norm)
        packed = emit_row_linear(graph, normed, Linear.joined(*(Linear.of(part) for part in parts)))
    with graph.scope("self"):
        split = graph.ops("Split", packed, n_outputs=3, axis=-1, num_outputs=3)
        past = [graph.op("Gather", f"past_{kind}_{index}", "row_idx") for kind in KINDS]
        mixed, key, kept = graph.ops(
            "MultiHeadAttention", *split, "", "", "", *past, n_outputs=3, domain=MICROSOFT,
            num_heads=attention.n_heads, unidirectional=1,
        )  # fmt: skip
    cache |= {f"key_{index}": key, f"value_{index}": kept}
    with graph.scope("self/output"):
        return emit_row_linear(graph, mixed, Linear.of(attention.out_proj))


def _emit_cross_attention(graph: StepGraph, value: str, layer: Any, index: int) -> str:
    """All rows are positions of one query, so that they share the keys and values."""
    attention = layer.encoder_attn
    with graph.scope("cross/query"):
        normed = _norm(graph, value, layer.encoder_attn_layer_norm)
        query = emit_row_linear(graph, normed, Linear.of(attention.q_proj))
    with graph.scope("cross"):
        width = attention.q_proj.out_features
        mixed = graph.op(
            "MultiHeadAttention", graph.reshape(query, 1, -1, width), *(f"cross_{k}_{index}" for k in KINDS),
            domain=MICROSOFT, num_heads=attention.n_heads,
        )  # fmt: skip
        rows = graph.op("Reshape", mixed, graph.op("Shape", value))
    with graph.scope("cross/output"):
        return emit_row_linear(graph, rows, Linear.of(attention.out_proj))


def _emit_feed_forward(graph: StepGraph, value: str, layer: Any) -> str:
    with graph.scope("feed_in"):
        normed = _norm(graph, value, layer.final_layer_norm)
        inner = graph.op("Gelu", emit_row_linear(graph, normed, Linear.of(layer.fc1)))
    with graph.scope("feed_out"):
        return emit_row_linear(graph, inner, Linear.of(layer.fc2), after_gelu=True)


def _norm(graph: StepGraph, value: str, norm: Any) -> str:
    return emit_layer_norm(graph, value, LayerNorm.of(norm))


def _heads(config: Any, rows: str, length: str) -> tuple[Any, ...]:
    return rows, config.n_heads, length, config.hidden_size // config.n_heads


def _shapes(config: Any) -> tuple[Shapes, Shapes]:
    inputs: dict[str, tuple[str, tuple[Any, ...]]] = {
        "input_ids": ("int64", ("rows", "n")), "positions": ("int64", ("n",)),
        "row_idx": ("int64", ("rows",)),
    }  # fmt: skip
    outputs: dict[str, tuple[str, tuple[Any, ...]]] = {
        "log_probs": ("float", ("rows", "n", config.vocab_size))
    }
    for index in range(config.n_layers):
        for kind in KINDS:
            inputs[f"cross_{kind}_{index}"] = ("float", _heads(config, "batch", "n_frames"))
            inputs[f"past_{kind}_{index}"] = ("float", _heads(config, "past_rows", "past"))
            outputs[f"{kind}_{index}"] = ("float", _heads(config, "rows", "length"))
    return inputs, outputs
