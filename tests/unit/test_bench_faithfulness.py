"""What BLEU does not see: names, numbers, omissions, loops; and the list of phrases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.errors import ManifestError
from benchmarks.measures.faithfulness import count_faithfulness, find_names
from benchmarks.studies.phrases import PHRASES, read_phrases

REFERENCE = "Peter bought the house in Potsdam for 20,000 euros in 1990."
GERMAN = "Peter kaufte 1990 das Haus in Potsdam für 20.000 Euro."


@pytest.mark.parametrize(
    ("english", "field", "value"),
    [
        (REFERENCE, "numbers_kept", 1.0), (REFERENCE, "names_kept", 1.0), (REFERENCE, "invented_numbers", 0),
        (REFERENCE.replace("1990", "1991"), "numbers_kept", 0.0),
        (REFERENCE.replace("1990", "1991"), "invented_numbers", 1),
        (REFERENCE.replace("Potsdam", "Potsdamm"), "names_kept", 0.5),
        ("", "empty", 1), ("", "too_short", 1), ("Peter bought it.", "too_short", 1),
        (f"{REFERENCE} {REFERENCE}", "too_long", 1), (GERMAN, "untranslated", 1),
        ("Peter bought bought bought the house in Potsdam.", "repeated", 1), (REFERENCE, "repeated", 0),
        (REFERENCE, "untranslated", 0), (REFERENCE, "too_long", 0), (REFERENCE, "empty", 0),
    ],
)  # fmt: skip
def test_each_fault_is_counted(english: str, field: str, value: float) -> None:
    assert count_faithfulness([GERMAN], [english], [REFERENCE]).as_row()[field] == value


@pytest.mark.parametrize(
    ("german", "english", "reference", "count"),
    [
        ("Ragin unterrichtet am Oberlin College.", "Ragin teaches Oberlin College.",
         "Ragin taught at Oberlin College.", 0),
        ("Ragin unterrichtet am Oberlin College.", "Ragin unterrichtet am Oberlin College.",
         "Ragin taught at Oberlin College.", 1),
        ("Wikinger sind cool.", "Wikinger are cool.", "Vikings are cool.", 0),
        ("Constanze war total baff.", "Constanze was total baff.", "Constanze was flabbergasted.", 1),
        ("Konstanze aus Wien kam gestern an.", "Konstanze from Wien arrived here yesterday evening.",
         "Constanze from Vienna arrived yesterday.", 0),
        ("Taxi!", "Taxi!", "Taxi!", 0), ("Gute Nacht!", "Gute Nacht!", "Good night!", 1),
    ],
)  # fmt: skip
def test_names_are_not_left_untranslated(german: str, english: str, reference: str, count: int) -> None:
    assert count_faithfulness([german], [english], [reference]).as_row()["untranslated"] == count


def test_nothing_to_count_is_none() -> None:
    row = count_faithfulness(["Guten Tag"], ["Good day"], ["Good day"]).as_row()
    assert row["numbers_kept"] is None and row["names_kept"] is None and row["empty"] == 0
    assert find_names("Der Hund von Anna", "Anna's dog") == ["Anna"]


def test_the_phrases_are_a_hundred_and_their_patterns_can_fail() -> None:
    phrases = read_phrases()
    assert len(phrases) >= 100 and len({phrase.german for phrase in phrases}) == len(phrases)
    assert {"clock", "date", "money", "idiom", "separable", "negation", "name"} <= {
        p.category for p in phrases
    }
    said = [phrase for phrase in phrases if phrase.category in ("idiom", "separable", "negation", "clause")]
    assert not any(phrase.judge("") or phrase.judge("Hello there") for phrase in phrases)
    assert not any(phrase.judge(phrase.german) for phrase in said)
    by_german = {phrase.german: phrase for phrase in phrases}
    neun = by_german["Wir treffen uns um halb neun."]
    assert neun.judge("We'll meet at 8:30am.") and neun.judge("We meet at half past eight.")
    assert not neun.judge("We'll meet at 9:30.")
    assert not by_german["Er hat die Kiste im Keller geholt."].judge("He recovered the box.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n", "not the columns"),
        ("category\tgerman\taccepted\trefused\nx\ty\t(\t\n", "x.tsv:2: .*unterminated"),
        ("category\tgerman\taccepted\trefused\nx\ty\n", "x.tsv:2"),
        ("category\tgerman\taccepted\trefused\n", "no phrases"),
    ],
)
def test_a_list_of_another_form_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_phrases(path)


def test_the_command_scores_and_lists_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "few.tsv", tmp_path / "out.json"
    lines = PHRASES.read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join([*lines[:3], "never\tGuten Tag.\tgoodbye moon\t"]) + "\n", encoding="utf-8")
    assert main(["phrases", "--data", str(data), "--wrong", "--threads", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["phrases"] == 3 and result["right"] == sum(row["right"] for row in result["rows"])
    shown = capsys.readouterr().out
    assert "Guten Tag." in shown and "never" in shown
