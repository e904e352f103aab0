"""What counts as right for a written number: a table made by hand, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measures.metrics import count_character_errors, count_word_errors
from engine.text import normalize_text

CASES = Path(__file__).with_name("spoken_numbers.txt").read_text(encoding="utf-8").splitlines()[1:]


def parts_of(case: str) -> tuple[str, list[str], list[str]]:
    written, accepted, refused = case.split(" | ")
    return written, accepted.split("; "), refused.split("; ")


TABLE = [parts_of(case) for case in CASES]


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 120


@pytest.mark.parametrize(("written", "accepted", "refused"), TABLE, ids=[row[0] for row in TABLE])
def test_what_people_say_is_right_and_all_else_is_not(
    written: str, accepted: list[str], refused: list[str]
) -> None:
    assert normalize_text(written) == accepted[0]
    for spoken in accepted:
        # Digits on the reference's side, on the hypothesis's, on both.
        assert count_word_errors(written, spoken).total == 0, spoken
        assert count_word_errors(spoken, written).total == 0, spoken
        assert count_character_errors(written, spoken).total == 0, spoken
    for spoken in refused:
        assert count_word_errors(written, spoken).total > 0, spoken
        assert count_word_errors(spoken, written).total > 0, spoken
    assert count_word_errors(written, written).total == 0
