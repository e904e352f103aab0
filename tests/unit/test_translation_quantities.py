"""Numbers of German and English sentences: what is the same, and what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.translation.quantities import missing_numbers, read_german, spell_digits
from engine.translation.rewording import reword
from engine.translation.simpler_numbers import english_digits, swap_numbers, write_english

UNKNOWN = "€$§&°£½"


def said(text: str) -> str:
    return reword(text, lambda char: char not in UNKNOWN)


@pytest.mark.parametrize(
    ("german", "english"),
    [
        ("1.234,5 Meter", "1,234.5 metres"), ("um 14:30 Uhr", "at 2:30 p.m."), ("um 14:30 Uhr", "at 14:30"),
        ("um halb neun", "at half past eight"), ("um Viertel vor drei", "at quarter to three"),
        ("um zwei Uhr zwanzig", "at 2:20"), ("um zwölf Uhr", "at noon"), ("um 8 Uhr", "at eight o'clock"),
        ("im Jahr 1938", "in nineteen thirty-eight"), ("neunzehnhundertachtunddreißig", "in 1938"),
        ("3 Millionen", "three million"), ("drei Millionen", "3 million"), ("1,5 Millionen", "1.5 million"),
        ("1,5 Millionen", "1,500,000"), ("3 Mio. €", "€3 million"),
        ("am 1.5.2024", "on May 1, 2024"), ("vom 1.5. bis 3.6.", "from 1 May to 3 June"),
        ("die 80er Jahre", "the eighties"), ("die 80er Jahre", "the 1980s"),
        ("minus 5 Grad", "-5 degrees"),
        ("-5 °C", "5 degrees below zero"), ("zwanzig Minuten", "twenty minutes"), ("14 Tage", "a fortnight"),
        ("anderthalb Stunden", "an hour and a half"), ("anderthalb Stunden", "1.5 hours"),
        ("20. Jahrhundert", "the twentieth century"),
        ("3:2 gewonnen", "won 3-2"), ("½ Liter", "half a litre"),
        ("hundert Leute", "a hundred people"), ("10 000 Leute", "10,000 people"), ("1 Hund", "a dog"),
        ("1990-1995", "1990 to 1995"), ("zwei Hunde", "both dogs"), ("Hallo", "5 dogs"),
        ("eine Dreiviertelstunde", "45 minutes"),
    ],
)  # fmt: skip
def test_the_same_number_in_both_languages(german: str, english: str) -> None:
    assert missing_numbers(said(german), english) == []


@pytest.mark.parametrize(
    ("german", "english", "missing"),
    [
        ("20.000 Leute", "20.000 people", "20.000"), ("20.000 Leute", "2,000 people", "20.000"),
        ("um halb neun", "at 9:30", "8:30 Uhr"), ("um halb neun", "at nine", "8:30 Uhr"),
        ("1,5 Stunden", "1,5 hours", "1,5"), ("-5 Grad", "5 degrees", "minus 5"),
        ("neunzehnhundertneunzig", "in 1919", "1990"), ("1,4 Millionen", "74 million", "1,4"),
        ("am 3. Oktober", "in October", "3"), ("14 Uhr 30", "at 2 p.m.", "14 Uhr 30"),
    ],
)  # fmt: skip
def test_another_number_is_missing(german: str, english: str, missing: str) -> None:
    assert missing in [quantity.text for quantity in missing_numbers(said(german), english)]


@pytest.mark.parametrize(
    ("german", "reworded"),
    [
        ("um halb eins", "um 12:30 Uhr"), ("es ist fünf vor halb neun Uhr", "es ist 8:25 Uhr"),
        ("um dreiviertel acht", "um 7:45 Uhr"), ("viertel nach eins", "1:15 Uhr"),
        ("um zehn nach acht.", "um 8:10 Uhr."), ("um zehn nach acht Tagen", "um zehn nach acht Tagen"),
        ("halb so groß", "halb so groß"), ("halb zehntausend", "halb zehntausend"),
        ("ein Viertel vor allem", "ein Viertel vor allem"), ("er kam nach zehn", "er kam nach zehn"),
        ("$3 und 5,50 €", "3 Dollar und 5,50 Euro"), ("5 % davon", "5 % davon"), ("1,85 m", "1,85 Meter"),
        ("Haus & Hof", "Haus und Hof"), ("80 kg", "80 kg"),
        ("am 31.12.2025", "am 31. Dezember 2025"), ("am 31.13.2025", "am 31.13.2025"),
        ("um zehn nach sieben klingelte es", "um 7:10 Uhr klingelte es"),
        ("A&B", "A und B"), ("10-15", "10-15"),
    ],
)  # fmt: skip
def test_rewording_keeps_the_meaning(german: str, reworded: str) -> None:
    assert said(german) == reworded


def test_soft_and_firm_numbers() -> None:
    firm = {quantity.text: quantity.firm for quantity in read_german("Gib acht auf 7 von hundertfünfzig")}
    assert firm == {"8": False, "7": True, "150": True}


def test_spelled_digits_are_written_as_people_do() -> None:
    assert spell_digits("eins komma vier millionen") == "1,4 Millionen"
    assert spell_digits("um zwei uhr zwanzig") == "um 2:20 Uhr"
    assert spell_digits("Er hat acht Hunde") == "Er hat 8 Hunde"
    assert spell_digits("Guten Tag") == "Guten Tag"


def test_english_separators_and_signs() -> None:
    german = "20.000 € und 1.234,56 kg, -5 Grad, § 5"
    english = "20.000 euros and 1.234,56 kg, Minus 5 degrees, Paragraph 5, 1,5 hours"
    assert write_english(english, german) == "€20,000 and 1,234.56 kg, -5 degrees, § 5, 1.5 hours"
    assert english_digits("1.234.567,89") == "1,234,567.89" and english_digits("10 000") == "10,000"


def test_a_simpler_number_is_put_back_only_where_it_is() -> None:
    (quantity,) = read_german("Es starben 1,4 Millionen Menschen")
    swapped = swap_numbers("Es starben 1,4 Millionen Menschen", [quantity])
    assert swapped.text == "Es starben 20 Millionen Menschen"
    assert swapped.put_back("Twenty million people died") == "1.4 million people died"
    assert swapped.put_back("Many people died") == "Many people died"


@given(st.integers(13, 10**9))
def test_every_whole_number_is_found_with_either_separators(number: int) -> None:
    german, english = f"{number:,}".replace(",", "."), f"{number:,}"
    assert missing_numbers(f"Es sind {german} Stück.", f"There are {english} pieces.") == []
    assert missing_numbers(f"Es sind {number} Stück.", f"There are {english} pieces.") == []
    assert missing_numbers(f"Es sind {german} Stück.", f"There are {number + 1} pieces.") != []


@given(st.integers(0, 23), st.integers(0, 59))
def test_every_time_is_found(hour: int, minute: int) -> None:
    german = f"Um {hour}:{minute:02d} Uhr."
    assert missing_numbers(german, f"At {hour}:{minute:02d}.") == []
    assert missing_numbers(german, f"At {hour % 12 or 12}:{minute:02d} pm.") == []
    assert missing_numbers(german, f"At {(hour + 1) % 12 or 12}:{minute:02d} pm.") != []
