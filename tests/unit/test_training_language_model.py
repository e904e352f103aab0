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
from engine.errors import OptionError
from engine.text import VOCABULARY
from tests.reference.ctc_beam_reference import ArpaReference
from training.lm import kenlm_tools, language_model
from training.lm.kenlm_tools import KenlmBuildError, find_tool

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
needs_lmplz = pytest.mark.skipif(
    not shutil.which("lmplz", path=os.environ.get("KENLM_BIN")),
    reason="lmplz is neither on PATH nor in $KENLM_BIN",
)


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
    with pytest.raises(SystemExit, match=r"training\.lm\.kenlm_tools"):
        find_tool("lmplz")


def test_missing_boost_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(kenlm_tools, "BOOST_FOLDERS", (str(tmp_path),))
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.delenv("BOOST_ROOT", raising=False)
    monkeypatch.setattr(kenlm_tools.sys, "prefix", str(tmp_path))
    with pytest.raises(KenlmBuildError, match=r"no boost headers.*apt-get install.*BOOST_ROOT"):
        kenlm_tools.find_boost()
    monkeypatch.setenv("BOOST_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(KenlmBuildError, match="elsewhere"):
        kenlm_tools.find_boost()


def test_boost_is_found_by_its_headers_and_needs_its_libraries(monkeypatch, tmp_path):
    header = tmp_path / kenlm_tools.BOOST_HEADER
    header.parent.mkdir(parents=True)
    header.touch()
    monkeypatch.setenv("BOOST_ROOT", str(tmp_path))
    with pytest.raises(KenlmBuildError, match="without its libraries program_options"):
        kenlm_tools.find_boost()
    (tmp_path / "lib" / "x86_64-linux-gnu").mkdir(parents=True)
    for name in kenlm_tools.BOOST_LIBRARIES:
        (tmp_path / "lib" / "x86_64-linux-gnu" / f"libboost_{name}.so").touch()
    assert kenlm_tools.find_boost() == tmp_path


@pytest.mark.parametrize("weights", ["1", "a,b", "-1,2", "0,0", "tuned"])
def test_weights_that_cannot_be_used_end_the_command(weights, tmp_path):
    parser = argparse.ArgumentParser()
    language_model.add_arguments(parser)
    options = parser.parse_args(["a.txt", "b.txt", f"--weights={weights}", "--out", str(tmp_path)])
    with pytest.raises(OptionError, match="weights"):
        language_model.run(options)


@needs_lmplz
def test_weights_mix_the_models_of_the_texts(tmp_path):
    """More weight for a text lowers the perplexity of sentences like its own; tuned weights do best."""
    parser = argparse.ArgumentParser()
    language_model.add_arguments(parser)
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    texts[0].write_text("der zug kommt heute\nder hund kommt\nein zug kommt\n" * 3 + "der zug liegt\n")
    texts[1].write_text("das sofa liegt dort\nder zug liegt dort\ndas sofa steht dort\n" * 3 + "sofa\n")
    dev = tmp_path / "dev.txt"
    dev.write_text("der zug kommt heute\nein hund kommt\ndas sofa liegt\n")
    found = {}
    for weights in ("1,9", "9,1", "tuned"):
        out = tmp_path / weights
        common = ["--weights", weights, "--dev", str(dev), "--prune", "0", "--memory", "50M", "--bits", "0"]
        options = parser.parse_args([*map(str, texts), *common, "--out", str(out)])
        assert language_model.run(options) == 0
        found[weights] = json.loads((out / "card.json").read_text())
    perplexities = {name: card["development"]["perplexity"] for name, card in found.items()}
    assert perplexities["9,1"] < perplexities["1,9"]
    assert perplexities["tuned"] <= min(perplexities.values()) * 1.001
    assert found["9,1"]["interpolation"]["weights"] == [0.9, 0.1]
    assert sum(found["tuned"]["interpolation"]["weights"]) == pytest.approx(1.0, abs=1e-3)


@needs_lmplz
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
