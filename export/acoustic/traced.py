"""A traced graph with its weights, each product in the precision that is asked for; onnxruntime runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.runtime.pair_safe import quantize_columns, quantize_stored
from export.acoustic.tracing import Skeleton
from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, Choice
from export.graph.linear import FloatArray, as_array
from export.rewrites.edit import attribute

HEAD = "head/output"
_LAYER = re.compile(r"\.?layers?[./](\d+)/([^/.]+)")


@dataclass(frozen=True)
class Product:
    """A product with a weight [n_out, n_in] and maybe a bias: its node, and the value that it multiplies."""

    node: onnx.NodeProto
    block: str
    value: str
    weight: str
    bias: str


class TracedGraph:
    """Builds the graph of a traced model for a choice of precisions.

    Attributes:
        blocks: the products of each block: what one layer's attention or feed-forward multiplies.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self._skeleton = skeleton
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in skeleton.graph.node]
        self._nodes = _without_copies(nodes, skeleton.weights.keys())
        self._products = {p.node.output[0]: p for p in _products(self._nodes, skeleton.weights)}
        self.blocks: dict[str, str] = {}
        for product in self._products.values():
            self.blocks.setdefault(product.block, product.value)

    def build(
        self, precision: Choice, ranges: Mapping[str, FloatArray] | None = None
    ) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The model, and the value that each block reads; ranges change nothing here."""
        constants: dict[str, onnx.TensorProto] = {}
        nodes: list[onnx.NodeProto] = []
        for node in self._nodes:
            product = self._products.get(node.output[0])
            nodes += [node] if product is None else self._emit(product, precision(product.block), constants)
        nodes = _read_nodes(nodes, {output.name for output in self._skeleton.graph.output})
        read = {name for node in nodes for name in node.input}
        for name, tensor in self._skeleton.weights.items():
            if name in read:
                constants[name] = _constant(tensor, name)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)
            for name, axes in self._skeleton.inputs.items()
        ]
        outputs = list(self._skeleton.graph.output)
        graph = helper.make_graph(nodes, "acoustic", inputs, outputs, list(constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="engine-export"
        )
        return model, dict(self.blocks)

    def _emit(
        self, product: Product, precision: str, constants: dict[str, onnx.TensorProto]
    ) -> list[onnx.NodeProto]:
        weight = np.ascontiguousarray(as_array(self._skeleton.weights[product.weight]).T)
        name, output = product.weight, product.node.output[0]

        def keep(array: Any, kind: str) -> str:
            constants[f"{name}/{kind}"] = numpy_helper.from_array(array, f"{name}/{kind}")
            return f"{name}/{kind}"

        before: list[onnx.NodeProto] = []
        if precision == "int8":
            codes, scale = quantize_columns(weight)
            zeros = np.zeros(len(scale), np.int8)
            read = [product.value, keep(codes, "codes"), keep(scale, "scale"), keep(zeros, "zeros")]
            multiply = ("DynamicQuantizeMatMul", read, MICROSOFT)
        elif precision == "stored":
            codes, scale = quantize_stored(weight)
            unpacked = [f"{output}/cast", f"{output}/unpacked"]
            stored = keep(codes, "stored")
            before = [
                helper.make_node("Cast", [stored], unpacked[:1], to=TensorProto.FLOAT),
                helper.make_node("Mul", [unpacked[0], keep(scale, "stored_scale")], unpacked[1:]),
            ]
            multiply = ("MatMul", [product.value, unpacked[1]], "")
        else:
            multiply = ("MatMul", [product.value, keep(weight, "turned")], "")
        kind, read, domain = multiply
        if not product.bias:
            return [*before, helper.make_node(kind, read, [output], product.node.name, domain=domain)]
        inner = f"{output}/product"
        return [
            *before,
            helper.make_node(kind, read, [inner], product.node.name, domain=domain),
            helper.make_node("Add", [inner, product.bias], [output], f"{product.node.name}/bias"),
        ]


def name_block(node_name: str) -> str:
    """layer_0/attention for /model/wavlm/encoder/layers.0/attention/q_proj/MatMul; HEAD for the head."""
    if "/lm_head" in node_name or "/ctc_head" in node_name:
        return HEAD
    found = _LAYER.search(node_name)
    if found:
        return f"layer_{found[1]}/{found[2]}"
    parts = [part for part in node_name.split("/") if part]
    return "/".join(parts[2:-1]) or node_name.strip("/")


def _without_copies(nodes: list[onnx.NodeProto], weights: Any) -> list[onnx.NodeProto]:
    """Nodes that read a weight itself where they read a copy of it: the tracer shares equal weights."""
    names: dict[str, str] = {}
    kept = []
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in weights:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return kept


def _products(nodes: list[onnx.NodeProto], weights: Mapping[str, Any]) -> Iterator[Product]:
    turned = {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "Transpose" and node.input[0] in weights and attribute(node, "perm") == [1, 0]
    }
    for node in nodes:
        block = name_block(node.name)
        if node.op_type == "MatMul" and node.input[1] in turned:
            yield Product(node, block, node.input[0], turned[node.input[1]], "")
        elif node.op_type == "Gemm" and node.input[1] in weights and _is_linear(node):
            yield Product(node, block, node.input[0], node.input[1], node.input[2])


def _is_linear(node: onnx.NodeProto) -> bool:
    """Whether a Gemm is x @ weight.T + bias."""
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    return bool(
        plain and attribute(node, "transB", 0) and not attribute(node, "transA", 0) and len(node.input) == 3
    )


def _read_nodes(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Without the nodes whose results nothing reads any more."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    return kept[::-1]


def _constant(tensor: Any, name: str) -> onnx.TensorProto:
    array = tensor.detach().cpu()
    return numpy_helper.from_array(array.numpy() if not array.is_floating_point() else as_array(array), name)
