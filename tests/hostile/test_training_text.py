"""`training language-model` on bad texts and options: one line, an exit code, no traceback, no model."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest
import zstandard

from engine.errors import OptionError
from training.cli import EXIT_FAILED, main
from training.common.text_files import TextFileError, read_text
from training.lm.language_model import add_arguments, check_options

SENTENCES = "das ist ein haus\nwir gehen heute\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(SENTENCES, encoding="utf-8")
    return path


def bad_text(folder: Path, kind: str) -> Path:
    """A text with one fault."""
    path = folder / ("bad.zst" if kind in ("not zst", "cut zst") else "bad.txt")
    packed = zstandard.ZstdCompressor().compress(SENTENCES.encode() * 5000)
    content = {
        "not zst": b"plain", "cut zst": packed[: len(packed) // 2], "latin-1": "schön\n".encode("latin-1"),
        "empty": b"", "no words": b"...\n\n 12,\n"[:4],
    }  # fmt: skip
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["not zst", "cut zst", "latin-1", "empty", "no words", "folder", "missing"])
def test_a_bad_text_is_one_line_and_an_exit_code(
    tmp_path: Path, text: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = bad_text(tmp_path, kind)
    with caplog.at_level(logging.ERROR, "training"):
        code = main(["language-model", str(text), str(bad), "--out", str(tmp_path / "lm")])
    assert code == EXIT_FAILED
    (record,) = caplog.records
    assert str(bad) in record.getMessage()
    assert "\n" not in record.getMessage()
    assert not (tmp_path / "lm" / "lm.bin").exists()


def test_plain_and_packed_text_are_the_same_lines(tmp_path: Path, text: Path) -> None:
    packed = tmp_path / "text.zst"
    packed.write_bytes(zstandard.ZstdCompressor().compress(text.read_bytes()))
    assert list(read_text(packed)) == list(read_text(text)) == SENTENCES.splitlines()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_end_at_line_feeds_alone(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = "ein\u2028Satz\x85\r\n\nnoch einer".encode(encoding)
    path = tmp_path / ("text.zst" if packed else "text.txt")
    path.write_bytes(zstandard.ZstdCompressor().compress(content) if packed else content)
    assert list(read_text(path)) == ["ein\u2028Satz\x85", "", "noch einer"]


@pytest.mark.parametrize("packed", [False, True])
def test_text_in_another_encoding_is_named_with_its_line(tmp_path: Path, packed: bool) -> None:
    content = b"gut\n\nsch\xf6n\n"
    path = tmp_path / ("text.zst" if packed else "text.txt")
    path.write_bytes(zstandard.ZstdCompressor().compress(content) if packed else content)
    with pytest.raises(TextFileError, match=rf"{path.name}:3: not UTF-8 text \(byte 0xf6\).*iconv"):
        list(read_text(path))


@pytest.mark.parametrize("kind", ["not zst", "cut zst", "latin-1", "folder", "missing"])
def test_what_is_no_text_says_what_and_how_to_mend_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TextFileError) as caught:
        list(read_text(bad_text(tmp_path, kind)))
    assert caught.value.want
    assert caught.value.fix


@pytest.mark.parametrize(
    "arguments",
    [
        ["--order", "7"], ["--order", "1"], ["--prune", "0 -1"], ["--prune", "2 1"], ["--prune", "0 1 1 1"],
        ["--prune", "x"], ["--vocabulary", "0"], ["--bits", "26"], ["--bits", "-1"], ["--memory", "lots"],
        ["--weights", "1"], ["--weights", "a,b"], ["--weights", "0,0"], ["--weights", "tuned"],
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, text: Path, arguments: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "lm"
    with caplog.at_level(logging.ERROR, "training"):
        code = main(["language-model", str(text), str(text), "--out", str(out), *arguments])
    assert code == EXIT_FAILED
    assert arguments[0] in caplog.text or "weights for 2 texts" in caplog.text
    assert not out.exists()


def test_the_usual_options_pass(text: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for order in range(2, 7):
        given = ["--order", str(order), "--prune", "0 1", "--memory", "50%"]
        check_options(parser.parse_args([str(text), "--out", str(tmp_path), *given]))
    options = parser.parse_args([str(text), "--out", str(tmp_path), "--order", "3", "--prune", "0 0 0 0"])
    with pytest.raises(OptionError, match="at most 3 counts"):
        check_options(options)


def test_interrupted_is_said_with_its_exit_code(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.lm.language_model.choose_vocabulary", interrupt)
    assert main(["language-model", str(text), "--out", str(tmp_path / "lm")]) == 130
    assert "interrupted" in capsys.readouterr().err
