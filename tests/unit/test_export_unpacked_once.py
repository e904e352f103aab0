"""Stored weights unpacked in one step for sessions that measure: the same numbers, the model as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engine.runtime.integer_products import check_products
from engine.runtime.onnx_session import open_session
from engine.runtime.pair_safe import quantize_stored
from engine.types import RuntimeOptions
from export.graph.builder import GraphBuilder, Precision
from export.graph.linear import Linear, emit_linear
from export.rewrites.unpacked_once import serialize_unpacked_once
from export.verification.verify import measuring_run, onnx_run

CPU = RuntimeOptions(device="cpu")
RNG = np.random.default_rng(5)


def make_chain(n_layers: int = 3, width: int = 32, int8: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Linear layers one after the other: the first in float32, the others stored in int8 or computed so."""
    precisions: dict[str, Precision] = {"first": "float32", **dict.fromkeys(int8, "int8")}
    graph = GraphBuilder(lambda block: precisions.get(block, "stored"))
    value = "input_values"
    for index in range(n_layers):
        with graph.scope("first" if index == 0 else f"layer_{index}"):
            weight = RNG.normal(size=(width, width)).astype(np.float32) / width**0.5
            value = emit_linear(graph, value, Linear(weight, np.ones(width, np.float32)))
    graph.rename(value, "logits")
    axes = ("batch", "n_rows", width)
    return graph.build({"input_values": axes}, {"logits": axes})


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_results_are_the_same_to_the_bit_and_the_model_is_as_it_was() -> None:
    model = make_chain()
    before = model.SerializeToString()
    found = onnx.load_model_from_string(serialize_unpacked_once(model))
    assert model.SerializeToString() == before
    assert kinds(found).count("DequantizeLinear") == 2
    assert "Cast" not in kinds(found)
    onnx.checker.check_model(found)
    rows = RNG.normal(size=(1, 7, 32)).astype(np.float32)
    want = onnx_run(model)(rows)
    np.testing.assert_array_equal(measuring_run(model)(rows), want)


def test_stored_blocks_are_measured_beside_int8_ones_where_their_products_are_rounded_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sessions on processors without VNNI convert integer products, but not where layers share constants."""
    monkeypatch.setattr("engine.runtime.onnx_session._products_saturate", lambda: True)
    model = make_chain(4, int8=("layer_2",))
    assert "DynamicQuantizeMatMul" in kinds(model)
    rows = RNG.normal(size=(1, 7, 32)).astype(np.float32)
    np.testing.assert_array_equal(measuring_run(model)(rows), onnx_run(model)(rows))


@pytest.mark.parametrize("case", ["rows", "three axes", "read twice", "an output", "uint8", "no constant"])
def test_what_has_another_form_stays(case: str) -> None:
    """Each of these would be another value, or take one away that something reads."""
    codes, scale = quantize_stored(RNG.normal(size=(4, 4)).astype(np.float32))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inputs, outputs = [x], [y]
    product = helper.make_node("MatMul", ["x", "weight"], ["y"])
    scales: NDArray[np.float32] = scale
    if case == "rows":
        scales = scale[:, None]
    elif case == "three axes":
        codes = codes.reshape(1, 4, 4)
    elif case == "read twice":
        product = helper.make_node("Gemm", ["x", "weight", "cast"], ["y"])
    elif case == "an output":
        outputs.append(helper.make_tensor_value_info("cast", TensorProto.FLOAT, None))
    tensors = {"codes": codes.astype(np.uint8) if case == "uint8" else codes, "scale": scales}
    if case == "no constant":
        inputs.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [4]))
        del tensors["scale"]
    nodes = [
        helper.make_node("Cast", ["codes"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["weight"]),
        product,
    ]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "odd", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert serialize_unpacked_once(model) == model.SerializeToString()


PEAK = """
import sys
from pathlib import Path
import onnx
from export.verification.verify import measuring_run, onnx_run
def megabytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
start = megabytes("VmRSS")
(measuring_run if sys.argv[2] == "once" else onnx_run)(onnx.load(sys.argv[1]))
print(megabytes("VmHWM") - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    model, path = make_chain(9, 2048), tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())  # 16 + 8 x 4 MB; 144 in float32
    peaks = {}
    for kind in ("twice", "once"):
        found = subprocess.run(
            [sys.executable, "-P", "-c", PEAK, str(path), kind], capture_output=True, text=True, timeout=120
        )
        assert found.returncode == 0, found.stderr
        peaks[kind] = float(found.stdout)
    assert peaks["once"] < peaks["twice"] - 60, peaks


def test_the_form_also_runs_in_a_session_of_the_engine() -> None:
    """There the products may be of integers, as onnxruntime likes."""
    data = serialize_unpacked_once(make_chain())
    rows = RNG.normal(size=(1, 5, 32)).astype(np.float32)
    found = [open_session(data, CPU, threads=1, unpack_weights=flag) for flag in (False, True)]
    results = [session.run({"input_values": rows}, ["logits"])[0] for session in found]
    assert np.linalg.norm(results[0] - results[1]) < 0.03 * np.linalg.norm(results[1])


def test_the_form_is_no_problem_of_integer_products_where_it_is_unpacked() -> None:
    data = serialize_unpacked_once(make_chain())
    assert len(check_products(data).problems) == 2  # onnxruntime may make integer products of them
    assert check_products(data, unpacked=True).problems == ()
