"""Spoken numbers as digits, with the times of the words that they were."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.output.capitals import capitalise_first
from engine.output.numbers import write_digits
from engine.types import Word


def spoken(text):
    return [Word(word, float(i), i + 0.5, 0.5 + 0.01 * i) for i, word in enumerate(text.split())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("am siebten November neunzehnhundertachtunddreißig", "am 7. November 1938"),
        ("Es kostet dreißigtausend Euro.", "Es kostet 30000 Euro."),
        ("drei Komma fünf Prozent", "3,5 Prozent"),
        ("zwei Millionen Menschen", "2000000 Menschen"),
        ("ein Mann und zwei Frauen", "ein Mann und zwei Frauen"),
        ("neunzehnhundertachtunddreißig, dann zweitausendeins.", "1938, dann 2001."),
        ("Am dritten.", "Am 3."),
        ("Er kam am vierten. Dann ging er.", "Er kam am 4. Dann ging er."),
        ("„am dritten.“ (der fünfzehnte.)", "„am 3.“ (der 15.)"),
        ("am siebten elften.", "am 7. 11."),
        (
            "am dritten? am vierten! am fünften, am sechsten… am siebten...",
            "am 3.? am 4.! am 5., am 6.… am 7....",
        ),
        ("Es sind zehn. Nein, elf.", "Es sind 10. Nein, 11."),
        ("", ""),
    ],
)
def test_numbers_are_written_as_digits(text, expected):
    assert " ".join(word.text for word in write_digits(spoken(text))) == expected


def test_a_number_of_several_words_lasts_as_long_as_they_do():
    words = write_digits(spoken("nur drei Komma fünf Prozent"))
    assert [(word.text, word.start_s, word.end_s) for word in words] == [
        ("nur", 0.0, 0.5), ("3,5", 1.0, 3.5), ("Prozent", 4.0, 4.5),
    ]  # fmt: skip
    assert words[1].confidence == pytest.approx(0.52)


def test_more_texts_than_words_lose_nothing():
    words = spoken("elf Komma drei elf Komma")
    found = write_digits(words)
    assert "11,3" in " ".join(word.text for word in found) and found[-1].end_s == words[-1].end_s


WORDS = st.sampled_from("der Mann elf zwanzig Komma hundert und Haus drei tausend. Millionen, eins".split())


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS, max_size=12))
@example(["elf", "Komma", "drei", "elf", "Komma"])
def test_times_stay_in_order_and_inside(texts):
    words = spoken(" ".join(texts))
    found = write_digits(words)
    assert len(found) <= len(words)
    assert all(a.start_s <= b.start_s for a, b in pairwise(found))
    if words:
        assert found[0].start_s >= words[0].start_s
        assert found[-1].end_s <= words[-1].end_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("morgen kommt er", "Morgen kommt er"),
        ('"ja" sagte er', '"Ja" sagte er'),
        ("… und", "… Und"),
        ("ßa", "ßa"),
        ("", ""),
    ],
)
def test_a_text_begins_with_a_capital(text, expected):
    assert " ".join(word.text for word in capitalise_first(spoken(text))) == expected
