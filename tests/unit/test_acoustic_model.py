"""The acoustic model at its boundary, with graphs of three nodes that are made here."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engine.acoustic.model import AcousticModel, compute_log_softmax  # noqa: E402
from engine.bundle.folder import AcousticConfig, Bundle, FeatureConfig, open_bundle, write_bundle  # noqa: E402
from engine.errors import (  # noqa: E402
    AudioLimitError,
    AudioTooShortError,
    BundleIntegrityError,
    BundleSchemaError,
    CancelledError,
    DeviceError,
    ModelCapabilityError,
    ModelError,
)
from engine.runtime.cancel import CancelToken  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402

CPU = RuntimeOptions(device="cpu")
TOKENS = ("<pad>", "|", "a")


def make_graph(
    input_name: str = "input_values", output_name: str = "logits", mask: bool = False, n_tokens: int = 3
) -> Any:
    """Every 320 samples become a frame; its first n_tokens samples are the logits (plus the mask's sum)."""
    constants = {
        "shape": np.array([0, -1, 320]),
        "zero": np.array([0]),
        "end": np.array([n_tokens]),
        "axis": np.array([2]),
        "length": np.array([-1]),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Shape", [input_name], ["n"], start=1, end=2),
        helper.make_node("Div", ["n", "frame"], ["n_frames"]),
        helper.make_node("Mul", ["n_frames", "frame"], ["whole"]),
        helper.make_node("Slice", [input_name, "zero", "whole", "one"], ["cut"]),
        helper.make_node("Reshape", ["cut", "shape"], ["frames"]),
        helper.make_node("Slice", ["frames", "zero", "end", "axis"], [output_name if not mask else "plain"]),
    ]
    inputs = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["b", "n"])]
    if mask:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "n"]))
        nodes.append(helper.make_node("ReduceSum", ["attention_mask"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("Cast", ["sum"], ["sum_float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", ["plain", "sum_float"], [output_name]))
    constants["frame"] = np.array([320])
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["b", "f", n_tokens])],
        [numpy_helper.from_array(value.astype(np.int64), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def make_bundle(folder: Path, graph: Any = None, tokens: tuple[str, ...] = TOKENS, **config: Any) -> Bundle:
    folder.mkdir(exist_ok=True)
    onnx.save(graph if graph is not None else make_graph(), folder / "graph.onnx")
    (folder / "tokens.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    acoustic = AcousticConfig(**{"features": FeatureConfig(normalize=False), **config})
    files = {"acoustic": folder / "graph.onnx", "vocabulary": folder / "tokens.json"}
    path = write_bundle(folder / "b", name="t", licence="x", files=files, card="", acoustic=acoustic)
    return open_bundle(path)


def waveform(n_samples: int) -> np.ndarray:
    return np.random.default_rng(n_samples).uniform(-1, 1, n_samples).astype(np.float32)


def test_log_probs_are_the_graphs_logits_normalised(tmp_path: Path) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path), CPU)
    samples = waveform(1000)
    log_probs = acoustic.compute_log_probs(acoustic.compute_features(samples))
    assert log_probs.shape == (3, 3)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-6)
    expected = compute_log_softmax(np.stack([samples[:3], samples[320:323], samples[640:643]]))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-6)


def test_attributes_come_from_the_manifest(tmp_path: Path) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path, blank_id=2, max_window_s=7.0), CPU)
    assert acoustic.vocabulary == TOKENS
    assert (acoustic.blank_id, acoustic.word_delimiter, acoustic.device) == (2, "|", "cpu")
    assert (acoustic.frame_s, acoustic.sample_rate, acoustic.max_window_s) == (0.02, 16_000, 7.0)


def test_tail_silence_is_appended_behind_normalisation_and_cut_off_again(tmp_path: Path) -> None:
    features = FeatureConfig(normalize=True)
    acoustic = AcousticModel(make_bundle(tmp_path, features=features, tail_silence_s=0.1), CPU)
    found = acoustic.compute_features(waveform(1000) + 5)
    assert found.shape == (1000 + 1600,)
    assert (found[1000:] == 0).all()
    assert abs(found[:1000].mean()) < 1e-5
    assert acoustic.compute_log_probs(found).shape == (3, 3)


def test_mask_of_ones_is_fed_where_the_graph_wants_one(tmp_path: Path) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path, make_graph(mask=True), mask=True), CPU)
    samples = waveform(640)
    log_probs = acoustic.compute_log_probs(acoustic.compute_features(samples))
    expected = compute_log_softmax(640 * np.stack([samples[:3], samples[320:323]]))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n_samples", [0, 1, 160, 399])
def test_less_than_a_frame_is_refused_with_its_length(tmp_path: Path, n_samples: int) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path, tail_silence_s=1.0), CPU)
    for call in (acoustic.check_length, acoustic.compute_features):
        with pytest.raises(AudioTooShortError, match=f"{n_samples} samples.*at least 400"):
            call(np.zeros(n_samples, np.float32))
    acoustic.check_length(np.zeros(400, np.float32))


def test_longer_than_the_window_is_refused(tmp_path: Path) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path, max_window_s=1.0), CPU)
    assert acoustic.compute_features(np.zeros(16_000, np.float32)).shape == (16_000,)
    with pytest.raises(AudioLimitError, match="at most 1 s"):
        acoustic.compute_features(np.zeros(16_001, np.float32))


@pytest.mark.parametrize(
    ("graph", "config", "message"),
    [
        (make_graph(n_tokens=5), {}, "head has 5 outputs, the vocabulary 3"),
        (make_graph(), {"mask": True}, "promises an input 'attention_mask'"),
        (make_graph(), {"blank_id": 3}, "blank_id 3 is outside"),
    ],
)
def test_graph_that_does_not_fit_is_refused_at_load(
    tmp_path: Path, graph: Any, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleSchemaError, match=message):
        AcousticModel(make_bundle(tmp_path, graph, **config), CPU)


def test_what_onnxruntime_cannot_load_is_one_clear_error(tmp_path: Path) -> None:
    graph = make_graph()
    graph.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"cannot load acoustic\.onnx"):
        AcousticModel(make_bundle(tmp_path, graph), CPU)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    graph = make_graph()
    tensor = graph.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    (tmp_path / "graph.onnx").write_bytes(graph.SerializeToString())
    (tmp_path / "tokens.json").write_text(json.dumps(dict(zip(TOKENS, range(3), strict=True))))
    files = {"acoustic": tmp_path / "graph.onnx", "vocabulary": tmp_path / "tokens.json"}
    path = write_bundle(
        tmp_path / "b", name="t", licence="x", files=files, card="", acoustic=AcousticConfig()
    )
    with pytest.raises(BundleIntegrityError, match="keeps weights in another file"):
        AcousticModel(open_bundle(path), CPU)


def test_compute_type_that_the_bundle_does_not_hold_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, precision="int8")
    AcousticModel(bundle, RuntimeOptions(device="cpu", compute_type="int8"))
    with pytest.raises(DeviceError, match="compute type 'fp32'"):
        AcousticModel(bundle, RuntimeOptions(device="cpu", compute_type="fp32"))


def test_bundle_without_an_acoustic_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lm.bin").write_bytes(b"x")
    files = {"language_model": tmp_path / "lm.bin"}
    path = write_bundle(tmp_path / "b", name="t", licence="x", files=files, card="")
    with pytest.raises(ModelCapabilityError, match="no acoustic model"):
        AcousticModel(open_bundle(path), CPU)


def test_cancelled_call_raises(tmp_path: Path) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path), CPU)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        acoustic.compute_log_probs(np.zeros(1000, np.float32), cancel)


def test_many_threads_share_one_model(tmp_path: Path) -> None:
    acoustic = AcousticModel(make_bundle(tmp_path), CPU)
    waveforms = [waveform(400 + 37 * index) for index in range(64)]
    alone = [acoustic.compute_log_probs(acoustic.compute_features(samples)) for samples in waveforms]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda w: acoustic.compute_log_probs(acoustic.compute_features(w)), waveforms)
        )
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_array_equal(left, right)


def test_log_softmax_survives_extreme_logits_and_no_frames() -> None:
    extreme = np.array([[1e4, -1e4, 0], [-np.inf, 0, 0], [80, 80, 80]], np.float32)
    log_probs = compute_log_softmax(extreme)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-6)
    assert compute_log_softmax(np.empty((0, 5), np.float32)).shape == (0, 5)
