"""Which graphs may saturate on processors without VNNI, and what a session does about it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import DeviceError
from engine.runtime import onnx_session as session
from engine.runtime.integer_products import check_products
from engine.runtime.pair_safe import quantize_columns, quantize_stored
from engine.types import RuntimeOptions

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

MICROSOFT = "com.microsoft"
CPU = RuntimeOptions(device="cpu")
N_IN, N_OUT = 32, 8
WEIGHT = np.abs(np.random.default_rng(0).standard_normal((N_IN, N_OUT))).astype(np.float32)
SAFE, PLAIN = quantize_columns(WEIGHT)[0], quantize_stored(WEIGHT)[0]


def make_model(nodes: list[Any], constants: dict[str, NDArray[Any]]) -> Any:
    """A graph over x, uint8 [m, n_in]; the shape of its output y is not declared."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["m", N_IN])],
        [helper.make_value_info("y", helper.make_tensor_type_proto(TensorProto.INT32, None))],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def product(codes: NDArray[np.int8]) -> bytes:
    """y = x @ codes."""
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="layer/product")
    model: bytes = make_model([node], {"w": codes}).SerializeToString()
    return model


def test_weights_are_judged_by_their_pairs() -> None:
    assert check_products(product(SAFE)) == check_products(product(SAFE[:-1]))
    assert check_products(product(SAFE)).problems == ()
    assert check_products(product(SAFE)).n_products == 1
    (problem,) = check_products(product(PLAIN)).problems
    assert problem.startswith("MatMulInteger 'layer/product': ")
    assert problem.endswith("of 8 columns are not pair-safe")
    assert check_products(product(PLAIN.view(np.uint8))).problems == ()  # uint8 by uint8 is exact


def test_a_table_that_is_turned_is_judged_as_it_is_multiplied() -> None:
    nodes = [
        helper.make_node("Transpose", ["t"], ["w"], perm=[1, 0]),
        helper.make_node("MatMulIntegerToFloat", ["x", "w", "s", "s"], ["y"], domain=MICROSOFT),
    ]
    scale = np.ones(1, np.float32)
    for codes, n_problems in ((SAFE, 0), (PLAIN, 1)):
        found = check_products(make_model(nodes, {"t": codes.T, "s": scale}).SerializeToString())
        assert len(found.problems) == n_problems


@pytest.mark.parametrize("which", [0, 1])
def test_both_directions_and_both_weights_of_an_lstm_are_judged(which: int) -> None:
    weights = [np.stack([SAFE, SAFE]), np.stack([SAFE, SAFE])]
    inputs = ["x", "w0", "w1", "", "", "", "", "", "s", "z", "s", "z"]
    node = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], domain=MICROSOFT, hidden_size=2)
    others = {"s": np.ones(1, np.float32), "z": np.zeros(1, np.int8)}
    model = make_model([node], {"w0": weights[0], "w1": weights[1], **others})
    assert check_products(model.SerializeToString()).problems == ()
    weights[which][1] = PLAIN
    model = make_model([node], {"w0": weights[0], "w1": weights[1], **others})
    assert len(check_products(model.SerializeToString()).problems) == 1


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ConvInteger", ["x", "w"], ["y"]),
        helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["y"]),
        helper.make_node("NewOperator", ["x", "w"], ["y"], domain=MICROSOFT),
        helper.make_node("MatMulInteger", ["x", "computed"], ["y"]),
        helper.make_node("MatMulInteger", ["x"], ["y"]),
        helper.make_node("DequantizeLinear", [], ["y"]),
    ],
    ids=lambda node: node.op_type,
)
def test_what_is_not_known_to_be_exact_is_a_problem(node: Any) -> None:
    model = make_model([node], {"w": SAFE, "s": np.float32(1)[None]})
    assert len(check_products(model.SerializeToString()).problems) == 1


def test_weights_that_are_made_float_or_looked_up_are_none() -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["w", "i"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "s"], ["b"]),
        helper.make_node("Transpose", ["w"], ["t"]),
    ]
    found = check_products(make_model(nodes, {"w": PLAIN, "s": np.ones(1, np.float32)}).SerializeToString())
    assert found.problems == ()
    assert found.n_products == 0


def test_weights_in_a_file_beside_the_graph_are_read_and_other_folders_are_not(tmp_path: Path) -> None:
    model = make_model([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], {"w": PLAIN})
    path = tmp_path / "graph.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert "8 columns are not pair-safe" in check_products(path).problems[0]
    (tmp_path / "weights.bin").rename(tmp_path / "moved.bin")
    assert "cannot be read" in check_products(path).problems[0]
    (tmp_path / "inner").mkdir()
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "location")
    entry.value = "../moved.bin"
    (tmp_path / "inner" / "graph.onnx").write_bytes(model.SerializeToString())
    assert "cannot be read" in check_products(tmp_path / "inner" / "graph.onnx").problems[0]


@pytest.mark.parametrize("data", [b"", b"no model"])
def test_what_is_no_graph_is_a_problem_and_no_crash(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(data)
    assert "cannot be read" in check_products(tmp_path / "graph.onnx").problems[0]
    assert "cannot be read" in check_products(data).problems[0]
    assert "cannot be read" in check_products(tmp_path / "missing.onnx").problems[0]


def exact_setting(model: bytes | Path, monkeypatch: pytest.MonkeyPatch, saturates: bool) -> bool:
    """Whether open_session asks onnxruntime for exact products of this graph."""
    monkeypatch.setattr(session, "_products_saturate", lambda: saturates)
    made = []
    settings_of = session._session_options

    def remember(*arguments: Any) -> Any:
        made.append(settings_of(*arguments))
        return made[-1]

    monkeypatch.setattr(session, "_session_options", remember)
    session.open_session(model, CPU, threads=1)
    try:
        return bool(made[-1].get_session_config_entry(session.EXACT_PRODUCTS) == "1")
    except RuntimeError:  # not set
        return False


@pytest.mark.parametrize("saturates", [False, True])
def test_a_session_asks_for_exact_products_only_where_a_graph_needs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saturates: bool
) -> None:
    for codes, needed in ((SAFE, False), (PLAIN, True)):
        assert exact_setting(product(codes), monkeypatch, saturates) is (saturates and needed)
        (tmp_path / "graph.onnx").write_bytes(product(codes))
        assert exact_setting(tmp_path / "graph.onnx", monkeypatch, saturates) is (saturates and needed)


def test_layers_that_share_what_cannot_be_converted_are_an_error_and_not_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [helper.make_node("MatMulInteger", ["x", name, "", "zero"], [f"{name}x"]) for name in "vw"]
    nodes.append(helper.make_node("Add", ["vx", "wx"], ["y"]))
    constants = {"v": PLAIN, "w": PLAIN + 0, "zero": np.zeros(N_OUT, np.int8)}
    constants["w"][0] = 1
    model = make_model(nodes, constants).SerializeToString()
    monkeypatch.setattr(session, "_products_saturate", lambda: False)
    session.open_session(model, CPU, threads=1)
    monkeypatch.setattr(session, "_products_saturate", lambda: True)
    with pytest.raises(DeviceError, match=r"lacks VNNI.*fix: export the model again"):
        session.open_session(model, CPU, threads=1)


def test_the_probe_of_products_is_a_graph_that_runs() -> None:
    opened = session.open_session(session.PRODUCT_PROBE, CPU, threads=1)
    assert opened.run({"x": np.array([[3, 4]], np.uint8)})[0] == 7 * 127
    assert isinstance(session._products_saturate(), bool)


@pytest.mark.parametrize("n_rows", [1, 3, 64])
@pytest.mark.parametrize("codes", [SAFE, PLAIN], ids=["pair-safe", "plain"])
def test_products_are_exact_on_this_machine(codes: NDArray[np.int8], n_rows: int) -> None:
    values = (np.random.default_rng(n_rows).random((n_rows, N_IN)) < 0.9).astype(np.uint8) * np.uint8(255)
    found = session.open_session(product(codes), CPU, threads=1).run({"x": values})[0]
    np.testing.assert_array_equal(found, values.astype(np.int64) @ codes.astype(np.int64))
