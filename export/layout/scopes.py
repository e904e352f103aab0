"""Finds blocks in a graph that this package built, by the scopes in its nodes' names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import LinearSpec, NormSpec, TableSpec
from engine.runtime.onnx_file import Node, OnnxGraph

PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMul")
WEIGHT_INPUT = 1
# Inputs of scale, zero point and bias; a product of floats has neither.
QUANTIZED_INPUTS = {"DynamicQuantizeMatMul": (2, 3, 4), "MatMulIntegerToFloat": (3, 5, 6)}
MAX_CHAIN = 4  # nodes between a weight and what the file holds: Mul, Transpose, and Casts of its sides
Array = NDArray[Any]


class UndescribedError(ValueError):
    """The graph has a part for which the layout table has no block."""


@dataclass(frozen=True)
class Held:
    """A constant in the file: its name, that of its scale, and whether it is transposed before use."""

    name: str
    scale: str = ""
    turned: bool = False


class Scopes:
    """The nodes of a graph by scope."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
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
            UndescribedError: there is none.
        """
        found = self.nodes(scope, *kinds)
        if not found:
            raise UndescribedError(f"no {' or '.join(kinds)} in {scope!r}")
        return found[0]

    def numbered(self, scope: str) -> list[str]:
        """The prefixes layer_0, layer_1 ... of scopes such as layer_{}/attention, in order.

        Raises:
            UndescribedError: the graph computes them in another order than their names say.
        """
        found: list[str] = []
        while scope.format(len(found)) in self:
            found.append(scope.format(len(found)))
        places = {id(node): place for place, node in enumerate(self.graph.nodes)}
        first = [places[id(self._nodes[one][0])] for one in found]
        if first != sorted(first):
            raise UndescribedError(f"layers in another order than their names say ({scope.format('i')})")
        return [one.split("/")[0] for one in found]

    def find(self, value: str, chain: int = MAX_CHAIN) -> Held | None:
        """The constant that a value comes from, through nodes that unpack it; None for other values."""
        if value in self.graph.constants:
            return Held(value)
        maker = self._makers.get(value)
        if maker is None or not chain:
            return None
        inner = self.find(maker.inputs[0], chain - 1)
        if inner is None:
            return None
        if maker.kind == "Cast":
            return inner
        if maker.kind == "Transpose" and maker.attributes.get("perm") == [1, 0]:
            return replace(inner, turned=not inner.turned)
        if maker.kind == "Mul" and not inner.scale:
            scale = self.find(maker.inputs[1], chain - 1)
            if scale is not None and not scale.scale and not scale.turned:
                return replace(inner, scale=scale.name)
        return None

    def held(self, value: str) -> Held:
        """As find.

        Raises:
            UndescribedError: the value depends on the input.
        """
        found = self.find(value)
        if found is None:
            raise UndescribedError(f"{value!r} is not constant")
        return found

    def name(self, value: str) -> str:
        """The name of a constant that is stored as it is used, or as float16.

        Raises:
            UndescribedError: it depends on the input, or is unpacked in another way.
        """
        found = self.held(value)
        if found.scale or found.turned:
            raise UndescribedError(f"{value!r} is a constant in another form")
        return found.name

    def array(self, name: str) -> Array:
        """The array of a name in the file."""
        return self.graph.constants[name]

    def products(self, scope: str) -> list[LinearSpec]:
        """The linear layers of a scope, in order."""
        nodes = [n for n in self.nodes(scope, *PRODUCTS) if self.find(n.inputs[WEIGHT_INPUT]) is not None]
        return [self._product(scope, node) for node in nodes]

    def product(self, scope: str) -> LinearSpec:
        """The first linear layer of a scope.

        Raises:
            UndescribedError: there is none.
        """
        found = self.products(scope)
        if not found:
            raise UndescribedError(f"no linear layer in {scope!r}")
        return found[0]

    def convolution(self, node: Node) -> tuple[LinearSpec, int]:
        """A Conv node's weights as a product over windows, and how many taps it has.

        Raises:
            UndescribedError: it is padded, dilated or grouped, or its weights are no array of three axes.
        """
        plain = {"group": 1, "dilations": [1], "pads": [0, 0]}
        if any(node.attributes.get(name, value) != value for name, value in plain.items()):
            raise UndescribedError(f"{node.name!r} with {node.attributes}")
        held = self.held(node.inputs[WEIGHT_INPUT])
        kernel = self.array(held.name)
        if kernel.ndim != 3 or not kernel.size:
            raise UndescribedError(f"{held.name!r} of shape {kernel.shape}, not [n_out, n_in, width]")
        n_out, n_in, width = kernel.shape
        biased = len(node.inputs) > 2 and node.inputs[2]
        bias = self.name(node.inputs[2]) if biased else ""
        spec = LinearSpec(width * n_in, n_out, held.name, "kernel", scale=held.scale, bias=bias)
        return spec, width

    def norms(self, scope: str) -> list[NormSpec]:
        """The layer norms of a scope, in order."""
        return [self._norm(node) for node in self.nodes(scope, "LayerNormalization")]

    def norm(self, scope: str) -> NormSpec:
        """The only layer norm of a scope.

        Raises:
            UndescribedError: there are others, or none.
        """
        found = self.norms(scope)
        if len(found) != 1:
            raise UndescribedError(f"{len(found)} norms in {scope!r}")
        return found[0]

    def table(self, value: str) -> TableSpec:
        """A matrix of constants from which rows are taken.

        Raises:
            UndescribedError: it is not a matrix.
        """
        held = self.held(value)
        shape = self.array(held.name).shape
        if len(shape) != 2 or held.turned:
            raise UndescribedError(f"{held.name!r} of shape {shape}, not a table")
        return TableSpec(*shape, held.name, held.scale)

    def added(self, scope: str, value: str) -> tuple[str, str] | None:
        """What an Add adds to a value, and the sum."""
        for node in self.nodes(scope, "Add"):
            if value in node.inputs:
                return next(name for name in node.inputs if name != value), node.outputs[0]
        return None

    def _norm(self, node: Node) -> NormSpec:
        weight, bias = (self.name(value) for value in node.inputs[1:3])
        return NormSpec(self.array(weight).size, weight, bias, float(node.attributes.get("epsilon", 1e-5)))

    def _product(self, scope: str, node: Node) -> LinearSpec:
        spec = self._matrix(node)
        if node.kind not in QUANTIZED_INPUTS:
            added = self.added(scope, node.outputs[0])
            bias = self.find(added[0]) if added else None
            return msgspec.structs.replace(spec, bias=bias.name) if bias is not None else spec
        bias_at = QUANTIZED_INPUTS[node.kind][2]
        if len(node.inputs) > bias_at and node.inputs[bias_at]:
            return msgspec.structs.replace(spec, bias=self.name(node.inputs[bias_at]))
        return self._with_row_bias(scope, node, spec) if node.kind == "MatMulIntegerToFloat" else spec

    def _matrix(self, node: Node) -> LinearSpec:
        held = self.held(node.inputs[WEIGHT_INPUT])
        shape = self.array(held.name).shape
        if len(shape) != 2 or 0 in shape:
            raise UndescribedError(f"{held.name!r} of shape {shape}, not a matrix")
        n_in, n_out = shape[::-1] if held.turned else shape
        stored: Literal["plain", "turned"] = "turned" if held.turned else "plain"
        if node.kind not in QUANTIZED_INPUTS:
            return LinearSpec(n_in, n_out, held.name, stored, scale=held.scale)
        scale, zero, _ = QUANTIZED_INPUTS[node.kind]
        zeros = self.name(node.inputs[zero]) if len(node.inputs) > zero and node.inputs[zero] else ""
        if held.scale or self.array(held.name).dtype != np.int8:
            raise UndescribedError(f"weights {held.name!r} of type {self.array(held.name).dtype}")
        return LinearSpec(
            n_in, n_out, held.name, stored, scale=self.name(node.inputs[scale]), zero=zeros, integer=True
        )  # fmt: skip

    def _with_row_bias(self, scope: str, node: Node, spec: LinearSpec) -> LinearSpec:
        """The bias after a product whose rows have one scale each (export.graph.row_linear)."""
        value = node.outputs[0]
        scaled = [other.outputs[0] for other in self.nodes(scope, "Mul") if value in other.inputs]
        added = self.added(scope, scaled[0]) if scaled else None
        if added is None or self.find(added[0]) is None:
            return spec
        spec = msgspec.structs.replace(spec, bias=self.name(added[0]))
        more = self.added(scope, added[1])
        if more is None or self.find(more[0]) is None:
            return spec
        return msgspec.structs.replace(spec, shift=self.name(more[0]), raised=self._raised(scope))

    def _raised(self, scope: str) -> float:
        """What is added to every row before it is rounded."""
        found = [
            float(self.array(name).item())
            for node in self.nodes(scope, "Add")
            for name in node.inputs
            if name in self.graph.constants and self.array(name).size == 1
        ]
        if len(found) != 1:
            raise UndescribedError(f"sums in {scope!r} that are not known here")
        return found[0]
