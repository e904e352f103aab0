"""Half-precision storage: smaller file, the same graph."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.runtime.onnx_session import open_session
from export.rewrites.half_storage import store_half


def make_model(weight: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[1]])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.ones(weight.shape[1], np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return open_session(model.SerializeToString(), threads=1).run({"x": x})[0]


def test_the_file_halves_and_the_result_is_that_of_rounded_weights() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(128, 128)).astype(np.float32)
    x = rng.normal(size=(3, 128)).astype(np.float32)
    model = make_model(weight)
    compact = store_half(model)
    onnx.checker.check_model(compact)
    assert compact.ByteSize() < 0.55 * model.ByteSize()
    rounded = make_model(weight.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(run(compact, x), run(rounded, x))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]


def test_constants_that_are_small_or_too_large_for_half_precision_stay() -> None:
    weight = np.full((128, 128), 1e6, np.float32)
    assert [node.op_type for node in store_half(make_model(weight)).graph.node] == ["MatMul", "Add"]
    small = np.ones((8, 8), np.float32)
    assert len(store_half(make_model(small)).graph.node) == 2
