"""A thin layer over onnx.helper: names, shared constants, scopes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSET = 20  # the first with Gelu
IR_VERSION = 10
END = 2**62  # a slice's "to the end"
_SHARED_SIZE = 64  # constants up to this many elements are stored once

Array = NDArray[Any]
# "stored": int8 in the file only; onnxruntime unpacks the weights when it loads the graph.
Precision = Literal["float32", "int8", "stored"]
Choice = Callable[[str], Precision]


class GraphBuilder:
    """Collects nodes and constants; most methods return the name of the value they made.

    Attributes:
        blocks: the value that each block (a scope with a linear layer, as layer_0/feed_in) reads.
        key_mask: int32 [batch, n_frames], the frames that attention may see; "" where all are valid.
    """

    def __init__(
        self, precision: Choice = lambda block: "float32", ranges: Mapping[str, Array] | None = None
    ) -> None:
        """Start an empty graph.

        Args:
            precision: of a block.
            ranges: for a block, the largest magnitude of each channel that it reads, float32 [n_in];
                known ranges make quantisation more exact.
        """
        self._precision = precision
        self._ranges = ranges or {}
        self.blocks: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._scope: list[str] = []
        self._count = 0
        self.key_mask = ""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the nodes made inside, as in layer_0/attention."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    @property
    def block(self) -> str:
        """The current scope, joined by slashes."""
        return "/".join(self._scope)

    def precision(self, value: str | None = None) -> Precision:
        """Of the current block; records the value that it reads."""
        if value is not None:
            self.blocks.setdefault(self.block, value)
        return self._precision(self.block)

    def range(self) -> Array | None:
        """The largest magnitude of each channel that the current block reads; None where it stays float32."""
        return self._ranges.get(self.block) if self._precision(self.block) == "int8" else None

    def constant(self, array: Array | np.generic, name: str = "constant") -> str:
        """Store an array in the graph; small equal arrays are stored once."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size <= _SHARED_SIZE else b"")
        if array.size <= _SHARED_SIZE and key in self._shared:
            return self._shared[key]
        value = self._name(name)
        self._constants.append(numpy_helper.from_array(array, value))
        if array.size <= _SHARED_SIZE:
            self._shared[key] = value
        return value

    def integers(self, *values: int) -> str:
        """Store an int64 vector, such as a shape or axes."""
        return self.constant(np.array(values, np.int64), "integers")

    def scalar(self, value: int) -> str:
        """Store an int64 scalar."""
        return self.constant(np.array(value, np.int64), "scalar")

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        return self.ops(kind, *inputs, n_outputs=1, domain=domain, **attributes)[0]

    def ops(self, kind: str, *inputs: str, n_outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        outputs = [self._name(kind) for _ in range(n_outputs)]
        self._nodes.append(
            helper.make_node(kind, inputs, outputs, name=self._name(kind), domain=domain, **attributes)
        )
        return outputs

    def slice(self, value: str, start: int, end: int, axis: int, step: int = 1) -> str:
        """value[start:end:step] along one axis."""
        bounds = (self.integers(start), self.integers(end), self.integers(axis), self.integers(step))
        return self.op("Slice", value, *bounds)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; 0 keeps a dimension, -1 is inferred."""
        return self.op("Reshape", value, self.integers(*shape))

    def size(self, value: str, axis: int) -> str:
        """The length of one axis, int64 [1]."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def rename(self, value: str, name: str) -> None:
        """Give a value its public name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def publish(self, value: str, name: str) -> None:
        """Make a value an output under a public name, without a node that copies it."""
        self.blocks = {block: name if read == value else read for block, read in self.blocks.items()}
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [name if given == value else given for given in names]

    def build(
        self,
        inputs: Mapping[str, tuple[Any, ...]],
        outputs: Mapping[str, tuple[Any, ...]],
        metadata: Mapping[str, str] | None = None,
        masks: Mapping[str, tuple[Any, ...]] | None = None,
        counts: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> onnx.ModelProto:
        """Assemble and check the model.

        Args:
            inputs, outputs: float32; shapes hold ints or names of free dimensions.
            masks: more inputs, int64. counts: more outputs, int64.
        """
        masks, counts = masks or {}, counts or {}
        graph = helper.make_graph(
            self._nodes,
            "acoustic",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()]
            + [helper.make_tensor_value_info(k, TensorProto.INT64, v) for k, v in masks.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()]
            + [helper.make_tensor_value_info(k, TensorProto.INT64, v) for k, v in counts.items()],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="engine-export"
        )
        helper.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model)
        return model

    def _name(self, kind: str) -> str:
        self._count += 1
        return "/".join([*self._scope, f"{kind}_{self._count}"])
