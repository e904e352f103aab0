"""The speech peers, each really started, on random models: they load, answer and agree."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_fake import FakeTranslator, write_data

import engine
from benchmarks.cli import main
from benchmarks.errors import PeerError, PeerRunError
from benchmarks.measures.systems import PEERS, PeerSystem

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "reference"))
VISIT = ROOT / "examples" / "audio" / "visit.flac"
SUNDAY = ROOT / "examples" / "audio" / "sunday.flac"  # longer than Whisper's window


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_speech_models import save_wav2vec2

    return save_wav2vec2(tmp_path_factory.mktemp("models") / "wav2vec2")


@pytest.fixture(scope="module")
def graph(checkpoint: Path) -> Path:
    """The same model as torch's own exporter writes it, with its vocabulary beside it."""
    from transformers import Wav2Vec2ForCTC

    from benchmarks.peers.encoder_models import export_plain

    folder = checkpoint.parent / "onnx"
    folder.mkdir()
    model = Wav2Vec2ForCTC.from_pretrained(checkpoint, attn_implementation="eager").eval()
    export_plain(model, folder / "w2v.onnx")
    (folder / "vocab.json").write_text((checkpoint / "vocab.json").read_text())
    return folder


def start(name: str, *arguments: str, **options: Any) -> PeerSystem:
    return PeerSystem(name, arguments=arguments, threads=1, **options)


def test_onnxruntime_and_transformers_read_the_same_from_one_model(checkpoint: Path, graph: Path) -> None:
    texts = {}
    for name, model in (("transformers_ctc", checkpoint), ("onnxruntime_ctc", graph)):
        peer = start(name, "--model", str(model))
        outcome = peer.run(VISIT, "transcribe")
        assert outcome.span is not None
        assert outcome.span.cpu_s > 0
        assert outcome.audio_s == pytest.approx(4.336)
        assert set(outcome.stages_s) == {"audio", "features", "encoder", "decode"}
        assert peer.peak_rss_mb is not None
        assert f"name:{name}|model:{'wav2vec2' if model is checkpoint else 'w2v.onnx'}@" in peer.signature
        assert peer.tasks == ("transcribe",)
        with pytest.raises(PeerRunError, match="Error opening"):
            peer.run(VISIT.parent / "none.flac", "transcribe")
        assert peer.run(VISIT, "transcribe").text_de == outcome.text_de  # an error ended nothing
        peer.close()
        texts[name] = outcome.text_de
    assert texts["transformers_ctc"]
    assert texts["transformers_ctc"] == texts["onnxruntime_ctc"]


def test_bfloat16_is_named_and_runs(checkpoint: Path) -> None:
    peer = start("transformers_ctc", "--model", str(checkpoint), "--dtype", "bf16")
    assert "|dtype:bf16|attention:sdpa|" in peer.signature
    assert peer.run(VISIT, "transcribe").text_de
    peer.close()


def test_whisper_transcribes_and_translates_short_and_long(tmp_path: Path) -> None:
    from tiny_speech_models import save_whisper

    peer = start("whisper", "--model", str(save_whisper(tmp_path / "whisper")))
    assert peer.tasks == ("transcribe", "translate")
    short, long = peer.run(VISIT, "transcribe"), peer.run(SUNDAY, "translate")
    assert short.text_en is None
    assert set(short.stages_s) == {"audio", "features", "encoder", "decode"}
    assert long.text_en is not None
    assert {"decode", "translate"} <= set(long.stages_s)
    peer.close()


def test_a_peer_from_the_command_line_to_the_table(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, answers = write_data(tmp_path, 2)
    monkeypatch.setattr(engine, "load", lambda *a, **k: FakeTranslator(answers), raising=False)
    out = tmp_path / "out.json"
    arguments = [
        "--data", str(manifest), "--against", "onnxruntime_ctc", "--peer_args", f"--model {graph}",
        "--threads", "1", "--quiet", "--json", str(out),
    ]  # fmt: skip
    assert main([*arguments, "--task", "transcribe"]) == 0
    comparison = json.loads(out.read_text())["comparison"]
    assert comparison["n_shared"] == 2
    assert comparison["peak_rss_mb"] > 10
    assert comparison["first_result_s"] > 0
    assert "against name:onnxruntime_ctc | model:w2v.onnx@" in capsys.readouterr().out
    assert main([*arguments, "--task", "translate"]) == 2
    assert "onnxruntime_ctc cannot translate; fix: add --task transcribe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "nowhere"], "onnxruntime_ctc did not load: FileNotFoundError: nowhere holds no .onnx"),
        (["--model", "nowhere", "--provider"], "ended with exit code 2"),
    ],
)
def test_a_peer_that_does_not_load_says_why(arguments: list[str], expected: str) -> None:
    with pytest.raises(PeerError, match=expected):
        start("onnxruntime_ctc", *arguments)


def test_a_peer_never_looks_for_a_model_on_the_hub(tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text("import os, sys\nsys.exit('offline ' + os.environ['HF_HUB_OFFLINE'])\n")
    with pytest.raises(PeerError, match="offline 1"):
        PeerSystem(str(script), threads=1)


def test_a_peer_of_another_kind_is_refused() -> None:
    script = ROOT / "benchmarks" / "peers" / "encoders" / "onnxruntime_encoder.py"
    with pytest.raises(PeerError, match="kind 'encoder'; expected a peer of kind 'speech'"):
        PeerSystem(str(script), arguments=["--model", "a", "b.onnx"])


def test_an_interpreter_that_is_not_there_is_one_line() -> None:
    with pytest.raises(PeerError, match="/no/such/python cannot be started"):
        start("whisper", python="/no/such/python")


def test_an_unknown_peer_lists_those_there_are() -> None:
    with pytest.raises(PeerError) as caught:
        start("nobody")
    names = {path.stem for path in PEERS.glob("*.py")} - {"_audio"}
    assert {"transformers_ctc", "onnxruntime_ctc", "whisper", "ctranslate2_whisper"} <= names
    assert all(name in str(caught.value) for name in names)
    assert "_audio" not in str(caught.value)
