"""Which integer products of a graph saturate on processors without VNNI: the check beside pair_safe.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.runtime.onnx_file import Array, Node, OnnxGraph, read_graph
from engine.runtime.pair_safe import is_pair_safe

# Operators that multiply uint8 by matrices [..., n_in, n_out], and at which inputs these are.
PRODUCTS: dict[str, tuple[int, ...]] = {
    "MatMulInteger": (1,),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "DynamicQuantizeLSTM": (1, 2),
}
# The others of onnxruntime, which no export of ours has; order and layout of their weights differ.
OTHER_PRODUCTS = ("ConvInteger", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul")
SUBGRAPHS = ("If", "Loop", "Scan")
FLOAT_READERS = ("Cast", "Gather")  # make other values of int8, and multiply nothing


@dataclass(frozen=True)
class ProductCheck:
    """What was found in a graph.

    Attributes:
        n_products: nodes that multiply integers.
        problems: a phrase for each product that may saturate, or is not known not to; empty where every
            product is exact on every processor.
    """

    n_products: int
    problems: tuple[str, ...]


def check_products(model: bytes | str | Path, unpacked: bool = False) -> ProductCheck:
    """Check the weights of a serialised graph or of a file, beside which the data of its tensors may lie.

    A graph that cannot be read here has one problem, which says why.

    Args:
        unpacked: a session whose DequantizeLinear of constants make float32 weights when it is opened.
    """
    try:
        if isinstance(model, bytes):
            graph = read_graph(model)
        else:
            graph = read_graph(_mapped(Path(model)), Neighbours(Path(model).parent))
        makers = {output: node for node in graph.nodes for output in node.outputs}
        checked = [node for node in graph.nodes if not (unpacked and _unpacks_weights(graph, node))]
        problems = tuple(problem for node in checked for problem in _problems(graph, makers, node))
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
    ) as error:
        return ProductCheck(0, (f"the graph cannot be read ({error})",))
    return ProductCheck(sum(node.kind in (*PRODUCTS, *OTHER_PRODUCTS) for node in graph.nodes), problems)


def _unpacks_weights(graph: OnnxGraph, node: Node) -> bool:
    return node.kind == "DequantizeLinear" and node.inputs[0] in graph.constants


def _problems(graph: OnnxGraph, makers: Mapping[str, Node], node: Node) -> Iterator[str]:
    label = f"{node.kind} {node.name!r}"
    if node.kind in PRODUCTS:
        for position in PRODUCTS[node.kind]:
            weight = _constant(graph, makers, node.inputs[position]) if position < len(node.inputs) else None
            yield from (f"{label}: {problem}" for problem in _weight_problems(weight))
    elif node.kind in OTHER_PRODUCTS or node.kind in SUBGRAPHS:
        yield f"{label}: an operator that is not checked"
    elif node.kind == "DequantizeLinear":
        maker = makers.get(node.inputs[0])
        if maker is None or maker.kind != "Gather":  # onnxruntime may join it with a product behind it
            yield f"{label}: an operator that is not checked"
    elif node.kind not in (*FLOAT_READERS, "Transpose"):
        for name in node.inputs:
            found = graph.constants.get(name)
            if found is not None and found.dtype == np.int8 and found.ndim >= 2:
                yield f"{label}: an operator that is not checked"


def _weight_problems(weight: Array | None) -> Iterator[str]:
    if weight is None or weight.ndim < 2 or not weight.size:
        yield "weights that the graph computes"
    elif weight.dtype == np.int8:
        safe = np.concatenate([is_pair_safe(matrix) for matrix in _matrices(weight)])
        if not safe.all():
            yield f"{(~safe).sum()} of {safe.size} columns are not pair-safe"


def _constant(graph: OnnxGraph, makers: Mapping[str, Node], name: str) -> Array | None:
    """A constant, or one that a single Transpose turns; None for what the graph computes otherwise."""
    if name in graph.constants:
        return graph.constants[name]
    maker = makers.get(name)
    if maker is None or maker.kind != "Transpose" or maker.inputs[0] not in graph.constants:
        return None
    array = graph.constants[maker.inputs[0]]
    order = maker.attributes.get("perm", list(range(array.ndim))[::-1])
    return array.transpose(order) if sorted(order) == list(range(array.ndim)) else None


def _matrices(weight: Array) -> Iterator[Array]:
    """The last two axes of an array, for every index of the others."""
    yield from weight.reshape(-1, *weight.shape[-2:])


def _mapped(path: Path) -> Any:
    return np.memmap(path, np.uint8, "r").data if path.stat().st_size else b""


class Neighbours(dict[str, Any]):
    """Files of one folder by name, mapped when they are asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __bool__(self) -> bool:
        return True  # also before the first one

    def __missing__(self, name: str) -> Any:
        if name != Path(name).name:
            raise OSError(f"{name!r} lies in another folder")
        self[name] = _mapped(self.folder / name)
        return self[name]
