"""No program writes over what it reads: the sources of a bundle, training data, a manifest, a result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.cli import main as bench
from engine.bundle.folder import open_bundle
from engine.errors import OutputError
from engine.output.targets import check_apart

CLIP = Path(__file__).resolve().parents[2] / "examples" / "audio" / "visit.flac"


def test_an_input_is_known_by_any_path(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    clip = data / "clip.wav"
    clip.write_bytes(b"sound")
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "hard.wav").hardlink_to(clip)
    check_apart([tmp_path / "out", data / "new.wav"], [clip, tmp_path / "gone"])
    for output in (clip, tmp_path / "link" / "clip.wav", tmp_path / "hard.wav", data, tmp_path / "link"):
        with pytest.raises(OutputError, match="input"):
            check_apart([output], [clip])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "test.tsv"
    path.write_text(f"path\ttext_de\n{CLIP}\tmorgen\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_figures_do_not_replace_the_data(
    manifest: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    pytest.importorskip("matplotlib")
    before = manifest.read_bytes()
    assert bench(["--data", str(manifest), option, str(manifest), "--quiet"]) == 2
    assert "also the input" in capsys.readouterr().err
    assert manifest.read_bytes() == before
    copy = str(shutil.copy(CLIP, manifest.with_name("clip.flac")))
    manifest.write_text("path\ttext_de\nclip.flac\tmorgen\n", encoding="utf-8")
    assert bench(["--data", str(manifest), option, copy, "--quiet"]) == 2
    assert Path(copy).read_bytes() == CLIP.read_bytes()


def test_a_page_does_not_replace_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    result = tmp_path / "result.json"
    result.write_text("{}")
    assert bench(["report", str(result), "--output", str(result)]) == 2
    assert "also the input" in capsys.readouterr().err and result.read_text() == "{}"


def test_a_judged_result_does_not_replace_its_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jiwer")
    baseline = Path(__file__).resolve().parents[2] / "benchmarks" / "baselines" / "de-en-base.json"
    before = baseline.read_bytes()
    assert bench(["gate", "--baseline", str(baseline), "--json", str(baseline)]) == 2
    assert "also the input" in capsys.readouterr().err and baseline.read_bytes() == before


def test_a_bundle_does_not_replace_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from export.cli import main as export

    part = Path(shutil.copytree(open_bundle(None).path, tmp_path / "part"))
    before = {path.name: path.stat().st_mtime_ns for path in part.iterdir()}
    options = ["--name", "x", "--licence", "mit"]
    assert export(["bundle", str(part), "--acoustic", str(part), *options]) == 1
    assert "also the input" in capsys.readouterr().err
    model = str(part / "language_model.bin")
    acoustic = str(open_bundle(None).path)
    assert export(["bundle", str(part), "--acoustic", acoustic, "--language-model", model, *options]) == 1
    assert "holds the input" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in part.iterdir()} == before


def test_a_training_run_does_not_replace_its_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from training.cli import main as train

    data = tmp_path / "run" / "overfit"  # this folder is made anew
    data.mkdir(parents=True)
    shutil.copy(CLIP, data / "clip.flac")
    (data / "train.tsv").write_text("path\ttext_de\nclip.flac\tmorgen\n", encoding="utf-8")
    config = {
        "train": [str(data / "train.tsv")],
        "output_dir": str(tmp_path / "run"),
        "scratch": {"hidden_size": 16},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert train(["asr", "--config", str(tmp_path / "config.yaml"), "--overfit", "1"]) == 1
    assert "holds the input" in caplog.text
    assert (data / "clip.flac").is_file()


@pytest.mark.parametrize("command", ["synthesize", "punctuation", "language-model"])
def test_a_text_is_not_replaced_by_what_is_made_of_it(
    tmp_path: Path, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from training.cli import main as train

    name, arguments = {
        "synthesize": ("train.tsv", ["--output_dir", str(tmp_path), "--text"]),
        "punctuation": ("config.json", ["--out", str(tmp_path)]),
        "language-model": ("card.json", ["--out", str(tmp_path)]),
    }[command]
    text = tmp_path / name
    content = "Guten Tag, wie geht es Ihnen?\n" * 30
    text.write_text(content, encoding="utf-8")
    assert train([command, *arguments, str(text)]) == 1
    assert "also the input" in caplog.text
    assert text.read_text(encoding="utf-8") == content
