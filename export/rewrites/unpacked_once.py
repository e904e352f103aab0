"""Weights that are int8 in the file, in the form that onnxruntime unpacks without a second copy.

It folds a Cast and the Mul behind it one after the other, and keeps what the Cast made until all are folded:
a large model's weights are in memory twice in float32. A DequantizeLinear is one step with the same result
(a code times its scale). Bundles keep Cast and Mul, which our kernels read; this form is for sessions that
measure (`open_session(..., unpack_weights=True)`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.rewrites.edit import attribute


def serialize_unpacked_once(model: onnx.ModelProto) -> bytes:
    """Serialise a graph in that form; the model itself is as it was afterwards, and is not copied."""
    graph = model.graph
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    n_constants = len(graph.initializer)
    try:
        rewritten, zeros = _rewrite(graph)
        del graph.node[:]
        graph.node.extend(rewritten)
        graph.initializer.extend(zeros)
        return model.SerializeToString()
    finally:
        del graph.node[:], graph.initializer[n_constants:]
        graph.node.extend(nodes)


def _rewrite(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes, with one in place of each Cast of int8 columns and the Mul by their scales; zero points."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    codes = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.INT8}
    casts = {node.output[0]: node for node in graph.node if _is_cast(node) and node.input[0] in codes}
    n_readers = Counter(name for node in graph.node for name in node.input)
    n_readers.update(output.name for output in graph.output)
    gone: set[str] = set()
    unpacked: dict[str, onnx.NodeProto] = {}
    zeros: list[onnx.TensorProto] = []
    for node in graph.node:
        cast = casts.get(node.input[0]) if node.op_type == "Mul" else None
        if cast is None or n_readers[cast.output[0]] > 1:
            continue
        shape, scale = shapes[cast.input[0]], node.input[1]
        if len(shape) != 2 or shapes.get(scale) != shape[1:]:
            continue
        # Without zero points of one axis onnxruntime 1.32 adds a scalar, which it refuses when it runs.
        zeros.append(numpy_helper.from_array(np.zeros(shape[1], np.int8), f"{node.output[0]}/zeros"))
        inputs, outputs = [cast.input[0], scale, zeros[-1].name], list(node.output)
        gone.add(cast.output[0])
        unpacked[outputs[0]] = helper.make_node("DequantizeLinear", inputs, outputs, node.name, axis=1)
    kept = [node for node in graph.node if not gone.intersection(node.output)]
    return [unpacked.get(node.output[0], node) for node in kept], zeros


def _is_cast(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and bool(attribute(node, "to") == TensorProto.FLOAT)
