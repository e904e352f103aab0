"""The encoder comparison end to end with a small worker: figures, errors, peers that are missing or die."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import encoder, encoder_memory, encoder_models, encoder_report, our_encoder
from benchmarks.protocol.driver import Driver, LocalSystem, Roster
from benchmarks.protocol.worker.peer_worker import level

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
WORKER = """
import os, sys, time
from peer_worker import Loaded, Peer, serve

def double(values):
    print("a library talks on standard output")
    os.write(1, b"a native one too")
    return values[:, ::320, None] * 2

def busy(inputs):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    return {"tokens": [0] * len(inputs["values"])}

def dies(inputs):
    print("out of luck", file=sys.stderr)
    os._exit(3)

def logits(run):
    return lambda inputs: {"logits": run(inputs["values"])}

SYSTEMS = {"far": logits(double), "exact": logits(lambda v: double(v) / 2), "busy": busy, "dies": dies,
           "near": logits(lambda v: double(v) * 0.55), "short": logits(lambda v: v[:, :5, None]),
           "nan": logits(lambda v: double(v) * float("nan")), "nothing": lambda inputs: {},
           "raises": lambda inputs: 1 / 0}

def configure(parser):
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--absent", action="store_true")

def load(options):
    if options.absent:
        import no_such_package
    return Loaded({name: SYSTEMS[name] for name in options.only}, {"model": "m@1"})

serve(Peer("fake", "encoder", "fake 1", configure, lambda options: options.only, load))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "fake_encoder.py"
    path.write_text(WORKER, encoding="utf-8")
    return path


def roster(script: Path, *arguments: str, python: str = sys.executable) -> Roster:
    return Roster(script, arguments, python)


def test_systems_take_turns_and_a_dead_peer_costs_only_its_own(script: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32)
    expected = values[:, ::320, None]
    right = ("exact", "near", "busy")
    wrong = ("far", "short", "nan", "nothing", "raises")
    with Driver({"ours": LocalSystem(lambda inputs: {"logits": inputs["values"][:, ::320, None]})}) as driver:
        driver.start(
            {
                "good": roster(script, "--only", *right, *wrong),
                "frail": roster(script, "--only", "dies"),
                "absent": roster(script, "--absent"),
                "nowhere": roster(script, python="/no/such/python"),
            }
        )
        found = encoder_report.measure(driver, values, expected, 3)
        assert len(driver.signatures()) == 2
        assert driver.signatures()[0].startswith("name:fake|model:m@1|threads:1|level:")
    assert set(found) == {"ours", *right}
    assert found["ours"]["error"] == found["exact"]["error"] == 0
    assert found["near"]["error"] == pytest.approx(0.1, rel=1e-3)
    assert found["busy"]["error"] is None
    assert all(len(row["cpu_s"]) == 3 for row in found.values())
    assert min(found["busy"]["cpu_s"]) >= 0.05
    assert found["busy"]["rtfx_cpu"] == pytest.approx(2 / np.median(found["busy"]["cpu_s"]), rel=1e-2)
    lost = driver.lost
    assert set(lost) == {"dies", *wrong}
    assert "exit code 3 (out of luck)" in lost["dies"]
    assert "ZeroDivisionError" in lost["raises"] and "not the same model" in lost["short"]
    assert "relative error of 1" in lost["far"] and "not finite" in lost["nan"]
    left_out = driver.left_out
    assert "no_such_package" in left_out["absent"] and "cannot be started" in left_out["nowhere"]
    assert all("\n" not in reason for reason in [*lost.values(), *left_out.values()])


def test_ratios_are_geometric_means_over_the_cases_that_all_have() -> None:
    def row(rate: float) -> dict[str, float]:
        return {"rtfx_cpu": rate}

    cases = {
        "5 s": {"ours a": row(20), "peer": row(5), "gone": row(1)},
        "15 s": {"ours a": row(10), "peer": row(10)},
    }
    assert encoder_report.ratios(cases) == {"ours a": {"ours a": 1.0, "peer": 2.0}}
    assert encoder_report.ratios({}) == {}


def test_cases_are_kept_only_under_an_equal_signature() -> None:
    def report(signature: str, case: str) -> dict:
        row = {"rtfx_cpu": 2.0, "rtfx_wall": 2.0, "error": 0.0}
        cases = {case: {"ours": row}}
        return {"signature": signature, "cases": cases, "ratios": {}, "peers": ["p:1"], "left_out": {}}

    merged = encoder_report.merge(report("a", "15 s"), report("a", "5 s"))
    assert list(merged["cases"]) == ["5 s", "15 s"] and merged["ratios"] == {"ours": {"ours": 1.0}}
    assert list(encoder_report.merge(report("a", "15 s"), report("b", "5 s"))["cases"]) == ["15 s"]
    assert "15 s" in encoder_report.render(merged)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("encoder_*.json")), ids=lambda path: path.stem)
def test_committed_results_are_still_read(path: Path) -> None:
    committed = json.loads(path.read_text(encoding="utf-8"))
    case, systems = next(iter(committed["cases"].items()))
    text = encoder_report.render(committed)
    assert case in text and all(name in text for name in systems)
    newer = {**committed, "cases": {"another": systems}, "runs": [], "left_out": {}}
    assert list(encoder_report.merge(newer, committed)["cases"]) == [*committed["cases"], "another"]


def test_the_measured_speech_is_not_the_calibrated() -> None:
    measured = encoder_models.load_speech(None, measured=True)
    calibrated = encoder_models.load_speech(None, measured=False)
    wave = encoder_models.cut(measured, 2, 1.0)
    assert wave.shape == (2, 16_000) and np.allclose(wave.mean(1), 0, atol=1e-4)
    assert np.allclose(wave.std(1), 1, atol=1e-3)
    assert all(clip.shape == (80_000,) for clip in encoder_models.calibration_set(calibrated))
    assert np.abs(np.corrcoef(measured[:80_000], calibrated[:80_000])[0, 1]) < 0.2


@pytest.mark.parametrize("arguments", [["--peer_python", "nobody=/x"], ["--rounds", "0"], ["--prepare"]])
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        encoder.parse(arguments)


def test_the_command_writes_a_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("onnx")
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**TINY)).eval()
    graph = tmp_path / "graph"
    monkeypatch.setattr(encoder, "pin", lambda core: 0)
    monkeypatch.setattr(encoder_models, "load_model", lambda *given: model)
    monkeypatch.setattr(encoder_models, "prepare_graphs", lambda *given: dict.fromkeys(
        ("checkpoint", "plain", "dynamic", "static", "static_matmul"), graph))  # fmt: skip
    monkeypatch.setattr(
        encoder,
        "roster",
        lambda *given: {
            "fake": roster(script, "--only", "busy", "short"),
            "weak": roster(script, "--only", "dies", "busy two"),
            "frail": roster(script, "--only", "dies", "raises"),
        },
    )
    out = tmp_path / "out.json"
    assert encoder.main(["--cases", "5 s", "--rounds", "1", "--peers", "openvino", "--json", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {"ours fp32", "ours int8", "busy"} <= set(report["cases"]["5 s"])
    assert report["cases"]["5 s"]["ours fp32"]["error"] < 1e-4
    assert all(f"|level:{level()}|" in peer and peer.endswith("|version:fake 1") for peer in report["peers"])
    assert len(report["peers"]) == 2
    assert "not the same model" in report["left_out"]["short"]
    assert "exit code 3" in report["left_out"]["dies, raises"]
    assert "busy two" in report["left_out"]["weak"]
    assert all(part in report["signature"] for part in ("cpu:", "commit:", f"level:{level()}"))
    assert "left out:" in capsys.readouterr().out


def test_the_peers_graphs_are_made_once_and_agree_with_the_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from export.acoustic.wav2vec2 import run_torch

    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**TINY)).eval()
    noise = np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32)
    files = encoder_models.prepare_graphs(model, list(noise), tmp_path)
    times = {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert encoder_models.prepare_graphs(model, list(noise), tmp_path) == files
    assert times == {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert (files["checkpoint"] / "model.safetensors").exists()
    expected = run_torch(model, noise)
    for name, tolerance in {"plain": 1e-4, "dynamic": 0.2, "static": 0.6, "static_matmul": 0.2}.items():
        session = onnxruntime.InferenceSession(str(files[name]), providers=["CPUExecutionProvider"])
        found = session.run(None, {"input_values": noise})[0]
        assert encoder_report.relative_error(found, expected) < tolerance, name
    kept = sorted(path.name for path in files["plain"].parent.iterdir())
    assert kept == ["checkpoint", "dynamic.onnx", "plain.onnx", "static.onnx", "static_matmul.onnx"]


def test_the_graphs_of_a_model_beyond_one_file_agree_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    onnxruntime = pytest.importorskip("onnxruntime")
    from export.acoustic.wav2vec2 import run_torch

    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**TINY)).eval()
    noise = np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32)
    monkeypatch.setattr(encoder_models, "ONE_FILE", 1000)
    files = encoder_models.prepare_graphs(model, list(noise), tmp_path, encoder_models.FILES[1:])
    assert files["plain"].with_name("plain.onnx.data").stat().st_size > 1000
    expected = run_torch(model, noise)
    for name, tolerance in {"plain": 1e-4, "dynamic": 0.2, "static": 0.6, "static_matmul": 0.2}.items():
        session = onnxruntime.InferenceSession(str(files[name]), providers=["CPUExecutionProvider"])
        found = session.run(None, {"input_values": noise})[0]
        assert encoder_report.relative_error(found, expected) < tolerance, name
    graphs = ["dynamic.onnx", "plain.onnx", "static.onnx", "static_matmul.onnx"]
    kept = sorted(path.name for path in files["plain"].parent.iterdir())
    assert kept == sorted([*graphs, *(f"{name}.data" for name in graphs)])
    ours = our_encoder.write_graphs(model, list(noise), tmp_path / "ours")
    assert sorted(ours) == ["ours int8", "ours int8 by onnxruntime"]
    runs = our_encoder.open_systems(ours)
    assert encoder_report.relative_error(runs["ours int8"]({"values": noise})["logits"], expected) < 0.3


def test_memory_is_that_of_a_process_for_each_system(tmp_path: Path, script: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    noise = np.random.default_rng(0).standard_normal((1, 16_000)).astype(np.float32)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**TINY)).eval()
    files = our_encoder.write_graphs(model, list(noise), tmp_path / "ours", ["ours int8", "a peer"])
    assert list(files) == ["ours int8"] and [path.name for path in (tmp_path / "ours").iterdir()] == [
        "int8.onnx"
    ]
    peers = {
        "ours int8": Roster(encoder.OWN, ("--model", "ours int8", str(files["ours int8"])), sys.executable),
        "fake": roster(script, "--only", "exact", "busy"),
        "frail": roster(script, "--only", "dies"),
        "absent": roster(script, "--absent"),
    }
    found = encoder_memory.measure_memory(peers, noise, ["ours int8", "exact", "dies"])
    assert set(found) == {"ours int8", "exact", "frail", "absent"}
    assert 10 < float(found["exact"]) < float(found["ours int8"])
    assert "out of luck" in str(found["frail"]) and "no_such_package" in str(found["absent"])


def test_a_peer_of_several_graphs_gets_a_process_for_each(script: Path) -> None:
    several = roster(script, "--vocab_size", "9", "--model", "a", "a.onnx", "--model", "b", "b.onnx")
    found = encoder_memory.alone({"sherpa": several, "whole": roster(script, "--checkpoint", "c")})
    assert {name: each.arguments for name, each in found.items()} == {
        "a": ("--vocab_size", "9", "--model", "a", "a.onnx"),
        "b": ("--vocab_size", "9", "--model", "b", "b.onnx"),
        "whole": ("--checkpoint", "c"),
    }


def test_only_the_graphs_of_chosen_systems_are_made_and_loaded(tmp_path: Path) -> None:
    chosen = ["ours int8", "onnxruntime dynamic int8", "openvino int8 MatMul, f32"]
    options = encoder.parse(["--systems", *chosen])
    assert encoder.needed(options) == {"checkpoint", "plain", "dynamic", "static_matmul"}
    files = {name: tmp_path / name for name in encoder_models.FILES}
    peers = encoder.roster(options, files, 9)
    assert set(peers) == {"transformers", "onnxruntime", "openvino", "ctranslate2"}  # sherpa has no row
    assert peers["openvino"].arguments == (
        "--model", "openvino int8 MatMul, bf16", str(files["static_matmul"]), "bf16",
    )  # fmt: skip
    assert encoder.needed(encoder.parse(["--peers"])) == set()
