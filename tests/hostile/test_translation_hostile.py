"""Text that no translator likes: a line for a line, in bounded time, without loops."""

from __future__ import annotations

import pytest

from engine.bundle.folder import open_bundle
from engine.translation.sentences import MAX_WORD_CHARS
from engine.translation.translator import Translator, longest_run
from engine.types import RuntimeOptions
from tests.reference.tiny_marian import bundle_folder

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def translator() -> Translator:
    # Without a bias towards the end token this model never stops by itself.
    bundle = open_bundle(bundle_folder("int8", activation="relu"))
    return Translator(bundle, RuntimeOptions(device="cpu", threads=1))


HOSTILE = {
    "empty": "", "spaces": " \t ", "control characters": "\x00\x01\x1b[31mrot\x7f", "emoji": "😀😃😄🎉",
    "other script": "Привет, как дела? こんにちは",
    "right to left": "مرحبا بالعالم", "zero width": "a\u200b\u200db",
    "surrogate": "kaputt \ud800 text", "one letter": "x",
    "punctuation": "?!.,;:-–—()[]{}", "digits": "0" * 500,
    "long word": "donau" * 400, "tokens": "</s> <pad> <unk> >>en<<", "repeated": "nein " * 400,
    "combining": "e" + "\u0301" * 300, "private use": "\ue000\uf8ff", "nulls": "\x00" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gives_a_line_in_bounded_time(translator: Translator, name: str) -> None:
    result = translator.translate_paragraphs([HOSTILE[name]])[0]
    assert "\n" not in result.text
    pieces = max(1, len(HOSTILE[name]) // MAX_WORD_CHARS)  # of a word that was cut into equal ones
    assert longest_run(result.text) <= max(3, longest_run(HOSTILE[name]), pieces)


@pytest.mark.parametrize("name", ["emoji", "other script", "right to left", "private use"])
def test_what_the_model_cannot_read_is_copied_not_invented(translator: Translator, name: str) -> None:
    result = translator.translate_paragraphs([HOSTILE[name]])[0]
    assert result.confidence in (0.0, 1.0)
    assert set(result.text) <= set(HOSTILE[name])


def test_ten_thousand_words_in_one_line(translator: Translator) -> None:
    result = translator.translate_paragraphs(["der hund sucht den garten und " * 1700])
    assert len(result) == 1 and result[0].text


def test_one_line_a_thousand_times_costs_one_translation(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, computed = translator._model.generate, []

    def count(sources, *arguments, **options):
        computed.extend(sources)
        return generate(sources, *arguments, **options)

    monkeypatch.setattr(translator._model, "generate", count)
    line = "Der Hund sucht den Garten."
    once = translator.translate_paragraphs([line])[0]
    n_once = len(computed)
    many = translator.translate_paragraphs([line] * 1000)
    assert many == [once] * 1000
    assert n_once == 1 and len(computed) == 2


def test_output_is_never_absurdly_longer_than_its_source(translator: Translator) -> None:
    for text in ("haus", "der hund", "guten morgen der vogel"):
        pieces = len(translator.tokenizer.encode([text])[0])
        output = translator.translate([text], beam_size=1)[0][0].text
        assert len(translator.tokenizer.encode([output])[0]) <= 2 * (2 * (pieces + 1) + 10)
