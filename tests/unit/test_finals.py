"""How finals are written: each knows the text before it, sentences go on over a cut."""

from __future__ import annotations

import pytest

from engine.jobs.finals import FinalWriter
from engine.pipeline import SpeechTranslator
from engine.types import DecodingOptions, Word


def words(text: str) -> list[Word]:
    return [Word(word, 0.5 * i, 0.5 * i + 0.4, 0.9) for i, word in enumerate(text.split())]


def text_of(written: list[Word]) -> str:
    return " ".join(word.text for word in written)


def test_a_cut_in_a_sentence_ends_none_and_the_next_final_begins_none(translator: SpeechTranslator) -> None:
    writer = FinalWriter(DecodingOptions(), 1, translator._punctuator)
    first = text_of(writer.write(words("heute fahren wir mit dem"), False))
    second = text_of(writer.write(words("zug nach hamburg"), True))
    third = text_of(writer.write(words("das ist schön"), True))
    assert first == "Heute fahren wir mit dem"
    assert second == "Zug nach Hamburg."
    assert third.startswith("Das") and third.endswith(".")


def test_the_second_pass_writes_itself_and_only_a_sentence_begins_with_a_capital() -> None:
    writer = FinalWriter(DecodingOptions(passes=2), 2, None)
    written = [text_of(writer.write(words(text), paused)) for text, paused in (
        ("wir gehen", False), ("nach Hause.", True), ("danach essen wir", True))]  # fmt: skip
    assert written == ["Wir gehen", "nach Hause.", "Danach essen wir"]


def test_marks_are_told_beforehand_and_change_nothing(translator: SpeechTranslator) -> None:
    said = "heute fahren wir mit dem zug nach hamburg"
    writer = FinalWriter(DecodingOptions(), 1, translator._punctuator)
    assert writer.mark([]) == []
    marked = writer.mark(words(f"{said} das ist schön"))
    assert marked[7] == "Hamburg." and marked == writer.mark(words(f"{said} das ist schön"))
    assert text_of(writer.write(words(said), True)) == "Heute fahren wir mit dem Zug nach Hamburg."
    assert FinalWriter(DecodingOptions(passes=2), 2, None).mark(words("nach Hause. Dann")) == [
        "nach", "Hause.", "Dann",
    ]  # fmt: skip


@pytest.mark.parametrize("passes", [1, 2])
def test_without_punctuation_and_with_digits(translator: SpeechTranslator, passes: int) -> None:
    options = DecodingOptions(punctuation=False, numbers="digits")
    writer = FinalWriter(options, passes, translator._punctuator)  # type: ignore[arg-type]
    assert text_of(writer.write(words("um zwanzig uhr"), True)) == "um 20 uhr"
    assert writer.write([], True) == []
    assert FinalWriter(options, 2, None).write(words("..."), True) == []


def test_a_model_without_punctuation() -> None:
    writer = FinalWriter(DecodingOptions(), 1, None)
    assert text_of(writer.write(words("guten morgen"), True)) == "guten morgen"
