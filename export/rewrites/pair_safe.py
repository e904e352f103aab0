"""The integer weights of a finished graph, rounded again so that their pairs are safe.

A weight is its codes times a scale. Columns that are not pair-safe get new codes, each scale that multiplies
them becomes larger by the same factor, and nothing else in the graph changes. A scale for a whole tensor
becomes one for each column: a single larger step would also round all other columns again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engine.runtime.integer_products import PRODUCTS
from export.errors import ExportError
from export.rewrites.codes import Layout, Rounded
from export.rewrites.edit import FIX, GraphEdit, attribute, casts_to_float

# Scale and zero point of the weight at an input. MatMulInteger has neither: other nodes apply its scale.
SCALE_INPUTS = {
    ("MatMulIntegerToFloat", 1): (3, 5), ("DynamicQuantizeMatMul", 1): (2, 3),
    ("DynamicQuantizeLSTM", 1): (8, 9), ("DynamicQuantizeLSTM", 2): (10, 11),
}  # fmt: skip
RANKS = {"matrix": lambda n: n >= 2, "turned": lambda n: n == 2, "kernel": lambda n: n == 3}
SEVERAL_MATRICES = ("DynamicQuantizeLSTM",)
# Convolutions that the graph multiplies in float and the engine's own kernels in integers.
KERNEL_SCOPES = re.compile(r"(conv_[1-9][0-9]*|stem/conv2)/[^/]*")
F32Array = NDArray[np.float32]


def multiplied(graph: GraphEdit) -> dict[str, Layout]:
    """Tensors of int8 that are multiplied by bytes, by this graph or by the engine's kernels.

    Raises:
        ExportError: one is used in two layouts.
    """
    found: dict[str, Layout] = {}
    for name, layout in _weights(graph):
        tensor = graph.tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.INT8 or not RANKS[layout](len(tensor.dims)):
            continue
        if found.setdefault(name, layout) != layout:
            raise ExportError(f"{name!r} is multiplied both as it is and transposed", "one of both", FIX)
    return found


def _weights(graph: GraphEdit) -> Iterator[tuple[str, Layout]]:
    for node in graph.model.graph.node:
        for position in PRODUCTS.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ""
            maker = graph.makers.get(name)
            if maker is not None and _turns(maker):
                yield maker.input[0], "turned"
            else:
                yield name, "matrix"
        if node.op_type in ("MatMul", "Conv") and KERNEL_SCOPES.fullmatch(node.name):
            scaled = graph.makers.get(node.input[1])
            cast = graph.makers.get(scaled.input[0]) if scaled and scaled.op_type == "Mul" else None
            if cast is not None and casts_to_float(cast):
                yield cast.input[0], "kernel" if node.op_type == "Conv" else "matrix"


def apply_codes(graph: GraphEdit, changes: Mapping[str, Rounded]) -> None:
    """Give tensors their new codes, and the nodes that read them the new scales.

    Args:
        changes: by the tensor's name; the caller changes data in another file.
    Raises:
        ExportError: a node would read the new codes with the old scale.
    """
    for name, change in changes.items():
        for node, position in graph.readers(name):
            _rescale_reader(graph, name, node, position, change)
        if graph.place_in_table(name) is None:
            graph.overwrite(name, change.codes)


def _rescale_reader(
    graph: GraphEdit, name: str, node: onnx.NodeProto, position: int, change: Rounded
) -> None:
    factors, turned = change.factors[0], change.layout == "turned"
    if (node.op_type, position) in SCALE_INPUTS and change.layout == "matrix":
        _rescale_product(graph, node, position, change)
    elif turned and _turns(node):
        for reader, at in graph.readers(node.output[0]):
            _rescale_product(graph, reader, at, change)
    elif not turned and casts_to_float(node):
        for reader, at in graph.readers(node.output[0]):
            if reader.op_type != "Mul" or len(change.factors) > 1:
                raise _unknown(name, reader)
            _rescale(graph, reader, 1 - at, factors, (-1, 1, 1) if change.layout == "kernel" else (-1,))
    elif turned and node.op_type == "Gather" and position == 0 and not attribute(node, "axis", 0):
        for reader, _ in graph.readers(node.output[0]):
            _rescale_rows(graph, name, node, reader, factors)
    else:
        raise _unknown(name, node)


def _rescale_product(graph: GraphEdit, node: onnx.NodeProto, position: int, change: Rounded) -> None:
    factors = change.factors if node.op_type in SEVERAL_MATRICES else change.factors[0]
    if (node.op_type, position) not in SCALE_INPUTS or factors.size != change.factors.size:
        raise _unknown(node.input[position], node)
    scale_at, zero_at = SCALE_INPUTS[node.op_type, position]
    zero = graph.constant(node, zero_at)
    if (zero is None and node.input[zero_at : zero_at + 1] not in ([], [""])) or (
        zero is not None and zero.any()
    ):
        raise ExportError(f"{node.name!r} has weights with a zero point", "codes around zero", FIX)
    scale = _rescale(graph, node, scale_at, factors, factors.shape)
    if zero is not None and zero.size != scale.size:
        graph.replace(node, zero_at, np.zeros(scale.shape, np.int8))


def _rescale(
    graph: GraphEdit, node: onnx.NodeProto, position: int, factors: F32Array, wide: tuple[int, ...]
) -> F32Array:
    """Enlarge the scale at an input; one that columns shared gets the shape `wide`."""
    found = graph.constant(node, position)
    if found is None or found.size not in (1, len(factors), factors.size):
        shape = "that the graph computes" if found is None else f"of shape {found.shape}"
        raise ExportError(
            f"{node.name!r} has a scale {shape}", f"a constant for {factors.shape} columns", FIX
        )
    old = np.asarray(found, np.float32)
    if old.size == factors.size:
        scale = old * factors.reshape(old.shape)
    else:
        scale = (old.reshape(-1, *[1] * (factors.ndim - 1)) * factors).reshape(wide)
    graph.replace(node, position, scale)
    return scale


def _rescale_rows(
    graph: GraphEdit, name: str, gather: onnx.NodeProto, node: onnx.NodeProto, factors: F32Array
) -> None:
    """A table whose rows, with their scales, are looked up."""
    rows, ids = gather.output[0], gather.input[1]
    if casts_to_float(node):
        for product, at in graph.readers(node.output[0]):
            scales = graph.makers.get(product.input[1 - at]) if product.op_type == "Mul" else None
            if scales is None or scales.op_type != "Gather" or scales.input[1] != ids:
                raise _unknown(name, product)
            if len(graph.readers(scales.output[0])) > 1:
                raise _unknown(name, scales)
            _rescale(graph, scales, 0, factors, (-1, 1))
        return
    old = graph.constant(node, 1) if node.op_type == "DequantizeLinear" and len(node.input) == 2 else None
    if old is None or old.size != 1:
        raise _unknown(name, node)
    table = graph.add(f"{node.name}_scales", (old.reshape(1, 1) * factors[:, None]).astype(np.float32))
    codes, steps = f"{node.name}_codes", f"{node.name}_steps"
    graph.insert_before(
        node,
        helper.make_node("Cast", [rows], [codes], f"{node.name}_Cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [table, ids], [steps], f"{node.name}_Gather"),
    )
    graph.replaced.add(node.input[1])
    node.CopyFrom(helper.make_node("Mul", [codes, steps], list(node.output), f"{node.name}_Mul"))


def _turns(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and attribute(node, "perm") == [1, 0]


def _unknown(name: str, node: onnx.NodeProto) -> ExportError:
    return ExportError(
        f"{name!r} is not pair-safe, and {node.op_type} {node.name!r} reads it in a way that is not known",
        "products, casts and look-ups as engine-export writes them", FIX,
    )  # fmt: skip
