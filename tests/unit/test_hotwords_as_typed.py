"""Hotwords, labels and language models in the forms in which people type, save and compress them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.labels import build_labels
from engine.decoding.lexicon import load_lexicon
from engine.decoding.ngram import NgramModel
from engine.decoding.phrases import spell_phrase
from engine.errors import LanguageModelError
from engine.text import VOCABULARY

LABELS = build_labels(VOCABULARY, 0, "|")
APART = ["<pad>", "|", *"abcdefghijklmnopqrstuvwxyzß", "\u0308"]  # an accent is a label of its own
ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-1.2\t</s>
-1.0\tgroße\t-0.2
-1.1\tmüde\t-0.2
-1.3\tkatze

\\2-grams:
-0.3\tgroße katze
-0.4\t<s> große
-0.5\tmüde </s>

\\end\\
"""


def forms(text: str) -> list[str]:
    return [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]


@pytest.mark.parametrize(
    ("typed", "ways"),
    [
        ("Rothenburg ob der Tauber", ["rothenburg|ob|der|tauber"]),
        ("U-Bahn", ["u|bahn"]),
        ("Garmisch-Partenkirchen", ["garmisch|partenkirchen"]),
        ("Müller-Lüdenscheidt", ["müller|lüdenscheidt"]),
        ("René", ["rene"]),
        ("Dr. Müller", ["dr|müller", "doktor|müller"]),
        ("3D", ["drei|d"]),
        ("2024", ["zweitausendvierundzwanzig"]),
        ("Kolleg*innen", ["kolleg|innen"]),
        ("Rock’n’Roll", ["rocknroll"]),
        ("AT&T", ["at|und|t"]),
        ("50 %", ["fünfzig|prozent"]),
        ("Łódź", ["lodz"]),
        ("STRASSE", ["strasse"]),
    ],
)
def test_what_people_type_is_spelled(typed: str, ways: list[str]) -> None:
    for form in forms(typed):
        assert [LABELS.spell(tokens) for tokens in spell_phrase(LABELS, form)] == ways


@pytest.mark.parametrize("typed", ["東京", "C++", "C#", "m²", "", "  ", "...", "Москва Bahn", "👍"])
def test_what_has_no_letters_here_is_not_cut_down_to_what_has(typed: str) -> None:
    assert spell_phrase(LABELS, typed) == []


def test_other_vocabularies_spell_them_too() -> None:
    upper = build_labels(["<pad>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ"], 0, "|")
    assert [upper.spell(tokens) for tokens in spell_phrase(upper, "Bad-Straße")] == ["BAD|STRASSE"]
    apart = build_labels(APART, 0, "|")
    assert [apart.spell(tokens) for tokens in spell_phrase(apart, "Müller")] == ["müller"]
    hyphen = build_labels([*VOCABULARY, "-"], 0, "|")
    assert [hyphen.spell(tokens) for tokens in spell_phrase(hyphen, "U-Bahn")] == ["u-bahn"]
    no_words = build_labels(["<pad>", *"abcdefghijklmnopqrstuvwxyz"], 0, "|")
    assert spell_phrase(no_words, "U-Bahn") == []


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_spelled_or_not_and_nothing_else(text: str) -> None:
    for tokens in spell_phrase(LABELS, text):
        assert tokens and all(LABELS.is_letter(token) or token == LABELS.delimiter_id for token in tokens)
        assert LABELS.delimiter_id not in (tokens[0], tokens[-1])
    assert spell_phrase(LABELS, unicodedata.normalize("NFD", text)) == spell_phrase(LABELS, text)


def test_a_vocabulary_typed_on_a_mac_is_the_same_vocabulary() -> None:
    mac = build_labels([unicodedata.normalize("NFD", label) for label in VOCABULARY], 0, "|")
    assert mac.vocabulary == LABELS.vocabulary and not mac.combining


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, APART], ids=["letters", "accents"])
def test_a_language_model_in_either_form_knows_its_words(
    tmp_path: Path, form: str, vocabulary: list[str]
) -> None:
    path = tmp_path / "model.arpa"
    path.write_text(unicodedata.normalize(form, ARPA), encoding="utf-8")
    decoder = CtcBeamDecoder(list(vocabulary), path)
    labels = decoder.labels
    tokens = [
        labels.index[char] for char in (unicodedata.normalize("NFD", "müde") if labels.combining else "müde")
    ]
    log_probs = np.full((2 * len(tokens), len(labels)), -20.0, np.float32)
    log_probs[np.arange(len(tokens)) * 2, tokens] = log_probs[np.arange(len(tokens)) * 2 + 1, 0] = 0.0
    (found,) = decoder.decode(log_probs)
    assert found.text == "müde"
    assert decoder.language_model is not None
    for word in forms("müde"):
        assert word in decoder.language_model
        assert decoder.language_model.score(word) == pytest.approx(-0.3 - 1.1 - 0.5, abs=1e-6)
    decoder.save_lexicon(tmp_path / "lexicon.npz")
    assert len(load_lexicon(tmp_path / "lexicon.npz", labels, decoder.language_model)) == len(decoder._trie)
    known = CtcBeamDecoder(list(vocabulary), path, [unicodedata.normalize(form, "große"), "katze"])
    assert (known._trie.word > 0).sum() == 2


def test_minus_infinity_is_as_good_as_impossible(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_text(ARPA.replace("-1.0\t<unk>", "-inf\t<unk>").replace("-99", "-inf"), encoding="utf-8")
    model = NgramModel(path)
    assert model.score("große katze") == pytest.approx(-0.4 - 0.3 - 1.2, abs=1e-6)
    assert -150 < model.score("hund") < -100
    for wrong in ("nan", "inf", "0.5"):
        path.write_text(ARPA.replace("-1.3", wrong), encoding="utf-8")
        with pytest.raises(LanguageModelError, match="line 11"):
            NgramModel(path)


def test_a_word_in_two_forms_is_one_word(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    twice = ARPA.replace("ngram 1=6", "ngram 1=7")
    path.write_text(twice.replace("-1.3\tkatze", "-1.3\tkatze\n-0.9\tmu\u0308de\t-0.1"), encoding="utf-8")
    model = NgramModel(path)
    assert model.n_words == 6 and model.score("müde", bos=False, eos=False) == pytest.approx(-0.9)


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_read_whole_or_not_at_all(tmp_path: Path, packed) -> None:
    plain, path = tmp_path / "model.arpa", tmp_path / "model.arpa.gz"
    plain.write_text(ARPA, encoding="utf-8")
    path.write_bytes(packed(ARPA.encode()))
    assert NgramModel(path).score("große katze") == NgramModel(plain).score("große katze")
    path.write_bytes(packed(ARPA.encode())[:-20])
    with pytest.raises(LanguageModelError, match="unpacked"):
        NgramModel(path)


def test_a_small_file_that_unpacks_to_a_huge_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.decoding.arpa.MAX_TEXT_BYTES", 1 << 20)
    path = tmp_path / "model.arpa.gz"
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(LanguageModelError, match="unpacks to more"):
        NgramModel(path)
