"""A float32 graph rewritten to float16 weights and matrix products, for the tensor cores of a GPU.

Parts that need more than float16 stay float32: the sums of the residual stream, every norm and its
statistics, the first convolution (raw samples, and a covariance) and the head. A value is cast where it
enters a product, stays float16 while only products, GELUs and moves of data follow, and is cast back before
it is added. The softmax is inside the fused attention, which has its statistics in float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PRODUCTS = ("MatMul", "Conv")  # where one factor is a constant
ATTENTION = "MultiHeadAttention"
# Move data or work on single values; by which inputs hold values (the others are shapes and bounds).
MOVERS: dict[str, slice] = {
    "Concat": slice(None),
    "Gelu": slice(1),
    "Pad": slice(1),
    "Reshape": slice(1),
    "Sigmoid": slice(1),
    "Slice": slice(1),
    "Split": slice(1),
    "Transpose": slice(1),
    "Unsqueeze": slice(1),
}
FOLLOWERS: dict[str, slice] = {**MOVERS, "Add": slice(None), "Mul": slice(None)}
VALUES: dict[str, slice] = {**FOLLOWERS, **dict.fromkeys(PRODUCTS, slice(None))}
ATTENTION_VALUES = (0, 1, 2, 3, 5, 6, 7)  # 4 is the mask
TYPELESS = "Shape"  # reads any type and nothing of the values
KEEP = ("conv_0", "head", "final_norm")
LARGEST = float(np.finfo(np.float16).max)


def use_half(model: onnx.ModelProto, keep: Iterable[str] = ()) -> onnx.ModelProto:
    """Rewrite a copy of a graph; inputs and outputs stay float32.

    Args:
        model: a float32 graph of this package.
        keep: prefixes of scopes (layer_0, conv_1) that stay float32, in addition to KEEP.
    Returns:
        The same graph in mixed precision. A product with weights that float16 cannot hold stays float32.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    _Rewriter(half.graph, (*KEEP, *keep)).run()
    onnx.checker.check_model(half)
    return half


def half_share(model: onnx.ModelProto) -> float:
    """Share of the elements of all floating constants that are float16."""
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    return sizes[TensorProto.FLOAT16] / max(1, sum(sizes.values()))


class _Rewriter:
    """First finds, from the outputs back, the moves that only products use; then rewrites the graph."""

    def __init__(self, graph: onnx.GraphProto, keep: tuple[str, ...]) -> None:
        self._graph, self._keep = graph, keep
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._half: set[str] = set()  # values that are float16
        self._cast_names: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._half_constants: dict[str, onnx.TensorProto] = {}

    def run(self) -> None:
        """Rewrite the graph in place."""
        before_products = self._moves_before_products()
        for node in list(self._graph.node):
            if self._is_product(node) or node.name in before_products or self._follows(node):
                self._make_half(node)
            elif node.op_type != TYPELESS:
                for index, name in enumerate(node.input):
                    node.input[index] = self._cast(name, TensorProto.FLOAT) if name in self._half else name
            self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        tensors = [t for t in [*self._constants.values(), *self._half_constants.values()] if t.name in used]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(tensors)

    def _moves_before_products(self) -> set[str]:
        """Names of the moves whose every result ends in a product, so that the cast may come before them."""
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self._graph.node:
            for name in _values(node) if node.op_type != TYPELESS else ():
                readers[name].append(node)
        outputs = {value.name for value in self._graph.output}
        found: set[str] = set()
        for node in reversed(self._graph.node):
            if node.op_type not in MOVERS or self._is_kept(node) or outputs & set(node.output):
                continue
            reading = [reader for name in node.output for reader in readers[name]]
            if reading and all(self._is_product(r) or r.name in found for r in reading):
                found.add(node.name)
        return found

    def _is_kept(self, node: onnx.NodeProto) -> bool:
        return any(node.name == prefix or node.name.startswith(f"{prefix}/") for prefix in self._keep)

    def _is_product(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in PRODUCTS or self._is_kept(node):
            return False
        constants = [self._constants[name] for name in node.input if name in self._constants]
        return bool(constants) and all(_fits(tensor) for tensor in constants)

    def _follows(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in (*FOLLOWERS, ATTENTION) or self._is_kept(node):
            return False
        values = _values(node)
        fits = all(_fits(self._constants[name]) for name in values if name in self._constants)
        dynamic = [name for name in values if name not in self._constants]
        # A sum or product of two computed values is not a move: it stays float32, like the residual stream.
        if node.op_type in ("Add", "Mul") and len(dynamic) > 1:
            return False
        return fits and any(name in self._half for name in dynamic)

    def _make_half(self, node: onnx.NodeProto) -> None:
        chosen = set(_values(node))
        for index, name in enumerate(node.input):
            if name in self._constants and name in chosen:
                node.input[index] = self._half_constant(name)
            elif name in chosen and name not in self._half:
                node.input[index] = self._cast(name, TensorProto.FLOAT16)
        self._half.update(node.output)

    def _half_constant(self, name: str) -> str:
        if name not in self._half_constants:
            values = numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._half_constants[name] = numpy_helper.from_array(values, f"{name}_half")
        return f"{name}_half"

    def _cast(self, name: str, to: int) -> str:
        if name not in self._cast_names:
            self._cast_names[name] = f"{name}/cast"
            self._nodes.append(helper.make_node("Cast", [name], [f"{name}/cast"], name=f"{name}/Cast", to=to))
        return self._cast_names[name]


def _values(node: onnx.NodeProto) -> list[str]:
    """The inputs of a node that hold its values; of a node without an entry, all."""
    if node.op_type == ATTENTION:
        return [node.input[i] for i in ATTENTION_VALUES if i < len(node.input) and node.input[i]]
    return [name for name in node.input[VALUES.get(node.op_type, slice(None))] if name]


def _fits(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    return bool(np.all(np.abs(numpy_helper.to_array(tensor)) <= LARGEST))
