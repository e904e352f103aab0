"""Finds layers in a graph that `export/` wrote, by the scopes in its nodes' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.encoder.layer import Norm
from engine.kernels.layers.dense import Dense
from engine.native.packing import pack_bf16, pack_int8
from engine.runtime.onnx_file import Node, OnnxGraph

PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMul")
WEIGHT_INPUT = 1
MAX_CHAIN = 3  # nodes between a weight and what the file holds: Mul, and Casts of its two sides
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

    @property
    def matrix(self) -> Array:
        """Codes or values."""
        found = self.codes if self.codes is not None else self.values
        assert found is not None
        return found

    @property
    def n_out(self) -> int:
        """Columns of the matrix."""
        return int(self.matrix.shape[1])

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

    def expect(self, scope: str, n_in: int | None, n_out: int | None) -> None:
        """Refuse other sizes; None is any.

        Raises:
            UnknownGraphError: the matrix is not [n_in, n_out].
        """
        rows, columns = self.weight.matrix.shape
        wanted = (rows if n_in is None else n_in, columns if n_out is None else n_out)
        expect_shape(scope, self.weight.matrix, wanted)

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
        self._claimed: set[str] = set()
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

    def constant(self, value: str, chain: int = MAX_CHAIN) -> Array:
        """A constant, also behind at most `chain` nodes that unpack a compact one.

        Raises:
            UnknownGraphError: the value depends on the input.
        """
        if value in self.graph.constants:
            self.used.add(value)
            return self.graph.constants[value]
        maker = self._makers.get(value)
        if maker is not None and maker.kind == "Cast" and chain:
            return self.constant(maker.inputs[0], chain - 1).astype(np.float32)
        if maker is not None and maker.kind == "Transpose" and chain:
            array = self.constant(maker.inputs[0], chain - 1)
            if array.ndim == 2 and maker.attributes.get("perm") == [1, 0]:
                return array.T
        if maker is not None and maker.kind == "Mul" and chain:
            left, right = (self.constant(name, chain - 1) for name in maker.inputs)
            if np.broadcast_shapes(left.shape, right.shape) != left.shape:
                raise UnknownGraphError(f"{left.shape} times {right.shape} in {maker.name!r}")
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

    def product(self, scope: str, n_in: int | None = None, n_out: int | None = None) -> Product:
        """The first linear layer of a scope; None is any size.

        Raises:
            UnknownGraphError: there is none, or one of other sizes.
        """
        found = self.products(scope)
        if not found:
            raise UnknownGraphError(f"no linear layer in {scope!r}")
        found[0].expect(scope, n_in, n_out)
        return found[0]

    def convolution(self, node: Node) -> Product:
        """A Conv node's weights as a product over windows: row (tap, input channel).

        Raises:
            UnknownGraphError: it is padded, dilated or grouped, or its weights are no array of three axes.
        """
        plain = {"group": 1, "dilations": [1], "pads": [0, 0]}
        if any(node.attributes.get(name, value) != value for name, value in plain.items()):
            raise UnknownGraphError(f"{node.name!r} with {node.attributes}")
        name = node.inputs[WEIGHT_INPUT]
        weight = self._kernel(name)
        self._claim(name)
        if not self.integers:
            weight = Weight(None, None, weight.floats(), False)
        biased = len(node.inputs) > 2 and node.inputs[2]
        return Product(weight, self.vector(node.inputs[2], weight.n_out) if biased else None)

    def _kernel(self, name: str) -> Weight:
        maker = self._makers.get(name)
        cast = self._makers.get(maker.inputs[0]) if maker is not None and maker.kind == "Mul" else None
        codes, scale = None, None
        if maker is not None and cast is not None and cast.kind == "Cast":
            codes, scale = self.constant(cast.inputs[0]), self.constant(maker.inputs[1])
        kernel = codes if codes is not None and codes.dtype == np.int8 else self.constant(name)
        if kernel.ndim != 3 or not kernel.size:
            raise UnknownGraphError(f"{name!r} of shape {kernel.shape}, not [n_out, n_in, width]")
        matrix = np.ascontiguousarray(kernel.transpose(2, 1, 0)).reshape(-1, len(kernel))
        if kernel is not codes or scale is None:
            return Weight(None, None, matrix.astype(np.float32), False)
        expect_shape(f"the scale of {name}", scale, (len(kernel), 1, 1))
        return Weight(matrix, scale.reshape(-1).astype(np.float32), None, False)

    def norms(self, scope: str, n_channels: int) -> list[Norm]:
        """The layer norms of a scope, in order.

        Raises:
            UnknownGraphError: they are not over so many channels.
        """
        return [
            Norm(
                self.vector(node.inputs[1], n_channels),
                self.vector(node.inputs[2], n_channels),
                float(node.attributes.get("epsilon", 1e-5)),
            )
            for node in self.nodes(scope, "LayerNormalization")
        ]

    def vector(self, name: str, size: int) -> F32Array:
        """A constant, float32 [size].

        Raises:
            UnknownGraphError: it has another shape.
        """
        found = np.array(self.constant(name), np.float32)
        expect_shape(name, found, (size,))
        return found

    def unread(self, min_elements: int) -> list[str]:
        """Constants of so many elements that were not read."""
        return [
            name
            for name, array in self.graph.constants.items()
            if array.size >= min_elements and name not in self.used
        ]

    def _product(self, scope: str, node: Node) -> Product:
        weight = self._weight(node)
        self._claim(node.inputs[WEIGHT_INPUT])
        if not self.integers:
            weight = Weight(None, None, weight.floats(), False)
        position = {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6}.get(node.kind)
        if position is not None:
            given = len(node.inputs) > position and node.inputs[position]
            if given or node.kind == "DynamicQuantizeMatMul":
                return Product(weight, self.vector(node.inputs[position], weight.n_out) if given else None)
            return Product(weight, self._bias_of_rows(scope, node, weight))
        added = self._added(scope, node.outputs[0])
        return Product(weight, self.vector(added[0], weight.n_out) if added else None)

    def _added(self, scope: str, value: str) -> tuple[str, str] | None:
        """What an Add adds to a value, and the sum."""
        for node in self.nodes(scope, "Add"):
            if value in node.inputs:
                return next(name for name in node.inputs if name != value), node.outputs[0]
        return None

    def _bias_of_rows(self, scope: str, node: Node, weight: Weight) -> F32Array | None:
        """The bias behind a product whose rows have scales of their own (export.graph.row_linear).

        Raises:
            UnknownGraphError: something else is added too.
        """
        value = node.outputs[0]
        scaled = [other.outputs[0] for other in self.nodes(scope, "Mul") if value in other.inputs]
        added = self._added(scope, scaled[0]) if scaled else None
        if added is None or not self.is_constant(added[0]):
            return None
        bias = self.vector(added[0], weight.n_out)
        more = self._added(scope, added[1])
        if more is not None and self.is_constant(more[0]):
            self._expect_shift(scope, weight, self.vector(more[0], weight.n_out))
        return bias

    def _expect_shift(self, scope: str, weight: Weight, shift: F32Array) -> None:
        """Rows that were raised before they were rounded: what that adds is taken away again."""
        raised = [
            float(self.constant(name).item())
            for node in self.nodes(scope, "Add")
            for name in node.inputs
            if name in self.graph.constants and self.graph.constants[name].size == 1
        ]
        sums = weight.matrix.sum(axis=0, dtype=np.int64) * np.asarray(weight.scale, np.float64)
        if len(raised) != 1 or not np.allclose(shift, -raised[0] * sums, rtol=1e-3, atol=1e-6):
            raise UnknownGraphError(f"a sum in {scope!r} that is not known here")

    def _claim(self, name: str) -> None:
        """Every layer has weights of its own: shared ones could fill the memory from a small file."""
        for _ in range(MAX_CHAIN):
            maker = self._makers.get(name)
            name = maker.inputs[0] if maker is not None else name
        if name in self._claimed:
            raise UnknownGraphError(f"weights {name!r} of more than one layer")
        self._claimed.add(name)

    def _weight(self, node: Node) -> Weight:
        name = node.inputs[WEIGHT_INPUT]
        if node.kind != "MatMul":
            scale, zero = (2, 3) if node.kind == "DynamicQuantizeMatMul" else (3, 5)
            given = len(node.inputs) > zero and node.inputs[zero]
            if given and self.constant(node.inputs[zero]).any():
                raise UnknownGraphError(f"weights with a zero point in {node.name!r}")
            return self._codes(name, node.inputs[scale], integer=True)
        maker = self._makers.get(name)
        cast = self._makers.get(maker.inputs[0]) if maker is not None and maker.kind == "Mul" else None
        if maker is not None and cast is not None and cast.kind == "Cast":
            codes = cast.inputs[0]
            if self.constant(codes).dtype == np.int8:
                return self._codes(codes, maker.inputs[1], integer=False)
        values = self.constant(name).astype(np.float32)
        expect_matrix(name, values)
        return Weight(None, None, values, False)

    def _codes(self, name: str, scale: str, integer: bool) -> Weight:
        codes = self.constant(name)
        expect_matrix(name, codes)
        if codes.dtype != np.int8:
            raise UnknownGraphError(f"weights {name!r} of type {codes.dtype}")
        if self.constant(scale).size == 1:  # one for the whole matrix
            scales = np.full(codes.shape[1], self.constant(scale).item(), np.float32)
            return Weight(codes, scales, None, integer)
        return Weight(codes, self.vector(scale, codes.shape[1]), None, integer)


def expect_shape(what: str, array: Array, shape: tuple[int, ...]) -> None:
    """Kernels do not check bounds: nothing of another shape may reach them.

    Raises:
        UnknownGraphError: array has another shape.
    """
    if array.shape != shape:
        raise UnknownGraphError(f"{what!r} of shape {array.shape}, not {shape}")


def expect_matrix(what: str, array: Array) -> None:
    """Refuse what is not a matrix with at least one element.

    Raises:
        UnknownGraphError: as it says.
    """
    if array.ndim != 2 or not array.size:
        raise UnknownGraphError(f"{what!r} of shape {array.shape}, not a matrix")
