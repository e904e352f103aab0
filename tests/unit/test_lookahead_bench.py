"""The study of lookahead: what it draws, which words it takes for known, and its result."""

import json
from pathlib import Path

import pytest

from benchmarks.errors import MeasurementError
from benchmarks.kernels.lookahead import draw, main, spell
from engine.decoding import settings
from engine.decoding.labels import build_labels
from engine.decoding.lexicon import build_lexicon
from engine.decoding.ngram import NgramModel
from engine.text import VOCABULARY

FIXTURES = Path(__file__).parents[1] / "data" / "decoder"
SENTENCES = [f"Im Garten steht {word} neben der Tür." for word in "Haus Baum Rad Tisch Stuhl Kind".split()]


def test_words_of_a_trie_are_those_that_the_model_knows() -> None:
    words = ["zug", "der", "schmeckt", "xylophon"]  # the last is not in the model
    trie = build_lexicon(build_labels(VOCABULARY, 0, "|"), NgramModel(FIXTURES / "tiny.trie.bin"), words)
    assert spell(trie) == {"zug", "der", "schmeckt"}


def test_halves_are_of_different_sentences_and_the_same_each_time(tmp_path) -> None:
    text = tmp_path / "text.tsv"
    lines = [f"{number}\t{sentence}\tEnglish." for number, sentence in enumerate([*SENTENCES, SENTENCES[0]])]
    text.write_text("\n".join(lines) + "\n")
    for_choosing, for_reporting = draw(text, VOCABULARY, 3)
    assert len(for_choosing.texts) == len(for_choosing.emissions) == 3
    assert len({*for_choosing.texts, *for_reporting.texts}) == 6
    assert "im garten steht haus neben der tür" in {*for_choosing.texts, *for_reporting.texts}
    again = draw(text, VOCABULARY, 3)[1]
    assert again.texts == for_reporting.texts
    assert (again.emissions[2] == for_reporting.emissions[2]).all()


def test_too_little_text_is_refused(tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES) + "\nJa.\n")
    with pytest.raises(MeasurementError, match="6 different sentences of 3 to 30 words"):
        draw(text, VOCABULARY, 4)


def test_each_half_is_measured_and_the_engine_left_as_it_was(tmp_path, capsys) -> None:
    text, result = tmp_path / "text.txt", tmp_path / "out.json"
    text.write_text("\n".join(SENTENCES) + "\n")
    before = settings.UNFINISHED_UNKNOWN
    arguments = ["--text", str(text), "--utterances", "3", "--settings", "default", "--json", str(result)]
    assert main(arguments) == 0
    assert before == settings.UNFINISHED_UNKNOWN
    found = json.loads(result.read_text())
    assert set(found["sets"]) == {"text, development", "text, held out"}
    half = found["sets"]["text, development"]
    assert half["utterances"] == 3
    assert set(half["default"]) == {
        "without", "lookahead, -inf", *(f"lookahead, -{limit}" for limit in range(8, 13))
    }  # fmt: skip
    assert all(0 <= row["wer"] < 60 for row in half["default"].values())
    assert "command" in found
    assert "text, held out" in capsys.readouterr().out
