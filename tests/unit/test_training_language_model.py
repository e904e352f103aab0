"""The language-model command's parts; the whole of it where lmplz is installed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.decoding import CtcBeamDecoder
from engine.decoding.ngram import NgramModel
from engine.text import VOCABULARY
from tests.reference.ctc_beam_reference import ArpaReference
from training import language_model
from training.kenlm_tools import find_tool

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"


def test_vocabulary_follows_weighted_counts():
    texts = [["der zug der zug", "heute"], ["katze katze katze"]]
    assert language_model.choose_vocabulary(texts, [2, 1], 3) == ["der", "zug", "katze"]


def test_sentences_are_normalised_and_decompressed(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "text.txt.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"Der 3. Zug!\n\n...\nJa\n"))
    assert list(language_model.read_sentences(path)) == ["der dritte zug", "ja"]
    plain = tmp_path / "text.txt"
    plain.write_text("Der Zug\n")
    assert list(language_model.read_sentences(plain, normalized=True)) == ["Der Zug"]


def test_perplexity_is_that_of_the_definition():
    reference = ArpaReference(FIXTURES / "tiny.arpa")
    sentences = ["der zug kommt", "unbekannt ist der hund"]
    figures = language_model.measure_perplexity(NgramModel(FIXTURES / "tiny.trie.bin"), sentences)
    scores = [
        reference.score(("<s>", *words[:i]), word)
        for words in (s.split() for s in sentences)
        for i, word in enumerate([*words, "</s>"])
    ]
    assert figures.perplexity == pytest.approx(10 ** -np.mean(scores), rel=1e-3)
    assert (figures.tokens, figures.oov_rate) == (9, pytest.approx(1 / 9))


def test_missing_lmplz_names_the_command_that_builds_it(monkeypatch):
    monkeypatch.setenv("KENLM_BIN", "/nonexistent")
    with pytest.raises(SystemExit, match=r"training\.kenlm_tools"):
        find_tool("lmplz")


@pytest.mark.skipif(
    not shutil.which("lmplz", path=os.environ.get("KENLM_BIN")),
    reason="lmplz is neither on PATH nor in $KENLM_BIN",
)
def test_command_writes_a_model_that_the_decoder_loads(tmp_path):
    parser = argparse.ArgumentParser()
    language_model.add_arguments(parser)
    text = FIXTURES / "tiny.txt"
    dev, other = tmp_path / "dev.txt", tmp_path / "other.txt"
    dev.write_text("Der Zug kommt heute.\n")
    other.write_text("Der Hund kommt heute wieder.\nEs war einmal.\nDer Zug kommt heute.\n" * 20)
    arguments = [
        str(text),
        str(other),
        "--dev",
        str(dev),
        "--exclude",
        str(dev),
        "--prune",
        "0",
        "--memory",
        "50M",
    ]
    assert language_model.run(parser.parse_args([*arguments, "--out", str(tmp_path / "out")])) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["order"] == 3 and card["development"]["tokens"] == 5
    assert card["files"]["lm.bin"]["bytes"] == (tmp_path / "out" / "lm.bin").stat().st_size
    decoder = CtcBeamDecoder(
        VOCABULARY, tmp_path / "out" / "lm.bin", lexicon=tmp_path / "out" / "lexicon.npz"
    )
    assert "zug" in decoder.language_model
