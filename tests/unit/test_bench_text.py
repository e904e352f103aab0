"""engine-bench text: the translator on text alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.errors import BenchmarkError, ManifestError
from benchmarks.studies.text import read_pairs
from benchmarks.studies.text_against import open_other
from engine.bundle.folder import open_bundle
from engine.errors import TextFileError

LINES = (
    "a\tDas Wetter ist heute schön.\tThe weather is nice today.",
    "b\tKommst du morgen?\tAre you coming tomorrow?",
    "c\tWir haben 3 Hunde.\tWe have three dogs.",
)


def test_every_kind_of_german_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sacrebleu")
    data, out = tmp_path / "small.tsv", tmp_path / "out.json"
    data.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    assert main(["text", str(data), "--quiet", "--threads", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    kinds = {(row["source"], row["beam_size"]) for row in result["rows"]}
    assert kinds == {(source, beam) for source in ("written", "recogniser", "restored") for beam in (1, 4)}
    assert all(row["sentences"] == 3 and 0 <= row["bleu"] <= 100 for row in result["rows"])
    assert result["command"].startswith("engine-bench") and result["commit"] and result["signature"]
    assert "restored" in capsys.readouterr().out


def side_by_side(tmp_path: Path, against: Path) -> dict[str, Any]:
    data, out = tmp_path / "small.tsv", tmp_path / "out.json"
    data.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    command = ["text", str(data), "--quiet", "--threads", "1", "--json", str(out), "--against", str(against)]
    assert main(command) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_beside_a_bundle_and_it_is_its_own_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sacrebleu")
    result = side_by_side(tmp_path, Path(str(open_bundle(None).source)))
    assert result["against"] in result["signature"]
    assert [row["system"] for row in result["rows"]] == ["engine", "against"] * 3
    for ours, theirs in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        assert theirs.pop("bleu_difference") == [0.0, 0.0, 0.0]
        assert ours.pop("cpu_ms") > 0 and theirs.pop("cpu_ms") > 0
        assert {**ours, "system": "against"} == theirs and ours["beam_size"] == 4
    assert "+0.00 [+0.00, +0.00]" in capsys.readouterr().out


def test_beside_a_marian_checkpoint(tmp_path: Path) -> None:
    for package in ("sacrebleu", "transformers", "torch"):
        pytest.importorskip(package)
    from tests.reference.tiny_marian import checkpoint

    result = side_by_side(tmp_path, checkpoint("swish", seed=5))
    ours, theirs = result["rows"][:2]
    assert result["against"].startswith("name:marian|") and "transformers:" in result["against"]
    assert theirs["sentences"] == 3 and theirs["bleu"] < ours["bleu"]
    value, low, high = theirs["bleu_difference"]
    assert low <= value <= high and value == pytest.approx(theirs["bleu"] - ours["bleu"], abs=0.02)


def test_beside_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"manifest\.json nor config\.json"):
        open_other(tmp_path, 1, sys.executable)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("a\tb\tc\na\tnur deutsch\n", "bad.tsv:2: not"),
        ("a\t \tenglish\n", "bad.tsv:1: not"),
    ],
)
def test_a_file_of_another_form_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_pairs(path)
    with pytest.raises(TextFileError, match="no such file"):
        read_pairs(tmp_path / "missing.tsv")
