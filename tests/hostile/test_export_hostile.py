"""Checkpoints and manifests that must be refused with one clear error, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from engine._distribution import install_command
from export.acoustic.families import FAMILIES
from export.acoustic.log_mel import load_log_mel
from export.acoustic.pretrained import export_pretrained
from export.acoustic.source import ExportOptions
from export.acoustic.wav2vec2 import check_supported
from export.bundle import Parts, assemble_bundle
from export.checkpoint import read_checkpoint, read_vocabulary
from export.cli import main
from export.errors import ExportError

CONFIG: dict[str, Any] = {"architectures": ["Wav2Vec2ForCTC"], "vocab_size": 3, "pad_token_id": 0}


def make_folder(tmp_path: Path, weights: str = "model.safetensors", **changes: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "a": 1, "|": 2}))
    if weights:
        (tmp_path / weights).write_bytes(b"weights")
    return tmp_path


def test_pickled_weights_are_refused_with_the_mend(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, weights="pytorch_model.bin")
    with pytest.raises(ExportError, match=r"pickle can run code.*fix: convert it .*save_pretrained"):
        export_pretrained(str(folder), tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, "architecture Wav2Vec2ForPreTraining"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "architecture Whisper"),
        ({"architectures": None}, r"architecture \(none\)"),
        ({"vocab_size": 32}, "a vocabulary of 3 tokens for a head of 32 outputs"),
        ({"pad_token_id": None}, "pad_token_id None"),
        ({"pad_token_id": 7}, "pad_token_id 7"),
    ],
)
def test_what_is_not_a_usable_ctc_checkpoint_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        read_checkpoint(make_folder(tmp_path, **changes), FAMILIES)


def test_labels_that_the_decoder_cannot_read_are_named_before_any_work(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "ein@@": 1, "|": 2}))
    with pytest.raises(ExportError, match="label 'ein@@' ends in @@"):
        export_pretrained(str(folder), tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, weights="", architectures=["BertModel"], vocab_size=9)
    with pytest.raises(ExportError) as caught:
        read_checkpoint(folder, FAMILIES)
    for part in ("no model.safetensors", "architecture BertModel", "head of 9 outputs"):
        assert part in str(caught.value)


def test_weights_that_are_not_safetensors_inside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be loaded"):
        export_pretrained(str(make_folder(tmp_path)), tmp_path / "out", ExportOptions())


@pytest.mark.parametrize("content", ["not json", "[1, 2]", ""])
def test_damaged_config_is_refused(tmp_path: Path, content: str) -> None:
    folder = make_folder(tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(ExportError, match=r"config\.json"):
        read_checkpoint(folder, FAMILIES)


def test_added_tokens_fill_the_head(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, vocab_size=5)
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": 3, "</s>": 4}))
    assert read_vocabulary(folder, {"vocab_size": 5}) == ("<pad>", "a", "|", "<s>", "</s>")


def test_vocabulary_of_several_languages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"deu": {"a": 0}}))
    with pytest.raises(ExportError, match="several languages"):
        read_vocabulary(tmp_path, {"vocab_size": 1})


def test_parts_the_graph_does_not_know_are_all_named() -> None:
    import transformers

    config = transformers.Wav2Vec2Config(add_adapter=True, hidden_act="relu")
    with pytest.raises(ExportError, match=r"hidden_act='relu', add_adapter=True"):
        check_supported(config)


def test_log_mel_folder_without_weights_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no config\.json"):
        load_log_mel(tmp_path)
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_log_mel(make_folder(tmp_path))


def test_bundle_of_nothing_or_of_damaged_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="neither"):
        assemble_bundle(tmp_path / "out", Parts(), name="x", licence="x")
    (tmp_path / "mt").mkdir()
    with pytest.raises(ExportError, match=r"translation\.json"):
        assemble_bundle(tmp_path / "out", Parts(translation=tmp_path / "mt"), name="x", licence="x")
    assert not (tmp_path / "out").exists()


def test_command_line_says_one_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log-mel", str(tmp_path / "missing"), str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("engine-export: ")
    assert "fix:" in lines[0]


def test_a_missing_extra_names_its_mend() -> None:
    code = "import sys; sys.modules['onnx'] = None; from export.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "wav2vec2", "checkpoint", "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "onnx is not installed" in done.stderr and install_command("export") in done.stderr


@pytest.mark.parametrize(
    ("architecture", "mend"),
    [
        ("WhisperForConditionalGeneration", "no CTC head; give it one with `engine-train from-whisper`"),
        ("ParakeetForTDT", "a transducer, which has no CTC head"),
        ("ParakeetForRNNT", "a transducer"),
        ("WavLMModel", "pre-trained only"),
        ("MarianMTModel", "`engine-export marian`"),
    ],
)
def test_checkpoint_for_another_command_is_refused_before_any_work_with_the_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: str, mend: str
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    make_folder(folder, architectures=[architecture])
    assert main(["ctc", str(folder), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert f"architecture {architecture}" in said
    assert mend in said.split("fix: ")[1]
    assert not (tmp_path / "out").exists()


def test_missing_tokenizer_is_refused_with_the_mend(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "vocab.json").unlink()
    with pytest.raises(ExportError, match=r"no vocab\.json and no tokenizer\.json.*fix: copy the tokenizer"):
        export_pretrained(str(folder), tmp_path / "out", ExportOptions())


def test_vocabulary_of_a_tokenizer_file_is_read(tmp_path: Path) -> None:
    """tokenizer.json as Parakeet has it, with the blank among the added tokens."""
    folder = make_folder(tmp_path)
    (folder / "vocab.json").unlink()
    added = {"id": 2, "content": "<pad>"}
    for vocabulary in ({"▁a": 0, "b": 1}, [["▁a", -1.5], ["b", -2.0]]):
        content = {"model": {"vocab": vocabulary}, "added_tokens": [added]}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        assert read_vocabulary(folder, {"vocab_size": 3}) == ("▁a", "b", "<pad>")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(ExportError, match=r"tokenizer\.json without a list of tokens"):
        read_vocabulary(folder, {"vocab_size": 3})
