"""The encoder comparison end to end with a small worker: figures, errors, peers that are missing or die."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.errors import PeerError
from benchmarks.peers import encoder, encoder_models, encoder_report
from benchmarks.peers.encoder_systems import FOLDER, LocalSystem, Peer, Worker, WorkerSystem, start_peers
from benchmarks.peers.encoder_worker import level

WORKER = f"""
import os, sys, time
sys.path.insert(0, {str(FOLDER)!r})
from encoder_worker import serve

def double(values):
    print("a library talks on standard output")
    os.write(1, b"a native one too")
    return values[:, ::320, None] * 2

def busy(values):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass

def dies(values):
    print("out of luck", file=sys.stderr)
    os._exit(3)

def hangs(values):
    time.sleep(60)

def load():
    if "--absent" in sys.argv:
        import no_such_package
    systems = {{"double": double, "exact": lambda v: double(v) / 2, "busy": busy, "dies": dies,
               "hangs": hangs, "short": lambda v: v[:, :5, None], "raises": lambda v: 1 / 0}}
    only = sys.argv[sys.argv.index("--only") + 1:] if "--only" in sys.argv else systems
    return {{name: systems[name] for name in only}}, "fake:1"

serve(load)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "fake_encoder.py"
    path.write_text(WORKER, encoding="utf-8")
    return path


@pytest.fixture
def values(tmp_path: Path) -> Path:
    path = tmp_path / "values.npy"
    np.save(path, np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32))
    return path


def test_systems_take_turns_and_a_dead_worker_costs_only_its_own(script: Path, values: Path) -> None:
    python = sys.executable
    peers = {
        "good": Peer(str(script), (), python),
        "absent": Peer(str(script), ("--absent",), python),
        "nowhere": Peer(str(script), (), "/no/such/python"),
    }
    systems, workers, left_out = start_peers(peers)
    second = Worker(script, python, [])
    expected = np.load(values)[:, ::320, None]
    chosen = {
        "ours": LocalSystem(lambda v: v[:, ::320, None]),
        **{name: systems[name] for name in ("double", "exact", "busy", "short", "raises")},
        "dies": WorkerSystem(second, "dies"),
    }
    lost: dict[str, str] = {}
    try:
        found = encoder_report.measure(chosen, values, expected, 3, lost)
    finally:
        for worker in [*workers, second]:
            worker.close()
    assert set(found) == {"ours", "double", "exact", "busy"}
    assert found["ours"]["error"] == found["exact"]["error"] == 0
    assert found["double"]["error"] == pytest.approx(1)
    assert found["busy"]["error"] is None
    assert all(len(row["cpu_s"]) == 3 for row in found.values())
    assert min(found["busy"]["cpu_s"]) >= 0.05
    assert found["busy"]["rtfx_cpu"] == pytest.approx(2 / np.median(found["busy"]["cpu_s"]), rel=1e-2)
    assert "exit code 3 (out of luck)" in lost["dies"]
    assert "ZeroDivisionError" in lost["raises"] and "not the same model" in lost["short"]
    assert "no_such_package" in left_out["absent"] and "cannot be started" in left_out["nowhere"]
    assert all("\n" not in reason for reason in [*lost.values(), *left_out.values()])


def test_a_worker_that_stops_answering_is_given_up(script: Path, values: Path) -> None:
    worker = Worker(script, sys.executable, [])
    worker.timeout_s = 0.3
    try:
        with pytest.raises(PeerError, match=r"no answer in 0\.3 s"):
            WorkerSystem(worker, "hangs").call(values)
        with pytest.raises(PeerError, match=r"no answer in 0\.3 s"):
            WorkerSystem(worker, "double").call(values)
    finally:
        worker.close()


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


def test_the_measured_speech_is_not_the_calibrated() -> None:
    measured = encoder_models.load_speech(None, measured=True)
    calibrated = encoder_models.load_speech(None, measured=False)
    wave = encoder_models.cut(measured, 2, 1.0)
    assert wave.shape == (2, 16_000) and np.allclose(wave.mean(1), 0, atol=1e-4)
    assert np.allclose(wave.std(1), 1, atol=1e-3)
    assert all(clip.shape == (80_000,) for clip in encoder_models.calibration_set(calibrated))
    assert np.abs(np.corrcoef(measured[:80_000], calibrated[:80_000])[0, 1]) < 0.2


def test_only_the_named_systems_are_measured() -> None:
    systems = {name: LocalSystem(np.negative) for name in ("ours", "peer", "other")}
    assert list(encoder.choose(systems, ["other", "ours"])) == ["ours", "other"]
    assert encoder.choose(systems, None) == systems
    with pytest.raises(PeerError, match="no system is called nobody; there are ours, peer, other"):
        encoder.choose(systems, ["ours", "nobody"])


@pytest.mark.parametrize("arguments", [["--peer_python", "nobody=/x"], ["--rounds", "0"], ["--prepare"]])
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        encoder.parse(arguments)


def test_the_command_writes_a_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("onnx")
    tiny = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(tiny).eval()
    graph = tmp_path / "graph"
    monkeypatch.setattr(encoder, "pin", lambda core: 0)
    monkeypatch.setattr(encoder_models, "load_model", lambda *given: model)
    monkeypatch.setattr(encoder_models, "prepare_graphs", lambda *given: dict.fromkeys(
        ("checkpoint", "plain", "dynamic", "static", "static_matmul"), graph))  # fmt: skip
    monkeypatch.setattr(
        encoder,
        "roster",
        lambda *given: {
            "fake": Peer(str(script), ("--only", "busy", "double")),
            "weak": Peer(str(script), ("--only", "dies", "busy two")),
            "frail": Peer(str(script), ("--only", "dies", "hangs")),
        },
    )
    out = tmp_path / "out.json"
    assert encoder.main(["--cases", "5 s", "--rounds", "1", "--peers", "openvino", "--json", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert {"ours fp32", "ours int8", "busy"} <= set(report["cases"]["5 s"])
    assert report["cases"]["5 s"]["ours fp32"]["error"] < 1e-4
    assert report["peers"] == 2 * [f"fake:1,{level()}"]
    assert "not the same model" in report["left_out"]["double"]
    assert "exit code 3" in report["left_out"]["dies, hangs"]
    assert "busy two" in report["left_out"]["weak"]
    assert all(part in report["signature"] for part in ("cpu:", "commit:", level()))
    assert "left out:" in capsys.readouterr().out


def test_the_peers_graphs_are_made_once_and_agree_with_the_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from export.acoustic.wav2vec2 import run_torch

    tiny = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(tiny).eval()
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
