"""Nothing is dropped: what must be copied is in the translation, whatever the model makes of the sentence."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.bundle.folder import open_bundle
from engine.translation.careful import Characters, prepare, translate_carefully
from engine.translation.placeables import find_spans
from engine.translation.translator import Translator
from engine.types import RuntimeOptions, TranslationHypothesis

COPIED = (
    "https://www.example.org/pfad?x=1&y=2", "max.muster@example.org", "@max_muster", "#Sommer",
    "C:\\Users\\Max",
    "/usr/share/doc/x", "+49 89 1234567", "0171 2345678", "notes.txt", "snake_case", "`x = 1`", "2 + 2 = 4",
    "Łódź", "Żółć", "Привет", "DE89 3704 0044 0532 0130 00", "1234567890123",
)  # fmt: skip
MARKS = ("👍", "👨‍👩‍👧", "→", "<br>", "**", "[", "]", "♪", "•")
WORDS = ("Das", "Haus", "ist", "schön", "und", "wir", "gehen", "heute", "dorthin", "zurück")


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(open_bundle(None), RuntimeOptions(device="cpu", threads=1))


@pytest.fixture(scope="module")
def characters(translator: Translator) -> Characters:
    return Characters(translator.tokenizer)


def forgetful(share: float, seed: int):  # type: ignore[no-untyped-def]
    """A translator that shuffles words, and loses some."""

    def translate(texts: list[str]) -> list[list[TranslationHypothesis]]:
        rng = random.Random(seed)
        found = []
        for text in texts:
            words = [word for word in text.split() if rng.random() >= share]
            rng.shuffle(words)
            found.append([TranslationHypothesis(" ".join(words) or "x", -1.0, 0.5)])
        return found

    return translate


sentences = st.lists(st.sampled_from([*WORDS, *WORDS, *COPIED, *MARKS]), min_size=1, max_size=14)


@settings(deadline=None, max_examples=150)
@given(sentences, st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
@example(["2 + 2 = 4", "+49 89 1234567"], 0.0, 0)  # a sum does not go on with a sign that begins a number
def test_whatever_a_model_loses_copies_and_marks_are_there(
    characters: Characters, tokens: list[str], share: float, seed: int
) -> None:
    text = " ".join(tokens)
    (found,) = translate_carefully([text], characters, forgetful(share, seed))
    for token in tokens:
        if token not in WORDS:
            assert found.text.count(token) >= tokens.count(token), (text, found.text)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_spans_are_the_text(characters: Characters, text: str) -> None:
    assert "".join(span.text for span in find_spans(text, characters.unknown)) == text
    prepare(text, characters)


LINES = {
    "Das ist **wichtig** und _kursiv_.": r"\*\*important\*\* .*_\w+_\.",
    "<p>Das ist <b>gut</b>.</p>": r"<p>.*<b>good</b>\.</p>",
    "‚Hallo‘": r"'Hall?o'|'Hello'",
    "Das Auto kostet 20.000 €.": r"The car costs €20,000\.",
    "Das Haus & der Garten sind schön.": r"house and the garden",
    "Das ist toll 👍 und schön.": r"👍",
    "Er wohnt in Łódź und heißt Żółć.": r"lives in Łódź and .*Żółć",
    "Besuchen Sie https://www.example.org/pfad?x=1 heute.": r"https://www\.example\.org/pfad\?x=1 today",
    "Schreiben Sie an max@example.org.": r"Write to max@example\.org\.",
    "0049 170 1234567 ist meine Nummer.": r"0049 170 1234567 is my number",
    "Wir treffen uns um halb neun.": r"8:30",
    "Im Jahr 2019 starben 1,4 Millionen Menschen.": r"1\.4 million",
    "Es sind -5 °C.": r"-5 degrees",
}


def test_lines_that_once_lost_something(translator: Translator) -> None:
    for line, found in zip(LINES, translator.translate_paragraphs(list(LINES)), strict=True):
        assert re.search(LINES[line], found.text), (line, found.text)
        assert not found.warnings


def test_a_line_alone_and_among_others_is_the_same(translator: Translator) -> None:
    lines = [*LINES, "Привет мир", "Guten Morgen!", "Er hat hundertzwanzig Schafe und 17 Hunde."]
    together = translator.translate_paragraphs(lines)
    assert together == [translator.translate_paragraphs([line])[0] for line in lines]
    assert together[::-1] == translator.translate_paragraphs(lines[::-1])


def test_what_holds_no_word_to_translate_is_copied(translator: Translator) -> None:
    for line in ("Привет, как дела?", "👍👍", "https://example.org/a", "12345678901", "2 + 2 = 4"):
        found = translator.translate_paragraphs([line])[0]
        assert found.text == line


def test_a_long_address_is_not_cut(translator: Translator) -> None:
    address = "https://example.org/" + "a" * 300
    assert address in translator.translate_paragraphs([f"Siehe {address} für mehr."])[0].text


def test_a_number_that_stays_missing_is_a_warning(characters: Characters) -> None:
    (found,) = translate_carefully(["Es sind 4711 Schafe."], characters, forgetful(1.0, 0))
    assert found.warnings == ("the number '4711' is not in the translation of 'Es sind 4711 Schafe.'",)
    (none,) = translate_carefully(["Gib acht auf dich."], characters, forgetful(1.0, 0))
    assert none.warnings == ()
