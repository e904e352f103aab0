"""Text as people say it, for the language model."""

import re
from collections import Counter

import numpy as np
import pytest

from engine.text import LETTERS, normalize_text
from training.lm.spoken import make_phrases, needs_reading, read_aloud


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("Am 9. November 1938", "am neunten november neunzehnhundertachtunddreißig"),
        ("um 14:30 Uhr", "um vierzehn uhr dreißig"),
        ("ca. 3,5 %", "circa drei komma fünf prozent"),
        ("Das ist gut.", "das ist gut"),
    ],
)
def test_the_usual_reading_is_the_most_frequent(written: str, usual: str) -> None:
    rng = np.random.default_rng(0)
    found = Counter(read_aloud(written, rng) for _ in range(200))
    assert found.most_common(1)[0][0] == usual


def test_other_readings_occur() -> None:
    rng = np.random.default_rng(0)
    found = {read_aloud("um 14:30 Uhr", rng) for _ in range(500)}
    assert {"um vierzehn uhr dreißig", "um halb drei"} <= found


def test_a_text_that_cannot_be_taken_apart_is_normalised() -> None:
    rng = np.random.default_rng(0)
    assert read_aloud("Привет, как дела?", rng) == normalize_text("Привет, как дела?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Er kam 1938.", True),
        ("z.B. morgen", True),
        ("Dr. Koch", False),
        ("evtl. heute", True),
        ("Er kam gestern.", False),
        ("7" * 999, False),
    ],
)
def test_which_texts_are_read_aloud(text: str, expected: bool) -> None:
    assert needs_reading(text) is expected


def test_phrases_are_letters_and_the_same_for_a_seed() -> None:
    first, again, other = (list(make_phrases(300, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(re.fullmatch(f"[{LETTERS}]+( [{LETTERS}]+)*", phrase) for phrase in first)
    assert len(set(first)) > 200
    assert sum("hundert" in phrase for phrase in first) > 50
