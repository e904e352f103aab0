"""Names: which words are, and that a translation holds them, whatever the model makes of the sentence."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle.folder import open_bundle
from engine.errors import BundleSchemaError
from engine.translation.careful import Characters, prepare, translate_carefully
from engine.translation.names import BITS, WORD, Name, NameFinder, features
from engine.translation.translator import Translator
from engine.types import RuntimeOptions, TranslationHypothesis


@pytest.fixture(scope="module")
def loaded() -> Translator:
    return Translator(open_bundle(None), RuntimeOptions(device="cpu", threads=1))


@pytest.fixture(scope="module")
def characters(loaded: Translator) -> Characters:
    return Characters(loaded.tokenizer)


@pytest.fixture(scope="module")
def finder() -> NameFinder:
    return NameFinder.read(open_bundle(None).read("mt_names"))


def answers(table: dict[str, str | list[str]]):  # type: ignore[no-untyped-def]
    """A translator that knows these texts, and the texts that it was asked for."""
    asked: list[str] = []

    def translate(texts: list[str]) -> list[list[TranslationHypothesis]]:
        asked.extend(texts)
        found = [table.get(text, "nothing") for text in texts]
        return [
            [TranslationHypothesis(one, -1.0, 0.5) for one in ([each] if isinstance(each, str) else each)]
            for each in found
        ]

    return translate, asked


class Knows(NameFinder):
    """Finds these words."""

    def __init__(self, **chances: float) -> None:
        super().__init__(np.zeros(1 << BITS, np.int8), 1.0, 0.0)
        self.chances = chances

    def find(self, text: str, at_least: float) -> list[Name]:
        words = [match for match in WORD.finditer(text) if self.chances.get(match[0], 0.0) >= at_least]
        return [Name(match.start(), match.end(), self.chances[match[0]], False) for match in words]


NAMES = (
    ("Er war anschließend in der Seelsorge im Erzbistum Nairobi tätig.", "Nairobi"),
    ("Zur nächsten Saison kehrte er zum Ternana Calcio zurück.", "Ternana"),
    ("Warum hat Jüllich ein falsches Geständnis abgelegt?", "Jüllich"),
    ("Tatjana zog die anderen Mädels im Bollerwagen.", "Tatjana"),
)
NOUNS = (
    "Das Haus steht am Ende der Straße.", "Der Hund sucht seit gestern den Garten.",
    "Die Regierung tagt heute.",
)  # fmt: skip


def test_the_embedded_model_tells_names_from_nouns(finder: NameFinder) -> None:
    for text, name in NAMES:
        assert name in {text[one.start : one.end] for one in finder.find(text, 0.3)}
    assert not [found for text in NOUNS for found in finder.find(text, 0.3)]
    assert finder.find("er war in nairobi", 0.0) == []  # without capitals there are none
    assert finder.find("Montag, April, Mai", 0.0) == []


@pytest.mark.parametrize(("text", "name"), NAMES)
def test_the_embedded_translator_keeps_names(loaded: Translator, text: str, name: str) -> None:
    assert name in loaded.translate_text(text)


def test_what_a_sentence_becomes_does_not_depend_on_the_others(loaded: Translator) -> None:
    texts = [text for text, _ in NAMES]
    together = [found.text for found in loaded.translate_paragraphs(texts)]
    assert together == [loaded.translate_text(text) for text in texts]


def test_a_missing_name_is_put_in_for_its_stand_in(characters: Characters) -> None:
    text = "Gestern kam Ermershausen spät."
    translate, asked = answers(
        {text: "Yesterday came late.", "Gestern kam Tom spät.": "Tom came late yesterday."}
    )
    (found,) = translate_carefully([text], characters, translate, Knows(Ermershausen=0.9))
    assert found.text == "Ermershausen came late yesterday." and asked[1] == "Gestern kam Tom spät."
    (found,) = translate_carefully([text], characters, translate)
    assert found.text == "Yesterday came late."


def test_a_name_that_is_there_costs_no_second_translation(characters: Characters) -> None:
    text = "Gestern kam Ermershausen spät."
    translate, asked = answers({text: "ERMERSHAUSEN came late."})
    (found,) = translate_carefully([text], characters, translate, Knows(Ermershausen=0.9))
    assert found.text == "ERMERSHAUSEN came late." and asked == [text]


def test_neighbours_are_one_name_and_the_other_kind_is_tried(characters: Characters) -> None:
    text = "Gestern kam Stirling Moss spät."
    translate, asked = answers(
        {
            text: "Mosss came.",
            "Gestern kam Tom spät.": "Yesterday came late.",
            "Gestern kam Boston spät.": "Boston came late.",
        }
    )
    (found,) = translate_carefully([text], characters, translate, Knows(Stirling=0.9, Moss=0.9))
    assert found.text == "Stirling Moss came late." and len(asked) == 3


@pytest.mark.parametrize(
    ("english", "wanted"),
    [
        ("Satellite came late.", "Satellite came late."),  # doubtful, and nothing looks like a mangled name
        ("Satelit came late.", "Satellit came late."),
        ("a satelit came late.", "a satelit came late."),  # no name: those have capitals
    ],
)
def test_a_doubtful_word_is_a_name_where_the_english_mangles_it(
    characters: Characters, english: str, wanted: str
) -> None:
    text = "Gestern kam Satellit spät."
    known = {"Satellite came late.": 0.01}
    translate, _ = answers({text: english, "Gestern kam Tom spät.": "Tom came late."})
    finder = Knows(Satellit=known.get(english, 0.1))
    (found,) = translate_carefully([text], characters, translate, finder)
    assert found.text == wanted


def test_a_stand_in_that_nobody_put_there_is_no_translation(characters: Characters) -> None:
    text = "Bei Föhn sieht man bis zu den Alpen."
    translate, _ = answers(
        {text: "You see the Alps.", "Bei Tom sieht man bis zu den Alpen.": "Boston and Tom see the Alps."}
    )
    (found,) = translate_carefully([text], characters, translate, Knows(Föhn=0.9))
    assert found.text == "You see the Alps."


def test_numbers_go_before_names(characters: Characters) -> None:
    text = "Gestern kamen 20 Ermershausener spät."
    translate, _ = answers(
        {text: "20 people came late.", "Gestern kamen 20 Tom spät.": "Tom came late yesterday."}
    )
    (found,) = translate_carefully([text], characters, translate, Knows(Ermershausener=0.9))
    assert found.text == "20 people came late."


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.sampled_from(["Das", "kam", "Nairobi", "Jüllich", "www.a.de", "👍", "20", "Moss"]),
        min_size=1,
        max_size=9,
    ),
    st.integers(0, 9),
)
def test_any_sentence_keeps_what_is_copied_with_names_too(
    characters: Characters, tokens: list[str], seed: int
) -> None:
    text = " ".join(tokens)
    rng = random.Random(seed)

    def translate(texts: list[str]) -> list[list[TranslationHypothesis]]:
        lines = [" ".join(word for word in each.split() if rng.random() > 0.3) or "x" for each in texts]
        return [[TranslationHypothesis(line, -1.0, 0.5)] for line in lines]

    finder = Knows(Nairobi=0.9, Jüllich=0.5, Moss=0.4)
    (found,) = translate_carefully([text], characters, translate, finder)
    for token in ("www.a.de", "👍"):
        assert found.text.count(token) >= tokens.count(token)
    masked = prepare(text, characters, finder.find(text, 0.3))
    assert "Nairobi" not in masked.source(0)


def test_features_are_numbers_below_the_limit() -> None:
    text = 'Zur Saison kehrte er zum Ternana-Calcio zurück; "Ja!" O\'Neill'
    words = list(WORD.finditer(text))
    for index in range(len(words)):
        numbers = list(features(text, words, index))
        assert numbers and min(numbers) >= 0 and max(numbers) < 1 << BITS
        assert numbers == list(features(text, words, index))


def test_a_model_survives_writing(finder: NameFinder) -> None:
    again = NameFinder.read(finder.write())
    for text, _ in NAMES:
        assert again.find(text, 0.05) == finder.find(text, 0.05)


def damaged() -> dict[str, bytes]:
    import io

    def pack(**arrays: object) -> bytes:
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        return content.getvalue()

    weights = np.zeros(1 << BITS, np.int8)
    return {
        "empty": b"", "text": b"names", "cut": NameFinder(weights, 1.0, 0.0).write()[:200],
        "other arrays": pack(weights=weights), "short": pack(weights=weights[:9], numbers=np.ones(2)),
        "floats": pack(weights=weights.astype(np.float32), numbers=np.ones(2)),
        "nan": pack(weights=weights, numbers=np.array([np.nan, 0.0])),
        "objects": pack(weights=np.array([None]), numbers=np.ones(2)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_model_is_a_clear_error(kind: str) -> None:
    with pytest.raises(BundleSchemaError, match="mt_names"):
        NameFinder.read(damaged()[kind])


def test_training_and_the_exporter_give_a_bundle_names(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from export.cli import main as export_main
    from tests.reference import tiny_marian
    from training.cli import main as train_main

    rng = random.Random(0)
    lines = []
    for _ in range(8000):
        name = "".join(rng.choice(("ba", "ri", "to", "ne", "lu")) for _ in range(3)).capitalize()
        noun = rng.choice(("Garten", "Wagen", "Zeitung", "Wohnung", "Rechnung"))
        lines.append(f"Heute sieht {name} die {noun} dort.\tToday {name} sees the thing there.\tx")
    data, names = tmp_path / "pairs.tsv", tmp_path / "names.npz"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert train_main(["mt-names", "--data", str(data), "--out", str(names)]) == 0
    finder = NameFinder.read(names.read_bytes())
    text = "Heute sieht Lubato die Heizung dort."
    assert [text[one.start : one.end] for one in finder.find(text, 0.5)] == ["Lubato"]
    source = tiny_marian.bundle_folder("int8")
    assert export_main(["names", str(source), str(names), str(tmp_path / "bundle")]) == 0
    assert open_bundle(tmp_path / "bundle").read("mt_names") == names.read_bytes()
    assert Translator(open_bundle(tmp_path / "bundle")).translate_text("") == ""
    names.write_bytes(b"no model")
    assert export_main(["names", str(source), str(names), str(tmp_path / "other")]) == 1
    assert not (tmp_path / "other").exists()
    data.write_text("nur klein\tonly small\tx\n", encoding="utf-8")
    assert train_main(["mt-names", "--data", str(data), "--out", str(tmp_path / "none.npz")]) == 1
    assert not (tmp_path / "none.npz").exists()
