"""A finished graph whose constants can be changed while everything else stays the same, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError

FIX = "export the checkpoint again with engine-export of this version"
Array = NDArray[Any]
Place = tuple[onnx.NodeProto, int]


class GraphEdit:
    """A parsed graph: constants by name, the node that makes each value, the nodes and inputs that read it.

    Attributes:
        replaced: names of values that something no longer reads; left out when nothing else does.
    """

    def __init__(self, data: bytes, table_name: str = "", table: bytes = b"") -> None:
        """Parse a serialised graph.

        Args:
            table_name, table: the one other file that may contain its tensors.
        Raises:
            ExportError: it is not a graph, or other files contain weights.
        """
        try:
            self.model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own types, which differ between its versions
            raise ExportError(f"not an ONNX graph ({error})", "a graph of engine-export", FIX) from error
        self._table = table
        graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.outputs = {output.name for output in graph.output}
        self._readers: dict[str, list[Place]] = {}
        for node in graph.node:
            for position, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((node, position))
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self.replaced: set[str] = set()
        found = {_located(tensor).get("location", "") for tensor in graph.initializer if _located(tensor)}
        if found - {table_name}:
            raise ExportError(
                f"weights in other files ({', '.join(sorted(map(repr, found)))})",
                "graphs that hold their weights; the translator's tables in the bundle's own file", FIX,
            )  # fmt: skip

    def readers(self, name: str) -> list[Place]:
        """Nodes that read a value, and at which input.

        Raises:
            ExportError: it is an output of the graph.
        """
        if name in self.outputs:
            raise ExportError(f"{name!r} is an output of the graph", "a value that nodes read", FIX)
        return list(self._readers.get(name, ()))

    def place_in_table(self, name: str) -> slice | None:
        """The bytes of a tensor in the other file; None for one in the graph.

        Raises:
            ExportError: beyond the end of the file.
        """
        entry = _located(self.tensors[name])
        if not entry:
            return None
        start, size = int(entry.get("offset", 0)), int(entry.get("length", -1))
        if not 0 <= start <= start + size <= len(self._table):
            raise ExportError(f"{name!r} is beyond the end of its file", "a whole bundle", FIX)
        return slice(start, start + size)

    def array(self, name: str) -> Array:
        """A constant's values."""
        tensor, place = self.tensors[name], self.place_in_table(name)
        if place is None:
            return numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(self._table[place], dtype).reshape(tuple(tensor.dims))

    def constant(self, node: onnx.NodeProto, position: int) -> Array | None:
        """The constant at an input, also one that is stored as float16; None where there is no constant."""
        name = node.input[position] if position < len(node.input) else ""
        maker = self.makers.get(name)
        if maker is not None and casts_to_float(maker):
            name = maker.input[0]
        return self.array(name) if name in self.tensors else None

    def overwrite(self, name: str, array: Array) -> None:
        """Give a constant in the graph other values."""
        self.tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def replace(self, node: onnx.NodeProto, position: int, array: Array) -> None:
        """Put another constant at an input; what other nodes read stays as it is."""
        name = node.input[position]
        if name in self.tensors and len(self.readers(name)) == 1:
            self.overwrite(name, array)
            return
        self._readers[name] = [
            (other, at)
            for other, at in self.readers(name)
            if (other.output[0], at) != (node.output[0], position)
        ]
        self.replaced.add(name)
        node.input[position] = self.add(f"{node.name}_input_{position}", array)
        self._readers[node.input[position]] = [(node, position)]

    def add(self, name: str, array: Array) -> str:
        """A new constant; returns its name."""
        while name in self.tensors or name in self.makers or name in self._readers:
            name += "_"
        tensor = self.model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.tensors[name] = tensor
        return name

    def insert_before(self, node: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
        """Add nodes in front of another."""
        self._before.setdefault(node.output[0], []).extend(nodes)

    def serialize(self) -> bytes:
        """The graph as it is now, without replaced constants that nothing reads any more."""
        graph, nodes = self.model.graph, []
        for node in graph.node:
            nodes += [*self._before.get(node.output[0] if node.output else "", ()), node]
        read = {name for node in nodes for name in node.input} | self.outputs
        unread = self.replaced - read
        nodes = [node for node in nodes if not unread.intersection(node.output)]
        unread |= {self.makers[name].input[0] for name in unread if name in self.makers}
        unread -= {name for node in nodes for name in node.input} | self.outputs
        if self._before or unread:
            kept = [tensor for tensor in graph.initializer if tensor.name not in unread]
            del graph.node[:], graph.initializer[:]
            graph.node.extend(nodes)
            graph.initializer.extend(kept)
        data: bytes = self.model.SerializeToString()
        return data


def casts_to_float(node: onnx.NodeProto) -> bool:
    """Whether a node is a Cast to float32."""
    return node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _located(tensor: onnx.TensorProto) -> dict[str, str]:
    """The place of a tensor in another file: location, offset, length; empty for one in the graph."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return {}
    return {entry.key: entry.value for entry in tensor.external_data}
