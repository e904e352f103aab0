"""Graphs of a decoder's single steps: tables that several graphs share, attention heads, typed inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper

from export.graph.builder import IR_VERSION, MICROSOFT, OPSET, Array, Choice, GraphBuilder

DTYPES = {"float": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}
Shapes = Mapping[str, tuple[str, tuple[Any, ...]]]


@dataclass
class SharedTables:
    """Embedding tables, each stored once in one file that both graphs refer to.

    Attributes:
        file_name: of the file, in the graphs' folder.
        parts: arrays in file order, by a key of their content.
    """

    file_name: str
    parts: dict[bytes, Array] = field(default_factory=dict)

    def tensor(self, array: Array, name: str) -> onnx.TensorProto:
        """A tensor whose data is in the file; equal arrays share it."""
        array = np.ascontiguousarray(array)
        key = repr((array.dtype.str, array.shape)).encode() + array.tobytes()
        offset = 0
        for known, part in self.parts.items():
            if known == key:
                break
            offset += part.nbytes
        self.parts.setdefault(key, array)
        proto = TensorProto(
            name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype)
        )
        proto.raw_data = b"\0"  # set_external_data wants raw data to replace
        external_data_helper.set_external_data(proto, self.file_name, offset, array.nbytes)
        proto.ClearField("raw_data")
        return proto

    def content(self) -> bytes:
        """The bytes of the file."""
        return b"".join(part.tobytes() for part in self.parts.values())

    def write(self, folder: Path) -> Path:
        """Write the file."""
        path = folder / self.file_name
        path.write_bytes(self.content())
        return path


class StepGraph(GraphBuilder):
    """A graph builder whose tables are in a file that graphs share.

    Args:
        tables: where they are stored. precision: of a block.
    """

    def __init__(self, tables: SharedTables, precision: Choice = lambda block: "float32") -> None:
        super().__init__(precision)
        self.tables = tables

    def table(self, array: Array, name: str) -> str:
        """A constant in the shared file."""
        value = self._name(name)
        self._constants.append(self.tables.tensor(array, value))
        return value

    def split_heads(self, value: str, n_heads: int) -> str:
        """[batch, length, d_model] -> [batch, heads, length, head_dim]."""
        return self.op("Transpose", self.reshape(value, 0, 0, n_heads, -1), perm=[0, 2, 1, 3])

    def finish(
        self, name: str, inputs: Shapes, outputs: Shapes, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Assemble the model; tables in the shared file keep onnx.checker from being run on it."""
        graph = helper.make_graph(
            self._nodes, name, [_value(*item) for item in inputs.items()],
            [_value(*item) for item in outputs.items()], self._constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="engine-export"
        )
        helper.set_model_props(model, dict(metadata))
        return model


def _value(name: str, spec: tuple[str, tuple[Any, ...]]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, DTYPES[spec[0]], spec[1])
