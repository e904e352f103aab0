"""Files, folders, patterns and standard input: every recording once, in a stable order, by its own name."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.inputs import find_inputs, is_audio, name_outputs, read_standard_input
from engine.errors import AudioLimitError, AudioNotFoundError, OptionError

FLAC = b"fLaC" + bytes(60)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """in/: a.wav, b/x.wav, b/c/x.wav, and what is none of them; the working folder is above it."""
    monkeypatch.chdir(tmp_path)
    audio = ["a.wav", "b/x.wav", "b/c/x.wav", "b.MP3", "no suffix", "odd.name.dat"]
    others = [".hidden.wav", "b/._x.wav", ".git/x.wav", "x.wav.part", "y.wav~", "~$z.wav", "w.crdownload"]
    texts = {
        "notes.txt": b"text",
        "free.dat": b"the free text, mdat",
        "utf16.csv": "a;b".encode("utf-16"),
        "photo.heic": b"\0\0\0\x18ftypheic",
        "code.ts": b"const x = 1",
        "form": b"FORM\0\0\0\0ILBM",
    }
    for name in (*audio, *others):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FLAC)
    for name, content in texts.items():
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def places(*arguments: str) -> list[str]:
    return [each.place for each in find_inputs(arguments).inputs]


def test_a_folder_is_its_audio_files_and_keeps_its_structure(folder: Path) -> None:
    found = find_inputs(["in"])
    assert [each.place for each in found.inputs] == [
        "a.wav", "b/c/x.wav", "b/x.wav", "b.MP3", "no suffix", "odd.name.dat"
    ]  # fmt: skip
    assert all(Path(each.path) == Path("in") / each.place for each in found.inputs)
    assert not any(each.error for each in found.inputs)
    assert found.n_left_out == 6
    assert places(str(folder)) == places("in/") == places("in")


def test_several_folders_are_told_apart(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "x.wav").write_bytes(FLAC)
    assert places("in/b", "in/d") == ["b/c/x.wav", "b/x.wav", "d/x.wav"]
    assert places("in/b", "in") == [
        "b/c/x.wav",
        "b/x.wav",
        "a.wav",
        "b.MP3",
        "d/x.wav",
        "no suffix",
        "odd.name.dat",
    ]


def test_patterns_that_the_shell_left_alone(folder: Path) -> None:
    assert places("in/**/x.wav") == ["b/c/x.wav", "b/x.wav"]
    assert places("in/*.wav") == ["a.wav"]
    assert places("in/b*") == ["b/c/x.wav", "b/x.wav", "b.MP3"]
    (folder / "[1].wav").write_bytes(FLAC)
    assert places("in/[1].wav") == ["[1].wav"]


def test_files_of_one_name_get_the_folders_that_tell_them_apart(folder: Path) -> None:
    assert places("in/b/x.wav", "in/a.wav") == ["x.wav", "a.wav"]
    assert places("in/b/x.wav", "in/b/c/x.wav", "in/a.wav") == ["x.wav", "c/x.wav", "a.wav"]


def test_a_file_comes_once_unless_it_is_named_twice(folder: Path) -> None:
    every = places("in")
    assert places("in", "in/b/../a.wav") == places("in", "in/*") == every
    assert places("in/a.wav", "in") == ["a.wav", *every[1:]]
    assert places("in/a.wav", "in/a.wav") == ["a.wav", "a.wav"]


def test_what_holds_nothing_is_an_input_with_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    found = find_inputs(["in/empty", "in/a.wav", "in/*.opus", "gone.wav"]).inputs
    assert [type(each.error) for each in found] == [
        AudioNotFoundError,
        type(None),
        AudioNotFoundError,
        type(None),
    ]
    assert "in/empty" in str(found[0].error) and "in/*.opus" in str(found[2].error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(folder: Path) -> None:
    (folder / "b").chmod(0)
    found = find_inputs(["in"]).inputs
    (folder / "b").chmod(0o755)
    assert [each.path for each in found if each.error] == ["in/b"]


def test_links_are_followed_and_circles_end(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder)
    (folder / "z").symlink_to(folder / "b" / "c")
    (folder / "gone.wav").symlink_to(folder / "nowhere.wav")
    assert sorted(places("in")) == sorted(
        ["a.wav", "b/c/x.wav", "b/x.wav", "b.MP3", "gone.wav", "no suffix", "odd.name.dat"]
    )


def test_a_folder_deeper_than_the_stack_of_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1010):
        Path("d").mkdir()
        os.chdir("d")
    Path("x.wav").write_bytes(FLAC)
    os.chdir(tmp_path)
    found = places("d")
    subprocess.run(["rm", "-r", "d"], check=True)  # Python's own way ends in a RecursionError
    assert found == [str(Path(*["d"] * 1009, "x.wav"))]


def test_many_files_are_found_and_named_in_no_time(tmp_path: Path) -> None:
    for i in range(4000):
        (tmp_path / f"{i}.wav").touch()
    started = time.perf_counter()
    names = name_outputs([each.place for each in find_inputs([str(tmp_path)]).inputs])
    assert len(set(names)) == 4000
    assert time.perf_counter() - started < 5


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_inputs(["-"]).inputs
    assert [(each.path, each.place, each.label) for each in found] == [("-", "stdin", "standard input")]
    with pytest.raises(OptionError, match="twice"):
        find_inputs(["-", "x.wav", "-"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FLAC)))
    assert read_standard_input() == FLAC
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AudioNotFoundError, match="closed"):
        read_standard_input()


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.audio.limits import AudioLimits

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(11))))
    with pytest.raises(AudioLimitError, match="more than 10 bytes"):
        read_standard_input(AudioLimits(max_file_bytes=10))


def test_what_the_first_bytes_say(tmp_path: Path) -> None:
    for content, wanted in {
        b"RIFF....WAVE": True, b"RIFF....WEBP": False,
        b"\0\0\0\x20ftypisom": True, b"\0\0\0\x20ftypavif": False,
        b"ID3\4": True, b"\xff\xfeG\0": False, b"\xff\xfb\x90": False, b"": False, b"OggS": True,
    }.items():  # fmt: skip
        (tmp_path / "x").write_bytes(content)
        assert is_audio(str(tmp_path / "x")) is wanted, content
    os.mkfifo(tmp_path / "pipe")
    assert not is_audio(str(tmp_path / "pipe"))


PARTS = st.sampled_from(["a", "A", "a.wav", "ä", "a\u0308", "b.", ".x"])
FOLDERS, SUFFIXES = st.sampled_from(["", "a/", "A/"]), st.sampled_from([".wav", ".mp3", ".wav.ogg", ""])
PLACES = st.builds(lambda folder, stem, suffix: folder + stem + suffix, FOLDERS, PARTS, SUFFIXES)


@given(st.lists(PLACES, unique=True, max_size=30))
def test_every_output_has_a_name_of_its_own(found: list[str]) -> None:
    names = name_outputs(found)
    assert len(set(names)) == len(found)
    for place, name in zip(found, names, strict=True):
        assert name == place or place.startswith(name + ".")


def test_an_input_in_the_same_place_is_refused() -> None:
    with pytest.raises(OptionError, match=r"share the name 'x\.wav'"):
        name_outputs(["x.wav", "x.wav"])
