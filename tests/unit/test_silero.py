"""Silero VAD as the speech detector: where its file is found, what is made of its probabilities."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from engine.acoustic.silero import FRAME_SAMPLES, SileroDetector, find_model
from engine.audio import vad
from engine.errors import DependencyError, OptionError
from engine.options import DecodingOptions

onnx = pytest.importorskip("onnx")
RATE = 16_000


def write_model(path: Path, several: bool) -> Path:
    """A graph with Silero's inputs and outputs, by which loud frames are speech."""
    from onnx import TensorProto, helper

    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    states = {"h": "hn", "c": "cn"} if several else {"state": "stateN"}
    inputs = [info("input", kind, ["n", 576])]
    inputs += [info(name, kind, [1, 1, 128] if several else [2, 1, 128]) for name in states]
    if not several:
        inputs.append(info("sr", TensorProto.INT64, []))
    nodes = [
        helper.make_node("Mul", ["input", "input"], ["power"]),
        helper.make_node("ReduceMean", ["power"], ["mean"], axes=[1], keepdims=0 if several else 1),
        helper.make_node("Sub", ["mean", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["heard"]),
        *(helper.make_node("Identity", [name], [after]) for name, after in states.items()),
    ]
    outputs = [info("heard", kind, None), *(info(after, kind, None) for after in states.values())]
    constants = [
        helper.make_tensor("threshold", kind, [1], [1e-4]), helper.make_tensor("slope", kind, [1], [1e6])
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "loud", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def bursts(*spans: tuple[float, float], duration_s: float = 20.0) -> np.ndarray:
    samples = np.zeros(int(duration_s * RATE), np.float32)
    for start_s, end_s in spans:
        part = slice(int(start_s * RATE), int(end_s * RATE))
        samples[part] = 0.1 * np.random.default_rng(0).standard_normal(part.stop - part.start)
    return samples


@pytest.mark.parametrize("several", [True, False])
def test_speech_is_found_where_the_model_hears_it(tmp_path: Path, several: bool) -> None:
    detector = SileroDetector(write_model(tmp_path / "loud.onnx", several))
    samples = bursts((2.0, 3.0), (3.5, 4.0), (8.0, 8.02), (18.0, 20.0))
    regions = detector.detect_speech(samples)
    np.testing.assert_allclose(regions, [(1.7, 4.3), (17.7, 20.0)], atol=0.05)
    assert len(detector.compute_probabilities(samples)) == -(-len(samples) // FRAME_SAMPLES)
    assert detector.detect_speech(samples[:0]) == detector.detect_speech(samples[:RATE]) == []


def test_long_speech_is_cut_into_windows_that_touch(tmp_path: Path) -> None:
    detector = SileroDetector(write_model(tmp_path / "loud.onnx", several=True))
    regions = detector.detect_speech(bursts((1.0, 19.0)), max_window_s=5.0)
    assert len(regions) >= 4 and all(end - start <= 5.0 for start, end in regions)
    assert [start for start, _ in regions[1:]] == [end for _, end in regions[:-1]]


def test_a_block_and_single_frames_are_heard_alike(tmp_path: Path) -> None:
    samples = bursts((0.5, 15.0), (17.0, 19.9))[: -FRAME_SAMPLES // 3]
    heard = [
        SileroDetector(write_model(tmp_path / f"{several}.onnx", several)).compute_probabilities(samples)
        for several in (True, False)
    ]
    np.testing.assert_allclose(*heard, atol=1e-6)


def test_the_file_of_a_package_is_found_and_the_package_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "silero_vad" / "data" / "silero_vad.onnx", several=False)
    (tmp_path / "silero_vad" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_model() == path
    assert "silero_vad" not in sys.modules


def test_what_is_no_silero_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.acoustic.silero.PACKAGES", {"no_such_package_here": ("x.onnx",)})
    with pytest.raises(DependencyError, match="pip install --no-deps silero-vad"):
        find_model()
    with pytest.raises(OptionError, match="check the path"):
        find_model(str(tmp_path / "missing.onnx"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    bundle = Path(__file__).resolve().parents[2] / "engine" / "bundled" / "de-en-base"
    for path in (broken, *bundle.glob("punctuation.onnx")):
        with pytest.raises(OptionError, match="is not Silero's speech detector"):
            SileroDetector(path)
    for wrong in ("webrtc", "", 3, None):
        with pytest.raises(OptionError, match="vad"):
            DecodingOptions(vad=wrong)  # type: ignore[arg-type]


def test_regions_of_levels_are_those_of_the_detector_of_energy() -> None:
    samples = bursts((2.0, 3.0), (8.0, 9.0))
    levels = vad.compute_excess(vad.compute_band_levels(samples, RATE))
    regions = vad.find_regions(levels, vad.compute_thresholds(levels), len(samples) / RATE)
    assert regions == vad.detect_speech(samples)
