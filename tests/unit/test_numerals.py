"""Numbers in text: what is no number stays, what is said stays said, and nothing grows without bound."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.measures.metrics import count_character_errors, count_word_errors
from engine.output.numbers import write_digits
from engine.text import LETTERS, list_readings, normalize_text, spell_numbers
from engine.text.nearest import SMALL, choose_readings
from engine.text.quantity import GLYPHS
from engine.text.scan import scan
from engine.text.units import SIGNS
from engine.text.words import MAX_FORMS, integer_forms, ordinal_forms, spell_number
from engine.types import Word

PLAIN = st.text(st.characters(exclude_categories=("Nd", "No", "Nl", "Cs"), exclude_characters="&%‰€$£°§"))
WRITTEN = st.text(st.sampled_from(list("0123456789.,:-–/ '%€§+x½²°°CUhrkmMaierIVX()\n")), max_size=40)
READ = settings(max_examples=80, deadline=None)


def old_normalize(text: str) -> str:
    """What version 1 made of text without digits and signs."""
    import unicodedata

    folded = {"æ": "ae", "œ": "oe", "ø": "ö", "å": "a", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
    text = unicodedata.normalize("NFC", text).lower().replace("ẞ", "ß")
    text = re.sub(r"['’‘`´]", "", text)
    kept = [
        char if char in LETTERS or char.isascii() else folded.get(char)
        or "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
        for char in text
    ]  # fmt: skip
    return re.sub(f"[^{LETTERS}]+", " ", "".join(kept)).strip()


@READ
@given(PLAIN)
@example("geht's, Straße – oder?")
def test_text_without_digits_and_signs_goes_through_as_before(text: str) -> None:
    if not re.search(r"\b[IVX]+\b", text):
        assert normalize_text(text) == old_normalize(text)
        assert spell_numbers(text) == text


@pytest.mark.parametrize(
    "text", ["ICH", "Gruppe X", "Malcolm X", "I. Kant", "XXL", "V. Huber", "MIX", "C. IV"]
)
def test_letters_that_are_no_roman_numbers_stay(text: str) -> None:
    assert normalize_text(text) == old_normalize(text)


@READ
@given(WRITTEN)
@example("1.1.1.1.1")
@example("--5–-6::7//8..9,,0")
@example("1½½²")
def test_any_digits_and_signs_become_letters_that_stay(text: str) -> None:
    normal = normalize_text(text)
    assert set(normal) <= set(LETTERS + " ") and normal == " ".join(normal.split())
    assert normalize_text(normal) == normal
    assert normalize_text(spell_numbers(text)) == normal or "'" in text
    assert not re.search(r"\d", spell_numbers(text))


@READ
@given(WRITTEN)
def test_readings_begin_with_the_usual_one_and_are_few(text: str) -> None:
    readings = list_readings(text)
    assert " ".join(forms[0] for forms in readings) == normalize_text(text)
    for forms in readings:
        assert 0 < len(forms) <= MAX_FORMS and len(set(forms)) == len(forms)
        assert all(form and normalize_text(form) == form for form in forms)


@READ
@given(WRITTEN, WRITTEN)
def test_choosing_never_adds_errors_and_a_text_equals_itself(first: str, second: str) -> None:
    pair = choose_readings(first, second)
    assert pair.usual == normalize_text(first)
    assert count_word_errors(first, first).total == count_character_errors(first, first).total == 0
    chosen, usual = (
        count_word_errors(*texts).total for texts in ((first, second), (pair.usual, normalize_text(second)))
    )
    assert chosen <= usual


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.integers(0, 9999), st.integers(0, 999_999_999)))
def test_every_way_to_say_an_integer_is_right_on_either_side(number: int) -> None:
    for written in (str(number), f"{number:,}".replace(",", ".")):
        for spoken in integer_forms(number):
            said, heard, _ = choose_readings(f"etwa {written} Tage", f"etwa {spoken} Tage")
            assert said == heard


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 9999))
def test_another_number_is_wrong(first: int, second: int) -> None:
    errors = count_word_errors(f"etwa {first} Tage", f"etwa {spell_number(second)} Tage")
    assert (errors.total == 0) == (first == second)


def written_back(spoken: str) -> str:
    words = [Word(text, at, at + 1.0, 1.0) for at, text in enumerate(spoken.split())]
    return " ".join(word.text for word in write_digits(words))


@settings(max_examples=80, deadline=None)
@given(st.integers(4, 999_999))
@example(101_000)  # num2words spells it einhunderteinstausend
def test_numbers_as_digits_undo_numbers_as_words(number: int) -> None:
    for spoken in (normalize_text(f"etwa {number} tage"), f"etwa {spell_number(number)} tage"):
        assert written_back(spoken) == f"etwa {number} tage"


@pytest.mark.parametrize("number", [*range(4, 32), 100, 101, 119, 1000])
def test_ordinals_as_digits_undo_ordinals_as_words(number: int) -> None:
    assert written_back(f"am {ordinal_forms(number, 'n')[0]} tag") == f"am {number}. tag"


@pytest.mark.parametrize(
    "end", [".", "?", "!", ", sagt er", ": gut", "; gut", "…", "...", "?“", ".“", ".)", "!) Ja"]
)
def test_an_ordinal_before_any_mark_is_read_and_written_back(end: str) -> None:
    for spoken in ("am dritten", "der fünfzehnte", "am vierten und fünften"):
        in_digits = written_back(spoken + end)
        assert ".." not in in_digits.replace("...", "") and "." in in_digits
        assert spell_numbers(in_digits) == spoken + end


def test_the_full_stop_of_an_ordinal_and_of_its_sentence_are_one() -> None:
    spoken = "Er kam am vierten. Dann ging er. Es war der fünfte. Das war spät."
    written = "Er kam am 4. Dann ging er. Es war der 5. Das war spät."
    assert written_back(spoken) == written and spell_numbers(written) == spoken
    assert spell_numbers("Im 3. Stock, am 5. Mai, die 3. und 4. Klasse") == (
        "Im dritten Stock, am fünften Mai, die dritte und vierte Klasse"
    )


@pytest.mark.parametrize("hour", range(4, 24))
def test_times_as_digits_keep_their_numbers(hour: int) -> None:
    for minute in (4, 10, 30, 59):
        assert written_back(normalize_text(f"um {hour}:{minute:02d} Uhr")) == f"um {hour} uhr {minute}"


@pytest.mark.parametrize(
    ("day", "month", "year"), [(4, 5, 1938), (11, 9, 2001), (31, 12, 1999), (24, 10, 2024)]
)
def test_dates_as_digits_keep_their_numbers(day: int, month: int, year: int) -> None:
    assert written_back(normalize_text(f"am {day}.{month}.{year} war")) == f"am {day}. {month}. {year} war"


def test_the_length_of_a_reference_is_its_own() -> None:
    """Whatever was heard, errors are divided by the words of the usual way to say it."""
    for heard in ("", "halb drei", "vierzehn uhr dreißig", "14:30", "unsinn"):
        assert count_word_errors("um 14:30 Uhr", heard).reference == 4
    assert count_word_errors("es kostet 12,50 €", "").deletions == 5


def test_a_near_miss_is_counted_against_the_nearest_way() -> None:
    assert count_word_errors("um 14:30 Uhr", "um halb rei").total == 1
    assert count_word_errors("um 14:30 Uhr", "um vierzehn Uhr rei").total == 1


def test_digits_on_both_sides_may_be_written_in_different_ways() -> None:
    pairs = [("1.000", "1000"), ("14.30 Uhr", "14:30 Uhr"), ("5 %", "5%"), ("1.990", "1990"), ("½", "1/2")]
    assert all(count_word_errors(*pair).total == 0 for pair in pairs)
    assert count_word_errors("14:30 Uhr", "15:30 Uhr").total > 0


def test_many_numbers_take_seconds_at_most() -> None:
    numbers = [str(37 * at % 3001) for at in range(120)]
    start = time.process_time()
    right = count_word_errors(" und ".join(numbers), normalize_text(" und ".join(numbers)))
    assert right.total == 0
    assert count_word_errors(" und ".join(numbers), " und ".join(reversed(numbers))).total > 0
    assert time.process_time() - start < 20.0


def test_long_texts_are_cut_where_they_agree_and_lose_nothing() -> None:
    sentence = "und dann kamen sie alle zusammen um {} wieder nach hause zurück"
    written = " ".join(sentence.format(f"{hour}:30 Uhr") for hour in range(1, 24))
    told = " ".join(sentence.format(f"halb {spell_number(hour % 12 + 1)}") for hour in range(1, 24))
    assert len(written.split()) * len(told.split()) > SMALL
    assert count_word_errors(written, told).total == 0
    assert count_word_errors(written, told.replace("halb drei", "halb vier")).total == 2


def test_digits_of_other_scripts_are_digits() -> None:
    assert normalize_text("٣ und ３") == "drei und drei"


def test_case_and_marks_around_numbers_stay() -> None:
    text = "Am 3. Mai („um 14:30 Uhr“) kamen 1.200 Gäste – fast 5 % mehr!"
    assert spell_numbers(text) == (
        "Am dritten Mai („um vierzehn Uhr dreißig“) kamen eintausendzweihundert Gäste "
        "– fast fünf Prozent mehr!"
    )


def test_everything_that_is_scanned_for_is_known_to_the_normaliser() -> None:
    for sign in (*GLYPHS, *SIGNS):
        assert normalize_text(sign) == normalize_text(f"{scan(sign)[0][0]}") != ""


def test_pieces_of_text_are_those_of_the_text() -> None:
    assert scan("Um 9 Uhr, ja") == ["Um ", scan("9 Uhr")[0], ", ja"]
    assert scan("") == []


def test_training_labels_are_the_usual_way_to_say_it() -> None:
    pytest.importorskip("torch")
    from training.common.data import build_vocabulary, encode_text

    vocabulary = build_vocabulary([])
    symbols = list(vocabulary)
    for text in ("um 14:30 Uhr", "12,50 €", "am 1.5.2024", "½ Liter"):
        labels = "".join(symbols[label] for label in encode_text(text, vocabulary))
        assert labels.replace("|", " ") == normalize_text(text)
