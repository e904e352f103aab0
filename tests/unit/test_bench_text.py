"""engine-bench text: the translator on text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.errors import ManifestError
from benchmarks.studies.text import read_pairs
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
