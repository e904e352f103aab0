"""Text normalisation: what a recogniser can spell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import LETTERS, VOCABULARY, normalize_text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Guten Morgen, Herr Müller!", "guten morgen herr müller"),
        ("STRAẞE", "straße"),
        ("Es kostet 3,50 €.", "es kostet drei euro fünfzig"),
        (
            "1.234.567 Menschen",
            "eine million zweihundertvierunddreißigtausendfünfhundertsiebenundsechzig menschen",
        ),
        ("Am 3. Oktober", "am dritten oktober"),
        ("Der 2. Weltkrieg", "der zweite weltkrieg"),
        ("2. Liga", "zweite liga"),
        ("Café Señor Łódź", "cafe senor lodz"),
        ("E-Mail", "e mail"),
        ("geht's", "gehts"),
        ("5 % & mehr", "fünf prozent und mehr"),
        ("", ""),
        ("!?…", ""),
        ("Привет", ""),
    ],
)
def test_examples(written: str, spoken: str) -> None:
    assert normalize_text(written) == spoken


def test_decomposed_umlauts_are_umlauts() -> None:
    assert normalize_text("u\u0308ber") == "über"


@given(st.text(max_size=200))
def test_any_text_is_reduced_to_letters_and_single_spaces_and_stays_so(text: str) -> None:
    normal = normalize_text(text)
    assert set(normal) <= set(LETTERS + " ")
    assert normal == " ".join(normal.split())
    assert normalize_text(normal) == normal


def test_the_vocabulary_has_blank_first_and_no_repeats() -> None:
    assert VOCABULARY[:2] == ("<pad>", "|")
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 32
