"""Writers: exact text of small examples, readable subtitles for any input, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import OptionError, OutputError
from engine.output import formats, line_breaks, subtitles
from engine.output.formats import FORMATS, render, write
from engine.types import Segment, Transcript, Translation, Word

WORDS = (Word("guten", 0.5, 0.9, 0.9), Word("tag", 1.0, 1.25, 0.8), Word("herr", 1.3, 1.5, 0.7))
LATER = (Word("bis", 3661.25, 3661.5, 1.0), Word("später", 3661.6, 3662.5, 1.0))
TRANSCRIPT = Transcript(
    (Segment("guten tag herr", 0.5, 1.5, WORDS, 0.8), Segment("bis später", 3661.25, 3662.5, LATER, 1.0)),
    3700.0,
)
ENGLISH = (
    Segment("Good day, sir <& co>", 0.5, 1.5, (), 0.5),
    Segment("See you", 3661.25, 3662.5, (), 0.4),
)
TRANSLATION = Translation(ENGLISH, TRANSCRIPT)
EMPTY = Transcript((), 2.0)


def test_txt() -> None:
    assert render(TRANSCRIPT, "txt") == "guten tag herr\nbis später\n"
    assert render(TRANSLATION, "txt") == "Good day, sir <& co>\nSee you\n"
    assert render(EMPTY, "txt") == ""


def test_srt() -> None:
    assert render(TRANSCRIPT, "srt") == (
        "1\n00:00:00,500 --> 00:00:01,500\nguten tag herr\n\n2\n01:01:01,250 --> 01:01:02,500\nbis später\n"
    )
    assert render(EMPTY, "srt") == ""


def test_srt_with_words() -> None:
    blocks = render(TRANSCRIPT, "srt", word_timestamps=True).split("\n\n")
    assert blocks[0] == "1\n00:00:00,500 --> 00:00:00,900\nguten"
    assert len(blocks) == 5


def test_vtt_escapes_and_tags_words() -> None:
    assert render(TRANSLATION, "vtt") == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.676\nGood day, sir &lt;&amp; co&gt;\n\n"
        "01:01:01.250 --> 01:01:02.500\nSee you\n"
    )
    assert "\nguten <00:00:01.000>tag <00:00:01.300>herr\n" in render(TRANSCRIPT, "vtt", word_timestamps=True)
    assert render(EMPTY, "vtt") == "WEBVTT\n"


def test_tsv_counts_milliseconds() -> None:
    assert (
        render(TRANSCRIPT, "tsv")
        == "start\tend\ttext\n500\t1500\tguten tag herr\n3661250\t3662500\tbis später\n"
    )
    assert "1000\t1250\ttag\n" in render(TRANSCRIPT, "tsv", word_timestamps=True)
    odd = Transcript((Segment("a\tb\nc", 0, 1),), 1)
    assert render(odd, "tsv").splitlines()[1] == "0\t1000\ta b c"


def test_json_holds_everything() -> None:
    content = json.loads(render(TRANSLATION, "json"))
    assert content["text"] == "Good day, sir <& co> See you"
    assert content["language"] == "en"
    assert content["duration"] == 3700
    assert content["segments"][0] == {
        "id": 0,
        "start": 0.5,
        "end": 1.5,
        "text": "Good day, sir <& co>",
        "confidence": 0.5,
    }
    source = content["source"]
    assert source["language"] == "de"
    assert source["segments"][0]["words"][1] == {"word": "tag", "start": 1.0, "end": 1.25, "probability": 0.8}
    assert "später" in render(TRANSCRIPT, "json")


LONG = " ".join(f"wort{i}" for i in range(60))


def timed(tokens: list[str], step_s: float) -> Segment:
    words = tuple(Word(token, i * step_s, (i + 0.8) * step_s, 0.5) for i, token in enumerate(tokens))
    return Segment(" ".join(tokens), 0.0, words[-1].end_s, words, 0.5)


def test_long_segments_are_cut_at_word_times() -> None:
    segment = timed(LONG.split(), 0.4)
    cues = subtitles.compute_cues([segment])
    starts = {word.start_s for word in segment.words}
    assert len(cues) > 4
    assert all(any(s - subtitles.LEAD_S <= cue.start_s <= s for s in starts) for cue in cues)


@given(
    st.lists(st.text("abcdefgß", min_size=1, max_size=50), min_size=1, max_size=80),
    st.floats(0.05, 3),
    st.booleans(),
)
def test_subtitles_are_readable_and_lose_nothing(tokens: list[str], step_s: float, with_words: bool) -> None:
    segment = timed(tokens, step_s)
    if not with_words:
        segment = Segment(segment.text, segment.start_s, segment.end_s)
    cues = subtitles.compute_cues([segment])
    assert " ".join(line for cue in cues for line in cue.lines).split() == tokens
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= line_breaks.LINE_CHARS or " " not in line for line in cue.lines)
        assert cue.end_s >= cue.start_s
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(cues))


def test_lines_are_balanced() -> None:
    tokens = tuple(("aaaa " * 9 + "bb").split())  # 47 characters: not 42 and an orphan
    assert line_breaks.wrap(tokens) == (5, 5)


def test_short_cues_stay_long_enough_to_be_read() -> None:
    cues = subtitles.compute_cues([Segment("ja", 1.0, 1.1), Segment("nein", 2.6, 2.7)])
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(1.0, 2.0), (2.6, 3.6)]


def test_srt_blocks_cannot_be_broken_by_the_text() -> None:
    text = render(Transcript((Segment("eins\n\n2\n00:00:00,000 --> 9", 0.0, 2.0),), 2.0), "srt")
    assert len(re.findall(r"^\d\d:.* --> ", text, re.M)) == 1


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_suffix_names_the_format(output_format: str, tmp_path: Path) -> None:
    path = write(TRANSLATION, tmp_path / f"out.{output_format.upper()}")
    assert path.read_text(encoding="utf-8") == render(TRANSLATION, output_format)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["out", "out.docx", "out."])
def test_unknown_formats_name_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="txt, json, srt, vtt, tsv"):
        write(TRANSCRIPT, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_explicit_format_wins(tmp_path: Path) -> None:
    assert write(TRANSCRIPT, tmp_path / "out.dat", "tsv").read_text().startswith("start\tend\ttext")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone.*expected.*fix: create the folder") as caught:
        write(TRANSCRIPT, tmp_path / "gone" / "out.txt")
    assert isinstance(caught.value, OSError)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out.txt").mkdir()
    with pytest.raises(OutputError, match=r"out\.txt"):
        write(TRANSCRIPT, tmp_path / "out.txt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write(TRANSCRIPT, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.txt"]


def test_a_link_is_written_through_and_rights_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write(TRANSCRIPT, tmp_path / "link.txt")
    assert (tmp_path / "real.txt").read_text() == render(TRANSCRIPT, "txt")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe.txt").read_text()))
    reader.start()
    write(TRANSCRIPT, tmp_path / "pipe.txt")
    reader.join(5)
    assert received == [render(TRANSCRIPT, "txt")]


def test_write_text_is_atomic_too(tmp_path: Path) -> None:
    assert formats.write_text("grün\n", tmp_path / "a.en").read_bytes() == "grün\n".encode()


def test_a_redirected_standard_output_is_written_into_and_never_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    code = (
        "from engine.output.formats import write_text; write_text('here\\n', '/dev/stdout'); print('after')"
    )
    with log.open("a") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert log.read_text() == "before\nhere\nafter\n"
