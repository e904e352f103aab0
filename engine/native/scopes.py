"""Finds layers in a graph that `export/` wrote, by the scopes in its nodes' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.dense import Dense
from engine.kernels.encoder_layer import Norm
from engine.native.onnx_file import Node, OnnxGraph
from engine.native.packing import pack_bf16, pack_int8

PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMul")
WEIGHT_INPUT = 1
Array = NDArray[Any]
F32Array = NDArray[np.float32]


class UnknownGraphError(ValueError):
    """The graph is not one that the kernels compute; onnxruntime runs it instead."""


@dataclass(frozen=True)
class Weight:
    """A matrix [n_in, n_out] as the file holds it.

    Attributes:
        codes: int8, or None where the file holds floats. scale: float32 [n_out], of the codes.
        values: float32, or None.
        integer: whether the graph multiplies in integers.
    """

    codes: NDArray[np.int8] | None
    scale: F32Array | None
    values: F32Array | None
    integer: bool

    def floats(self) -> F32Array:
        """The matrix in float32."""
        if self.codes is None or self.scale is None:
            assert self.values is not None
            return np.asarray(self.values, np.float32)
        return self.codes.astype(np.float32) * self.scale


@dataclass(frozen=True)
class Product:
    """A linear layer of the graph."""

    weight: Weight
    bias: F32Array | None

    def pack(self, integer: bool | None = None) -> Dense:
        """For the kernels: in int8 where the graph multiplies integers (or as asked), else in bfloat16."""
        weight = self.weight
        if (
            weight.codes is not None
            and weight.scale is not None
            and (weight.integer if integer is None else integer)
        ):
            return pack_int8(weight.codes, weight.scale, self.bias)
        return pack_bf16(weight.floats(), self.bias)


class Scopes:
    """The nodes of a graph by scope.

    Attributes:
        integers: whether layers may be packed in int8. used: names of the constants that were read so far.
    """

    def __init__(self, graph: OnnxGraph, integers: bool = True) -> None:
        self.graph = graph
        self.integers = integers
        self.used: set[str] = set()
        self._nodes: dict[str, list[Node]] = {}
        self._makers = {output: node for node in graph.nodes for output in node.outputs}
        for node in graph.nodes:
            self._nodes.setdefault(node.name.rpartition("/")[0], []).append(node)

    def __contains__(self, scope: str) -> bool:
        return scope in self._nodes

    def nodes(self, scope: str, *kinds: str) -> list[Node]:
        """Nodes directly in a scope, of some kinds, in order."""
        return [node for node in self._nodes.get(scope, ()) if node.kind in kinds]

    def node(self, scope: str, *kinds: str) -> Node:
        """The first such node.

        Raises:
            UnknownGraphError: there is none.
        """
        found = self.nodes(scope, *kinds)
        if not found:
            raise UnknownGraphError(f"no {' or '.join(kinds)} in {scope!r}")
        return found[0]

    def constant(self, value: str) -> Array:
        """A constant, also behind the Cast that unpacks a compact one.

        Raises:
            UnknownGraphError: the value depends on the input.
        """
        if value in self.graph.constants:
            self.used.add(value)
            return self.graph.constants[value]
        maker = self._makers.get(value)
        if maker is not None and maker.kind == "Cast":
            return self.constant(maker.inputs[0]).astype(np.float32)
        if maker is not None and maker.kind == "Transpose" and maker.attributes.get("perm") == [1, 0]:
            return self.constant(maker.inputs[0]).T
        if maker is not None and maker.kind == "Mul":
            left, right = (self.constant(name) for name in maker.inputs)
            product: Array = left * right
            return product
        raise UnknownGraphError(f"{value!r} is not constant")

    def is_constant(self, value: str) -> bool:
        """Whether constant() would find it."""
        try:
            self.constant(value)
        except UnknownGraphError:
            return False
        return True

    def products(self, scope: str) -> list[Product]:
        """The linear layers of a scope, in order."""
        nodes = [n for n in self.nodes(scope, *PRODUCTS) if self.is_constant(n.inputs[WEIGHT_INPUT])]
        return [self._product(scope, node) for node in nodes]

    def product(self, scope: str) -> Product:
        """The first linear layer of a scope.

        Raises:
            UnknownGraphError: there is none.
        """
        found = self.products(scope)
        if not found:
            raise UnknownGraphError(f"no linear layer in {scope!r}")
        return found[0]

    def norms(self, scope: str) -> list[Norm]:
        """The layer norms of a scope, in order."""
        return [
            Norm(
                np.array(self.constant(node.inputs[1]), np.float32),
                np.array(self.constant(node.inputs[2]), np.float32),
                float(node.attributes.get("epsilon", 1e-5)),
            )
            for node in self.nodes(scope, "LayerNormalization")
        ]

    def unread(self, min_elements: int) -> list[str]:
        """Constants of so many elements that were not read."""
        return [
            name
            for name, array in self.graph.constants.items()
            if array.size >= min_elements and name not in self.used
        ]

    def _product(self, scope: str, node: Node) -> Product:
        weight = self._weight(node)
        if not self.integers:
            weight = Weight(None, None, weight.floats(), False)
        position = {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}.get(node.kind)
        if position is not None:
            given = len(node.inputs) > position and node.inputs[position]
            return Product(weight, self._vector(node.inputs[position]) if given else None)
        for other in self.nodes(scope, "Add"):
            if node.outputs[0] in other.inputs:
                bias = next(name for name in other.inputs if name != node.outputs[0])
                return Product(weight, self._vector(bias))
        return Product(weight, None)

    def _weight(self, node: Node) -> Weight:
        name = node.inputs[WEIGHT_INPUT]
        if node.kind != "MatMul":
            scale, zero = (2, 3) if node.kind == "DynamicQuantizeMatMul" else (3, 5)
            given = len(node.inputs) > zero and node.inputs[zero]
            if given and self.constant(node.inputs[zero]).any():
                raise UnknownGraphError(f"weights with a zero point in {node.name!r}")
            return Weight(self.constant(name), self._vector(node.inputs[scale]), None, True)
        maker = self._makers.get(name)
        if maker is not None and maker.kind == "Mul":
            cast = self._makers.get(maker.inputs[0])
            if cast is not None and cast.kind == "Cast":
                codes = self.constant(cast.inputs[0])
                if codes.dtype == np.int8:
                    return Weight(codes, self._vector(maker.inputs[1]), None, False)
        return Weight(None, None, self.constant(name).astype(np.float32), False)

    def _vector(self, name: str) -> F32Array:
        return np.array(self.constant(name), np.float32)
