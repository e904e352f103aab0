"""The command line's plan for its output files, and its parser."""

from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.files import plan_outputs
from engine.cli.parser import build_parser
from engine.cli.text import read_lines
from engine.errors import OptionError, OutputError, TextFileError


def test_outputs_take_the_stem_and_the_suffix_and_keep_folders(tmp_path: Path) -> None:
    plan = plan_outputs(["x.mp3", "b/y.wav"], str(tmp_path / "out"), "srt")
    assert plan == [(tmp_path / "out" / "x.srt",), (tmp_path / "out" / "b" / "y.srt",)]
    assert (tmp_path / "out").is_dir()


def test_all_formats_without_a_format(tmp_path: Path) -> None:
    suffixes = [path.suffix for path in plan_outputs(["x.mp3"], str(tmp_path), None)[0]]
    assert suffixes == [".txt", ".json", ".srt", ".vtt", ".tsv"]


def test_inputs_that_share_a_stem_keep_their_whole_name(tmp_path: Path) -> None:
    plan = plan_outputs(["x.mp3", "x.wav", "a/x.wav"], str(tmp_path), "txt")
    assert [str(path.relative_to(tmp_path)) for (path,) in plan] == ["x.mp3.txt", "x.wav.txt", "a/x.txt"]


def test_inputs_whose_outputs_would_overwrite_each_other_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="share"):
        plan_outputs(["x.wav", "x.wav"], str(tmp_path), "txt")


def test_an_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        plan_outputs(["x.wav"], str(tmp_path / "file" / "sub"), "txt")


def test_all_formats_need_a_folder() -> None:
    with pytest.raises(OptionError, match="output_dir"):
        plan_outputs(["x.wav"], None, "all")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["transcribe"],
        ["dance"],
        ["transcribe", "x.wav", "--beam_size", "0"],
        ["transcribe", "x.wav", "--threads", "-1"],
        ["transcribe", "x.wav", "--device", "tpu"],
        ["transcribe", "x.wav", "--vad_filter", "perhaps"],
        ["transcribe", "x.wav", "--text_file", "t"],
        ["stream", "--chunk_s", "nan"],
        ["stream", "--chunk_s", "-1"],
        ["stream", "--chunk_s", "1e9"],
        ["serve", "--port", "65536"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_missing_model_is_one_line_and_exit_code_one(capsys) -> None:
    assert main(["info", "/nowhere/model"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("engine: error: ") and error.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_texts_with_windows_line_ends_and_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("eins\r\nzwei\u2028drei\x85\n\nvier".encode(encoding))
    assert read_lines(str(path)) == ["eins", "zwei\u2028drei\x85", "", "vier"]
    path.write_bytes(b"")
    assert read_lines(str(path)) == []


@pytest.mark.parametrize("source", ["file", "stdin"])
@pytest.mark.parametrize(
    ("content", "line"),
    [("Gut.\nDas ist schön.\n".encode("latin-1"), 2), ("Gut.".encode("utf-16-le"), 1), (b"\xff\xfeG", 1)],
    ids=["latin-1", "no byte order mark", "cut off"],
)
def test_a_text_in_another_encoding_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, content: bytes, line: int
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    with path.open(encoding="utf-8") as stream, pytest.raises(TextFileError) as caught:
        monkeypatch.setattr("sys.stdin", stream)
        read_lines(str(path) if source == "file" else "-")
    assert f"{path if source == 'file' else 'standard input'}:{line}: " in str(caught.value)
    assert "UTF-8" in caught.value.want and caught.value.fix


def test_a_text_file_that_is_missing() -> None:
    with pytest.raises(TextFileError, match="nowhere"):
        read_lines("/nowhere/in.txt")


def test_a_wrong_number_is_told_in_words_of_the_user(capsys) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["transcribe", "x.wav", "--threads", "many"])
    assert "'many'; expected a whole number, 0 or more" in capsys.readouterr().err
