"""Scores of every kind of KenLM file against KenLM's own, and ARPA files against the definition."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest

from engine.decoding.ngram import NgramModel
from tests.reference.ctc_beam_reference import ArpaReference

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
FILES = ["tiny.probing.bin", "tiny.trie.bin", "tiny.quantised.bin", "tiny.array.bin", "tiny.arpa"]
N_SENTENCES = 10_000


@functools.cache
def sentences() -> list[list[str]]:
    """Runs of the training text, spliced and with unknown words."""
    rng = np.random.default_rng(5)
    text = (FIXTURES / "tiny.txt").read_text(encoding="utf-8").split()
    out = []
    for _ in range(N_SENTENCES):
        words = []
        while len(words) < rng.integers(0, 12):
            begin = rng.integers(len(text))
            words += text[begin : begin + rng.integers(1, 5)]
            words += ["unbekanntes"] * int(rng.random() < 0.2)
        out.append(words)
    return out


@pytest.mark.parametrize("name", FILES)
def test_scores_equal_kenlm(name):
    kenlm = pytest.importorskip("kenlm")
    theirs, ours = kenlm.Model(str(FIXTURES / name)), NgramModel(FIXTURES / name)
    for words in sentences():
        expected = [row[0] for row in theirs.full_scores(" ".join(words))]
        np.testing.assert_allclose(ours.score_words(words), expected, atol=1e-4)
    assert ours.score("der zug", bos=False, eos=False) == pytest.approx(
        theirs.score("der zug", bos=False, eos=False), abs=1e-4
    )


@pytest.mark.parametrize("name", ["tiny.probing.bin", "tiny.trie.bin", "tiny.arpa"])
def test_scores_equal_the_definition(name):
    reference, model = ArpaReference(FIXTURES / "tiny.arpa"), NgramModel(FIXTURES / name)
    for words in sentences()[:300]:
        expected = [reference.score(("<s>", *words[:i]), word) for i, word in enumerate([*words, "</s>"])]
        np.testing.assert_allclose(model.score_words(words), expected, atol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_vocabulary_and_unigrams(name):
    reference, model = ArpaReference(FIXTURES / "tiny.arpa"), NgramModel(FIXTURES / name)
    words = model.read_vocabulary()
    assert set(words) - {"<unk>", "<s>", "</s>"} == reference.words
    assert model.find_words(words).tolist() == list(range(model.n_words))
    assert "zug" in model and "unbekanntes" not in model
    probs = model.read_unigrams()
    assert probs[words.index("zug")] == pytest.approx(reference.score((), "zug"), abs=1e-4)


def test_model_survives_pickling():
    model = NgramModel(FIXTURES / "tiny.trie.bin")
    assert pickle.loads(pickle.dumps(model)).score("der zug") == model.score("der zug")


def test_arpa_without_pruned_endings_scores_by_backing_off(tmp_path):
    """A trigram may be listed though its last two words are not: their probability backs off."""
    lines = [
        "\\data\\", "ngram 1=5", "ngram 2=2", "ngram 3=1", "",
        "\\1-grams:", "-1.0\t<unk>", "0\t<s>\t-0.3", "-0.9\t</s>", "-0.7\ta\t-0.2", "-0.8\tb\t-0.1", "",
        "\\2-grams:", "-0.4\t<s> a\t-0.05", "-0.5\ta a", "",
        "\\3-grams:", "-0.1\t<s> a b", "", "\\end\\", "",
    ]  # fmt: skip
    path = tmp_path / "gaps.arpa"
    path.write_text("\n".join(lines))
    model, reference = NgramModel(path), ArpaReference(path)
    for text in ("a b", "b a b", "a a b", "a b a", "a x b"):
        words = text.split()
        expected = [reference.score(("<s>", *words[:i]), word) for i, word in enumerate(words)]
        np.testing.assert_allclose(model.score_words(words, eos=False), expected, atol=1e-5)
