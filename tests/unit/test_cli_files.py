"""The command line's plan for its output files, and its parser."""

import os
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.outputs import plan_outputs
from engine.cli.parser import build_parser
from engine.cli.text import read_lines
from engine.errors import OptionError, OutputError, TextFileError
from engine.output.formats import write_text


def test_outputs_take_the_stem_and_the_suffix(tmp_path: Path) -> None:
    plan = plan_outputs(["a/x.mp3", "b/y.wav"], str(tmp_path / "out"), "srt")
    assert plan["a/x.mp3"] == (tmp_path / "out" / "x.srt",)
    assert (tmp_path / "out").is_dir()


def test_all_formats_without_a_format(tmp_path: Path) -> None:
    suffixes = [path.suffix for path in plan_outputs(["x.mp3"], str(tmp_path), None)["x.mp3"]]
    assert suffixes == [".txt", ".json", ".srt", ".vtt", ".tsv"]


def test_inputs_that_share_a_stem_keep_their_whole_name(tmp_path: Path) -> None:
    plan = plan_outputs(["x.mp3", "x.wav"], str(tmp_path), "txt")
    assert {path.name for paths in plan.values() for path in paths} == {"x.mp3.txt", "x.wav.txt"}


def test_inputs_whose_outputs_would_overwrite_each_other_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'a/x\.wav' and 'b/x\.wav' share .* written to 'x\.wav'"):
        plan_outputs(["a/x.wav", "c/y.wav", "b/x.wav"], str(tmp_path), "txt")
    with pytest.raises(OptionError, match=r"'a/x\.wav' is given twice"):
        plan_outputs(["a/x.wav", "a/x.wav"], str(tmp_path), "txt")


def test_names_that_differ_in_case_are_apart_where_the_disk_keeps_them_apart(tmp_path: Path) -> None:
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        with pytest.raises(OptionError, match="share"):
            plan_outputs(["a/x.wav", "b/X.wav"], str(tmp_path), "txt")
    else:
        plan = plan_outputs(["a/x.wav", "b/X.wav"], str(tmp_path), "txt")
        assert [path.name for paths in plan.values() for path in paths] == ["x.txt", "X.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    talk = tmp_path / "talk.txt"
    talk.write_bytes(b"sound under a strange name")
    with pytest.raises(OutputError, match="also the input"):
        plan_outputs([str(talk)], str(tmp_path), "txt")
    with pytest.raises(OutputError, match="also the input"):
        plan_outputs(["a.wav", f"{tmp_path}/./a.wav.txt"], str(tmp_path), "all")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "talk.json").hardlink_to(talk)
    with pytest.raises(OutputError, match="also the input"):
        plan_outputs([str(talk)], str(folder), "json")


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_lies_where_an_output_goes_is_not_followed(tmp_path: Path, kind: str) -> None:
    target, place = tmp_path / "precious", tmp_path / "out" / "x.txt"
    place.parent.mkdir()
    if "link" in kind:
        place.symlink_to(target)
    if kind == "link":
        target.write_text("precious")
    if kind == "folder":
        place.mkdir()
    if kind == "pipe":
        os.mkfifo(place)
    with pytest.raises(OutputError, match=kind.split()[-1]):
        plan_outputs(["x.wav"], str(place.parent), "txt")


def test_a_link_that_appears_during_the_work_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x.txt").symlink_to(tmp_path / "precious")
    write_text("text", tmp_path / "x.txt", follow=False)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "x.txt").is_symlink() and (tmp_path / "x.txt").read_text() == "text"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_is_read_only_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission"):
        plan_outputs(["x.wav"], str(tmp_path), "txt")


@pytest.mark.parametrize("output_format", ["srt", "vtt", "tsv"])
def test_formats_that_take_one_file_are_not_printed_one_after_the_other(output_format: str) -> None:
    assert plan_outputs(["x.wav"], None, output_format) == {}
    with pytest.raises(OptionError, match="2 files as"):
        plan_outputs(["x.wav", "y.wav"], None, output_format)


@pytest.mark.parametrize(
    ("output", "words"),
    [("g.txt", "also the input"), ("link.txt", "also the input"), ("gone/en.txt", "gone"), (".", "folder")],
)
def test_a_text_is_not_replaced_by_its_translation(tmp_path: Path, output: str, words: str, capsys) -> None:
    source = tmp_path / "g.txt"
    source.write_text("Guten Tag.\n")
    (tmp_path / "link.txt").symlink_to(source)
    assert main(["translate", "--text_file", str(source), "--output", str(tmp_path / output)]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert source.read_text() == "Guten Tag.\n"


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
        ["transcribe", "x.wav", "--threads", "99999"],
        ["transcribe", "x.wav", "--threads", "9" * 5000],
        ["transcribe", "x.wav", "--beam_size", "4097"],
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
    assert "'many'; expected a whole number, 0 to 1024" in capsys.readouterr().err
