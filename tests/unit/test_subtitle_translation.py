"""Subtitle files of others: read, written, and translated with their times."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli import main
from engine.errors import TextFileError
from engine.jobs.passages import share_out
from engine.jobs.subtitles import translate_subtitles
from engine.output.subtitle_file import find_kind, read_subtitles, render_subtitles
from engine.types import TranslationHypothesis

SRT = (
    "1\n00:00:01,000 --> 00:00:03,500\nAls wir nach Hause kamen,\n\n"
    "2\n00:00:03,600 --> 00:00:06,000 X1:0\nwar die Tür <i>offen</i>. Niemand\nwar da.\n\n"
    "3\n00:00:07,000 --> 00:00:09,000\n- Wo bist du?\n- Hier.\n\n"
    "4\n01:00:10,000 --> 01:00:11,000\n{\\an8}<i>Ende</i>\n"
)
VTT = (
    "WEBVTT - Test\n\nNOTE bleibt\n\nintro\n00:00:01.000 --> 00:00:03.000 align:start\n<v Anna>A &lt; B\n\n"
    "00:00:03.500 --> 00:00:05.000\n<v Bernd>Ja.\n"
)


def upper(texts: list[str]) -> list[TranslationHypothesis]:
    return [TranslationHypothesis(text.upper(), 0.0, 1.0, (f"about {text}",)) for text in texts]


@pytest.mark.parametrize(("text", "kind"), [(SRT, "srt"), (VTT, "vtt")])
def test_a_file_is_written_as_it_was_read(text: str, kind: str) -> None:
    assert render_subtitles(read_subtitles(text, kind, "x")) == text  # type: ignore[arg-type]
    crlf = text.replace("\n", "\r\n")
    assert render_subtitles(read_subtitles(crlf, kind, "x")) == text  # type: ignore[arg-type]


def test_a_sentence_is_translated_whole_and_goes_back_to_its_cues() -> None:
    seen: list[str] = []

    def translate(texts: list[str]) -> list[TranslationHypothesis]:
        seen.extend(texts)
        return upper(texts)

    english, warnings = translate_subtitles(read_subtitles(SRT, "srt", "x"), translate)
    assert seen[0] == "Als wir nach Hause kamen, war die Tür <i>offen</i>."
    assert seen[1:] == ["Niemand war da.", "- Wo bist du?", "- Hier.", "Ende"]
    lines = [cue.lines for cue in english.cues]
    assert lines[0] == ("ALS WIR NACH HAUSE KAMEN,",)
    assert " ".join(lines[1]) == "WAR DIE TÜR <I>OFFEN</I>. NIEMAND WAR DA."
    assert lines[2:] == [("- WO BIST DU?", "- HIER."), ("{\\an8}<i>ENDE</i>",)]
    assert [cue.start_s for cue in english.cues] == [1.0, 3.6, 7.0, 3610.0]
    assert warnings[0] == (2, f"about {seen[0]}") and warnings[-1][0] == 16


def test_speakers_are_not_mixed_and_kinds_convert() -> None:
    file = read_subtitles(VTT, "vtt", "x")
    assert file.cues[0].lines == ("<v Anna>A < B",)
    english, _ = translate_subtitles(file, upper)
    assert [cue.lines for cue in english.cues] == [("<v Anna>A < B",), ("<v Bernd>JA.",)]
    assert "1\n00:00:01,000 --> 00:00:03,000\nAnna: A < B\n" in render_subtitles(english, "srt")
    assert render_subtitles(read_subtitles(SRT, "srt", "x"), "vtt").startswith("WEBVTT\n\n00:00:01.000 -->")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("1\nkein Zeitpunkt\nText\n", "srt", r"x:2: 'kein Zeitpunkt'"),
        ("Hallo\n", "vtt", r"x:1: 'Hallo'.*WEBVTT"),
        ("1\n00:00:05,000 --> 00:00:01,000\nText\n", "srt", "x:2: a cue that ends before"),
        ("1\n00:00:05,000 -> 00:00:01,000\nText\n", "srt", "x:2"),
        ("1\n", "srt", "x:1"),
    ],
)
def test_a_damaged_file_names_the_line(text: str, kind: str, message: str) -> None:
    with pytest.raises(TextFileError, match=message):
        read_subtitles(text, kind, "x")  # type: ignore[arg-type]


def test_an_empty_file_and_empty_cues() -> None:
    assert render_subtitles(translate_subtitles(read_subtitles("", "srt", "x"), upper)[0]) == ""
    empty = "1\n00:00:01,000 --> 00:00:02,000\n"
    assert render_subtitles(translate_subtitles(read_subtitles(empty, "srt", "x"), upper)[0]) == empty
    assert find_kind("A.SRT") == "srt" and find_kind("a.txt") is None


@given(
    st.lists(st.text("ab.", min_size=1, max_size=8), max_size=20), st.lists(st.integers(1, 90), min_size=1)
)
def test_shares_hold_every_word_once(tokens: list[str], shares: list[int]) -> None:
    parts = share_out(tokens, shares)
    assert len(parts) == len(shares)
    assert [word for part in parts for word in part] == tokens
    if len(tokens) >= len(shares):
        assert all(parts)


def test_the_command_line_writes_subtitles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.srt", tmp_path / "b.vtt"
    source.write_text(SRT, encoding="utf-16")
    assert main(["translate", "--text_file", str(source), "--output", str(target), "--threads", "1"]) == 0
    written = target.read_text(encoding="utf-8")
    assert written.startswith("WEBVTT\n\n00:00:01.000 --> 00:00:03.500\n") and "{\\an8}<i>" in written
    assert main(["translate", "--text_file", str(source), "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("1\n00:00:01,000 --> 00:00:03,500\n")
    source.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nschön\n".encode("latin-1"))
    assert main(["translate", "--text_file", str(source)]) == 1
    assert "a.srt:3: not UTF-8" in capsys.readouterr().err
