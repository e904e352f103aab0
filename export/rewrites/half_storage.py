"""Large float32 constants stored as float16 with a Cast: half the file size, the same arithmetic.

The runtime folds the Cast when it loads the graph, so running costs nothing; what changes is the
rounding of the constants to 11 significant bits, an eighth of what int8 weights lose.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 4096  # below that a Cast node is larger than what it saves
LARGEST = float(np.finfo(np.float16).max)
SUFFIX = "_half"


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a copy of a graph.

    Args:
        model: any graph with initializers.
    Returns:
        A model whose float32 initializers of MIN_ELEMENTS or more are float16 with a Cast of the
        old name; those with a value that float16 cannot hold stay as they are.
    """
    compact = onnx.ModelProto()
    compact.CopyFrom(model)
    graph = compact.graph
    casts = []
    for tensor in list(graph.initializer):
        half = _as_half(tensor)
        if half is None:
            continue
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return compact


def _as_half(tensor: onnx.TensorProto) -> onnx.TensorProto | None:
    if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_ELEMENTS:
        return None
    values = numpy_helper.to_array(tensor)
    if not np.all(np.abs(values) <= LARGEST):
        return None
    return numpy_helper.from_array(values.astype(np.float16), tensor.name + SUFFIX)
