"""Splitting text into what a translation model takes at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.translation.sentences import CLAUSE_OPENERS, MAX_WORD_CHARS, split_sentences, split_to_fit


def count_words(texts):
    return [len(text.split()) for text in texts]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Guten Tag. Wie geht es Ihnen?", ["Guten Tag.", "Wie geht es Ihnen?"]),
        ("Er kam am 4. Dann ging er.", ["Er kam am 4.", "Dann ging er."]),
        ("Er war 15. Das ist jung.", ["Er war 15.", "Das ist jung."]),
        ("Im Jahr 1990. Er kam.", ["Im Jahr 1990.", "Er kam."]),
        ("1. Ein Apfel 2. Ein Brot", ["1. Ein Apfel 2. Ein Brot"]),
        ("Es war am 4. und 5. Mai.", ["Es war am 4. und 5. Mai."]),
        ("Am 3. Oktober kam Dr. Meier z.B. nach Köln.", ["Am 3. Oktober kam Dr. Meier z.B. nach Köln."]),
        ("Er rief: „Halt!“ Dann lief er.", ["Er rief: „Halt!“", "Dann lief er."]),
        ("Was?! Nein… Doch.", ["Was?!", "Nein…", "Doch."]),
        ("J. S. Bach war in Leipzig. Er starb dort.", ["J. S. Bach war in Leipzig.", "Er starb dort."]),
        ("Das kostet 3.50 Euro. Gut.", ["Das kostet 3.50 Euro.", "Gut."]),
        ("„Kommst du?“ fragte sie.", ["„Kommst du?“ fragte sie."]),
        ("ohne punkt und komma", ["ohne punkt und komma"]),
        ("", []),
        ("   ", []),
        ("...", ["..."]),
    ],
)  # fmt: skip
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_a_transcript_without_punctuation_is_cut_before_clauses() -> None:
    words = (
        "ich bin gestern in die stadt gefahren und habe dort einen alten freund getroffen"
        " aber er hatte keine zeit"
    )
    pieces = split_to_fit(words, count_words, 10)
    assert " ".join(pieces) == words
    assert all(len(piece.split()) <= 10 for piece in pieces)
    assert [piece.split()[0] for piece in pieces[1:]] == ["und", "aber"]


def test_an_hour_of_words_is_split_whole_and_fast() -> None:
    words = " ".join(["wort", "und", "satz", "folgen"] * 2500)
    pieces = split_to_fit(words, count_words, 40)
    assert " ".join(pieces) == words
    assert max(count_words(pieces)) <= 40
    assert {piece.split()[0] for piece in pieces[1:]} <= CLAUSE_OPENERS


def test_a_word_of_a_million_letters_is_cut() -> None:
    pieces = split_to_fit("x" * 100_000, lambda texts: [len(text) for text in texts], 60)
    assert "".join(pieces).replace(" ", "") == "x" * 100_000
    assert all(len(piece) <= MAX_WORD_CHARS for piece in pieces)


@given(st.text(alphabet='ab.!?, "“üZ3\n', max_size=200), st.integers(8, 30))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_and_nothing_is_too_long(text: str, most: int) -> None:
    pieces = split_to_fit(text, lambda texts: [len(t.replace(" ", "")) for t in texts], most)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece.replace(" ", "")) <= most for piece in pieces)
