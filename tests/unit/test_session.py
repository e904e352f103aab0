"""Devices, provider options, two packages that overwrite each other. The CUDA path itself is not run."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine._distribution import install_command
from engine.errors import CancelledError, DependencyError, DeviceError, ModelError, OptionError
from engine.runtime import onnx_session as session
from engine.types import RuntimeOptions


def test_cuda_without_a_device_is_an_error_that_names_the_mend(monkeypatch) -> None:
    monkeypatch.setattr(session, "cuda_present", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        session.resolve_device(RuntimeOptions(device="cuda"))
    assert session.resolve_device(RuntimeOptions(device="auto")) == "cpu"


@pytest.fixture
def fresh_probe():
    """The answer about CUDA is kept for the process; forget it before and after."""
    session._cuda_failure.cache_clear()
    yield
    session._cuda_failure.cache_clear()


@pytest.mark.skipif(session.cuda_present(), reason="a GPU is here: CUDA may really start")
def test_a_device_that_cannot_be_used_is_an_error_or_the_cpu_with_the_reason_and_prints_nothing(
    fresh_probe, monkeypatch, capsys, caplog
) -> None:
    monkeypatch.setattr(session, "cuda_present", lambda: True)  # as with a driver but without its libraries
    with pytest.raises(DeviceError, match=r"do not load|no CUDA provider|cannot start"):
        session.open_session(make_graph(), RuntimeOptions(device="cuda"))
    with caplog.at_level("WARNING", "engine"):
        assert session.resolve_device(RuntimeOptions(device="auto")) == "cpu"
    assert "running on the CPU" in caplog.text
    assert session.open_session(make_graph(), RuntimeOptions(device="auto")).device == "cpu"
    assert capsys.readouterr().out == ""


def test_the_probe_is_a_graph_that_runs() -> None:
    probe = session.open_session(session.PROBE, RuntimeOptions(device="cpu"))
    assert probe.run({"x": np.array(-2, np.float32)})[0] == 0
    assert probe.run({"x": np.array(3, np.float32)})[0] == 3


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_hidden_devices_are_not_present(monkeypatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not session.cuda_present()


def test_a_provider_that_fails_is_not_replaced_by_the_cpu_in_silence(monkeypatch, capsys) -> None:
    ort = session._onnxruntime()

    class Failing(ort.InferenceSession):
        def _create_inference_session(self, *arguments, **options):
            raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(ort, "InferenceSession", Failing)
    with pytest.raises(ModelError, match="out of memory"):
        session.open_session(session.PROBE, RuntimeOptions(device="cpu"))
    monkeypatch.setattr(session, "resolve_device", lambda _: "cuda")
    with pytest.raises(DeviceError, match="out of memory"):  # not the graph's fault
        session.open_session(session.PROBE, RuntimeOptions(device="cuda"))
    assert capsys.readouterr().out == ""


def test_what_onnxruntime_cannot_run_is_one_typed_error_that_names_the_graph() -> None:
    opened = session.open_session(make_graph(), RuntimeOptions(device="cpu"), threads=1, name="a.onnx")
    for feeds in ({"x": np.zeros((2, 2, 2), np.int64)}, {}, {"y": np.zeros(1, np.float32)}):
        with pytest.raises(ModelError, match=r"^a\.onnx cannot be run \(.+\); ") as caught:
            opened.run(feeds)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros((2, 3), np.float32), np.zeros((2, 4), np.int64), [None], None])
def test_an_output_of_another_shape_or_type_is_refused(array: object) -> None:
    opened = session.open_session(make_graph(), RuntimeOptions(device="cpu"), threads=1)
    right = np.zeros((2, 4), np.float32)
    assert opened.expect(right, (None, 4), "y") is right
    with pytest.raises(ModelError, match="gives y of shape"):
        opened.expect(array, (None, 4), "y")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(OptionError, match="tpu"):
        session.resolve_device(RuntimeOptions(device="tpu"))


@pytest.fixture
def fresh_import() -> Iterator[None]:
    """onnxruntime is looked for anew, in the test and after it."""
    session._onnxruntime.cache_clear()
    yield
    session._onnxruntime.cache_clear()


def test_both_packages_at_once_are_used_with_a_warning(monkeypatch, caplog, fresh_import) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    assert session._onnxruntime().InferenceSession
    assert "both installed" in caplog.text and "pip uninstall -y onnxruntime onnxruntime-gpu" in caplog.text


def not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_neither_package_is_an_error_that_names_both_commands(monkeypatch, fresh_import) -> None:
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match="onnxruntime is not installed") as caught:
        session._onnxruntime()
    assert caught.value.fix.count("pip install") == 2
    assert all(install_command(extra) in caught.value.fix for extra in ("cpu", "gpu"))


def test_a_package_without_its_files_is_an_error_that_says_how_to_install_one(
    monkeypatch, tmp_path: Path, fresh_import
) -> None:
    """What is left after one of two packages was uninstalled: a folder, which Python imports as empty."""
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(DependencyError, match=r"files are missing.*pip uninstall"):
        session._onnxruntime()


def test_onnxruntime_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "from engine.runtime.onnx_session import PROBE, open_session; open_session(PROBE)"
    subprocess.run([sys.executable, "-c", code], env={**environment, "CI": ""}, check=True)
    left = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("onnxruntime" in path for path in left), left  # a device id, and events to be sent


def test_a_cancelled_token_stops_before_it_starts() -> None:
    token = session.CancelToken()
    token.raise_if_cancelled()
    token.cancel()
    with pytest.raises(CancelledError):
        token.raise_if_cancelled()


def make_graph(fixed: bool = False) -> bytes:
    """y = x + x over [batch, n]."""
    from onnx import TensorProto, helper

    onnx = pytest.importorskip("onnx")
    shape = ["batch", "n"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_cuda_options_keep_the_arena_small_and_the_search_quick() -> None:
    (name, cuda), (fallback, _) = session.provider_settings("cuda", 2048)
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert cuda["cudnn_conv_algo_search"] == "HEURISTIC"
    assert cuda["gpu_mem_limit"] == str(2048 * 2**20)
    assert cuda["arena_extend_strategy"] == "kSameAsRequested"
    assert cuda["enable_cuda_graph"] == "0"
    assert session.provider_settings("cuda", 1, cuda_graphs=True)[0][1]["enable_cuda_graph"] == "1"
    assert session.provider_settings("cpu", 2048) == [("CPUExecutionProvider", {})]
    with pytest.raises(OptionError, match="gpu_memory_mb 0"):
        session.resolve_device(RuntimeOptions(gpu_memory_mb=0))


def test_bound_run_equals_the_plain_one() -> None:
    opened = session.open_session(make_graph(), RuntimeOptions(device="cpu"), threads=1)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    bound = session.run_bound(opened._session, {"x": values.T}, ["y"])
    np.testing.assert_array_equal(bound[0], opened.run({"x": np.ascontiguousarray(values.T)})[0])
    np.testing.assert_array_equal(bound[0], 2 * values.T)


def test_memory_is_given_back_on_demand_and_a_cancelled_call_still_raises() -> None:
    opened = session.open_session(make_graph(), RuntimeOptions(device="cpu"), threads=1)
    values = np.ones((2, 1000), np.float32)
    np.testing.assert_array_equal(opened.run({"x": values}, shrink=True)[0], 2 * values)
    token = session.CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        opened.run({"x": values}, cancel=token, shrink=True)


def test_fixed_dimensions_are_those_of_every_call_and_no_cuda_graph_on_the_cpu() -> None:
    options = RuntimeOptions(device="cpu", cuda_graphs=True)
    opened = session.open_session(make_graph(), options, threads=1, fixed_dims={"batch": 2, "n": 5})
    assert opened.input_shape("x") == [2, 5]
    assert not opened.fixed
    assert opened.run({"x": np.ones((2, 5), np.float32)})[0].shape == (2, 5)
    assert session.open_session(make_graph(), options, threads=1).input_shape("x") == ["batch", "n"]


def test_a_dimension_whose_name_is_no_text_is_a_model_error() -> None:
    onnx = pytest.importorskip("onnx")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["QQQQ", 2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ModelError, match="the graph"):
        session.open_session(
            model.SerializeToString().replace(b"QQQQ", b"\xd6QQQ"), RuntimeOptions(device="cpu")
        )
