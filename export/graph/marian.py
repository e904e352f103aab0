"""Marian encoders and one-step decoders as ONNX graphs, with the key-value cache outside.

Integer layers use fixed activation scales that were measured on sentences, not scales of each batch:
an output then never depends on other sentences of the batch, and the step saves an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from engine.runtime.pair_safe import quantize_columns, quantize_tensor
from export.graph.builder import MICROSOFT, Array
from export.graph.linear import FloatArray, Linear, as_array
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.step_graph import Shapes, SharedTables, StepGraph

ACTIVATIONS = {"relu": "Relu", "swish": "swish", "silu": "swish", "gelu": "Gelu"}


@dataclass(frozen=True)
class ActivationRange:
    """The smallest and the largest input of a linear layer during calibration; they include zero."""

    low: float
    high: float

    def quantizer(self) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of uint8 values over this range."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = max((high - low) / 255.0, 1e-8)
        return np.float32(scale), np.uint8(round(-low / scale))


class MarianGraph(StepGraph):
    """A graph builder that knows Marian's blocks.

    Args:
        model: a MarianMTModel in evaluation mode.
        tables: where embedding tables are stored.
        ranges: activation range by module name; None makes a float32 graph.
        by_column: an int8 weight has a scale for every output: more exact, and slower by 3 us for
            every thousand outputs of a single row.
    """

    def __init__(
        self,
        model: Any,
        tables: SharedTables,
        ranges: Mapping[str, ActivationRange] | None,
        by_column: bool = False,
    ) -> None:
        super().__init__(tables)
        self.model, self.ranges, self.by_column = model, ranges, by_column
        self.names = {id(module): name for name, module in model.named_modules()}
        self.scale = model.config.d_model**0.5 if model.config.scale_embedding else 1.0
        self.activation = ACTIVATIONS[model.config.activation_function]

    def linear(self, value: str, *modules: Any) -> str:
        """Linear layers that read the same value [..., n_in], joined -> [..., sum of n_out]."""
        joined = Linear.joined(*(Linear.of(module) for module in modules))
        if self.ranges is None:
            product = self.op("MatMul", value, self.constant(joined.weight, "weight"))
            assert joined.bias is not None  # Marian has one everywhere
            return self.op("Add", product, self.constant(joined.bias, "bias"))
        weight, scale = self.quantize(joined.weight)
        ranges = self.ranges[self.names[id(modules[0])]]
        return self._integer_matmul(value, ranges, self.constant(weight, "weight"), scale, joined.bias)

    def quantize(self, weight: FloatArray) -> tuple[Array, Array]:
        """int8 codes of a weight [n_in, n_out], and its scale: one, or one per column."""
        if self.by_column:
            return quantize_columns(weight)
        codes, scale = quantize_tensor(weight)
        return codes, np.array(scale)

    def _integer_matmul(self, value: str, span: ActivationRange, weight: str, scale: Array, bias: Any) -> str:
        step, zero = span.quantizer()
        step_name, zero_name = self.constant(np.array(step)), self.constant(np.array(zero))
        codes = self.op("QuantizeLinear", value, step_name, zero_name)
        inputs = [codes, weight, step_name, self.constant(scale, "scale"), zero_name]
        inputs += [] if bias is None else ["", self.constant(bias, "bias")]
        return self.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)

    def embed(self, ids: str, weight: FloatArray) -> tuple[str, str]:
        """Rows of the embedding table times the model's scale; also the table's name."""
        if self.ranges is None:
            table = self.table(weight, "embedding")
            return self.op("Mul", self.op("Gather", table, ids), self.constant(np.float32(self.scale))), table
        codes, scale = self.quantize(weight.T)
        table = self.table(codes.T, "embedding")
        rows = self.op("Gather", table, ids)
        if scale.ndim == 0:
            return self.op("DequantizeLinear", rows, self.constant(scale * np.float32(self.scale))), table
        scales = self.op("Gather", self.constant((scale * self.scale)[:, None], "scale"), ids)
        return self.op("Mul", self.op("Cast", rows, to=TensorProto.FLOAT), scales), table

    def project(self, value: str, weight: FloatArray, table: str | None, bias: FloatArray | None) -> str:
        """Logits [..., vocab] of states [..., d_model] against an embedding table [vocab, d_model]."""
        if self.ranges is None:
            name = table or self.table(weight, "projection")
            logits = self.op("MatMul", value, self.op("Transpose", name, perm=[1, 0]))
            return logits if bias is None else self.op("Add", logits, self.constant(bias, "logits_bias"))
        codes, scale = self.quantize(weight.T)
        name = self.op("Transpose", table or self.table(codes.T, "projection"), perm=[1, 0])
        return self._integer_matmul(value, self.ranges["lm_head"], name, scale, bias)

    def feed_forward(self, value: str, layer: Any) -> str:
        """The feed-forward block with its residual and norm."""
        inner = self.linear(value, layer.fc1)
        if self.activation == "swish":
            inner = self.op("Mul", inner, self.op("Sigmoid", inner))
        else:
            inner = self.op(self.activation, inner)
        return self.add_norm(value, self.linear(inner, layer.fc2), layer.final_layer_norm)

    def add_norm(self, value: str, branch: str, norm: Any) -> str:
        """Post-norm: normalise the residual sum."""
        return emit_layer_norm(self, emit_residual(self, value, branch), LayerNorm.of(norm))


def build_encoder(graph: MarianGraph, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Token ids -> the decoder layers' cross-attention keys and values, computed once per sentence.

    Inputs: input_ids int64 [batch, source]; source_mask int32 [batch, source], 1 where a token is.
    Outputs: cross_key_i, cross_value_i float32 [batch, heads, source, head_dim] for every decoder layer.
    """
    encoder, config = graph.model.model.encoder, graph.model.config
    value, _ = graph.embed("input_ids", as_array(encoder.embed_tokens.weight))
    length = graph.op("Shape", "input_ids", start=1, end=2)
    table = graph.constant(as_array(encoder.embed_positions.weight), "positions")
    value = graph.op("Add", value, graph.op("Slice", table, graph.integers(0), length, graph.integers(0)))
    for layer in encoder.layers:
        attention = layer.self_attn
        packed = graph.linear(value, attention.q_proj, attention.k_proj, attention.v_proj)
        parts = graph.ops("Split", packed, n_outputs=3, axis=-1, num_outputs=3)
        mixed = graph.op(
            "MultiHeadAttention", *parts, "", "source_mask",
            domain=MICROSOFT, num_heads=config.encoder_attention_heads,
        )  # fmt: skip
        value = graph.add_norm(value, graph.linear(mixed, attention.out_proj), layer.self_attn_layer_norm)
        value = graph.feed_forward(value, layer)
    outputs = {}
    heads, width = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    for index, layer in enumerate(graph.model.model.decoder.layers):
        packed = graph.linear(value, layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
        for part, name in zip(
            graph.ops("Split", packed, n_outputs=2, axis=-1, num_outputs=2), ("key", "value"), strict=True
        ):
            graph.rename(graph.split_heads(part, heads), f"cross_{name}_{index}")
            outputs[f"cross_{name}_{index}"] = ("float", ("batch", heads, "source", width))
    inputs = {"input_ids": ("int64", ("batch", "source")), "source_mask": ("int32", ("batch", "source"))}
    return graph.finish("marian", inputs, outputs, metadata)


def build_decoder(graph: MarianGraph, banned: list[int], metadata: Mapping[str, str]) -> onnx.ModelProto:
    """One step of the decoder, for greedy search and for beams.

    Inputs: input_ids int64 [rows, 1], the last token of every row; position int64 [1];
    row_idx int64 [rows], which row of the cache each row continues;
    query_shape int64 [3] = (batch, rows per sentence, d_model); source_mask, cross_key_i,
    cross_value_i as the encoder has them; past_key_i, past_value_i [past_rows, heads, past, head_dim].
    Outputs: log_probs float32 [rows, 1, vocab], natural log; key_i, value_i, the cache one token longer.

    Args:
        graph: an empty one.
        banned: tokens whose log-probability becomes -inf.
        metadata: stored in the model.
    """
    model, config = graph.model, graph.model.config
    decoder = model.model.decoder
    embedding, projection = as_array(decoder.embed_tokens.weight), as_array(model.lm_head.weight)
    value, table = graph.embed("input_ids", embedding)
    position = graph.op(
        "Gather", graph.constant(as_array(decoder.embed_positions.weight), "positions"), "position"
    )
    value = graph.op("Add", value, position)
    cache: dict[str, str] = {}
    for index, layer in enumerate(decoder.layers):
        value = _self_attention(graph, value, layer, index, cache)
        value = _cross_attention(graph, value, layer, index)
        value = graph.feed_forward(value, layer)
    shared = table if np.array_equal(embedding, projection) else None
    bias = as_array(model.final_logits_bias)[0]
    logits = graph.project(value, projection, shared, bias if bias.any() else None)
    log_probs = graph.op("LogSoftmax", logits, axis=-1)
    if banned:  # after the softmax, as transformers' bad_words_ids does
        ban = np.zeros(config.vocab_size, np.float32)
        ban[banned] = -np.inf
        log_probs = graph.op("Add", log_probs, graph.constant(ban, "banned"))
    for name, inner in {"log_probs": log_probs, **cache}.items():
        graph.rename(inner, name)
    return graph.finish("marian", *_decoder_shapes(config), metadata)


def _self_attention(graph: MarianGraph, value: str, layer: Any, index: int, cache: dict[str, str]) -> str:
    attention, heads = layer.self_attn, graph.model.config.decoder_attention_heads
    packed = graph.linear(value, attention.q_proj, attention.k_proj, attention.v_proj)
    parts = graph.ops("Split", packed, n_outputs=3, axis=-1, num_outputs=3)
    past = [graph.op("Gather", f"past_{kind}_{index}", "row_idx") for kind in ("key", "value")]
    mixed, key, kept = graph.ops(
        "MultiHeadAttention", *parts, "", "", "", *past, n_outputs=3, domain=MICROSOFT, num_heads=heads
    )
    cache |= {f"key_{index}": key, f"value_{index}": kept}
    return graph.add_norm(value, graph.linear(mixed, attention.out_proj), layer.self_attn_layer_norm)


def _cross_attention(graph: MarianGraph, value: str, layer: Any, index: int) -> str:
    """The beams of a sentence are positions of one query, so that they share its keys and values."""
    attention, config = layer.encoder_attn, graph.model.config
    query = graph.op("Reshape", graph.linear(value, attention.q_proj), "query_shape")
    mixed = graph.op(
        "MultiHeadAttention", query, f"cross_key_{index}", f"cross_value_{index}", "", "source_mask",
        domain=MICROSOFT, num_heads=config.decoder_attention_heads,
    )  # fmt: skip
    rows = graph.reshape(mixed, -1, 1, config.d_model)
    return graph.add_norm(value, graph.linear(rows, attention.out_proj), layer.encoder_attn_layer_norm)


def _decoder_shapes(config: Any) -> tuple[Shapes, Shapes]:
    heads = config.decoder_attention_heads
    width = config.d_model // heads
    inputs: dict[str, tuple[str, tuple[Any, ...]]] = {
        "input_ids": ("int64", ("rows", 1)), "position": ("int64", (1,)), "row_idx": ("int64", ("rows",)),
        "query_shape": ("int64", (3,)), "source_mask": ("int32", ("batch", "source")),
    }  # fmt: skip
    outputs: dict[str, tuple[str, tuple[Any, ...]]] = {"log_probs": ("float", ("rows", 1, config.vocab_size))}
    for index in range(config.decoder_layers):
        for kind in ("key", "value"):
            inputs[f"cross_{kind}_{index}"] = ("float", ("batch", heads, "source", width))
            inputs[f"past_{kind}_{index}"] = ("float", ("past_rows", heads, "past", width))
            outputs[f"{kind}_{index}"] = ("float", ("rows", heads, "length", width))
    return inputs, outputs


def calibrate(model: Any, run: Callable[[], object]) -> dict[str, ActivationRange]:
    """The activation range of every linear layer while run() uses the model."""
    import torch

    ranges: dict[str, ActivationRange] = {}

    def watch(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
            known = ranges.get(name, ActivationRange(0.0, 0.0))
            low, high = inputs[0].min().item(), inputs[0].max().item()
            ranges[name] = ActivationRange(min(known.low, low), max(known.high, high))

        return hook

    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return ranges
