"""merging="pyctcdecode" against what pyctcdecode itself made of 300 utterances: data/decoder/README.md."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from engine.decoding import CtcBeamDecoder
from engine.decoding.pyctcdecode import BeamSearchDecoderCTC, build_ctcdecoder
from engine.errors import DecodingError
from tests.data.decoder.make_fixtures import read_logits

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
SEARCH = ["beam_width", "beam_prune_logp", "token_min_logp", "prune_history", "hotwords", "hotword_weight"]
OLD = {
    "decode": ["logits", *SEARCH, "lm_start_state"],
    "decode_beams": ["logits", *SEARCH, "lm_start_state"],
    "reset_params": ["alpha", "beta", "unk_score_offset", "lm_score_boundary"],
}
OLD_BUILD = [
    "labels",
    "kenlm_model_path",
    "unigrams",
    "alpha",
    "beta",
    "unk_score_offset",
    "lm_score_boundary",
]


@functools.cache
def emissions(name: str = "emissions.npz") -> tuple[list[str], list[np.ndarray]]:
    archive = np.load(FIXTURES / name)
    labels = archive["labels"].tobytes().decode().split("\n")
    steps, offsets = archive["steps"], archive["offsets"]
    logits = [read_logits(steps[a:b]) for a, b in itertools.pairwise(offsets)]
    return labels, logits


@functools.cache
def oracle(name: str = "pyctcdecode.json") -> dict:
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["no_lm", "lm", "lm_narrow", "hotwords", "hotwords_no_lm"])
def test_texts_and_scores_of_word_pieces_equal_pyctcdecode(name):
    labels, batch = emissions("emissions_pieces.npz")
    answers = oracle("pyctcdecode_pieces.json")[name]
    setting, expected = answers["setting"], answers["beams"]
    options = dict(setting["options"])
    settings = {key: options.pop(key) for key in ("beam_prune_logp",) if key in options}
    model = FIXTURES / "tiny.probing.bin" if setting["lm"] else None
    decoder = CtcBeamDecoder(labels, model, merging="pyctcdecode", **settings)
    differ = []
    for logits, beams in zip(batch, expected, strict=True):
        ours = decoder.decode(logits, n_best=10, logits=True, **options)
        if [h.text for h in ours] != [beam[0] for beam in beams]:
            differ.append(ours[0].text)
            continue
        assert ours[0].score == pytest.approx(beams[0][2], abs=0.03)
        assert ours[0].acoustic_score == pytest.approx(beams[0][1], abs=0.03)
    # of eight beams one goes to a text spelled by other pieces, whose blank ends pyctcdecode joins
    assert len(differ) <= (name == "lm_narrow")


@pytest.mark.parametrize("name", ["no_lm", "lm", "lm_narrow", "hotwords", "hotwords_no_lm"])
def test_texts_and_scores_equal_pyctcdecode(name):
    labels, batch = emissions()
    setting, expected = oracle()[name]["setting"], oracle()[name]["beams"]
    options = dict(setting["options"])
    settings = {key: options.pop(key) for key in ("beam_prune_logp",) if key in options}
    model = FIXTURES / "tiny.probing.bin" if setting["lm"] else None
    decoder = CtcBeamDecoder(labels, model, merging="pyctcdecode", **settings)
    n_best_equal, best_equal = 0, 0
    for logits, beams in zip(batch, expected, strict=True):
        ours = decoder.decode(logits, n_best=10, logits=True, **options)
        best_equal += ours[0].text == beams[0][0]
        n_best_equal += [h.text for h in ours] == [beam[0] for beam in beams]
        if ours[0].text == beams[0][0]:
            assert ours[0].score == pytest.approx(beams[0][2], abs=2e-3)
            assert ours[0].acoustic_score == pytest.approx(beams[0][1], abs=2e-3)
    assert best_equal == len(batch)
    assert n_best_equal >= 198  # sums over other pruned alignments may swap two close ones


def test_merging_by_prefix_reads_no_worse():
    """The better rule scores no empty last word; its best reading is never below pyctcdecode's own."""
    labels, batch = emissions()
    ours, theirs = (
        CtcBeamDecoder(labels, FIXTURES / "tiny.probing.bin", merging=merging, lookahead=False)
        for merging in ("prefix", "pyctcdecode")
    )
    better = sum(
        ours.decode(logits, logits=True, n_best=2)[0].score
        >= theirs.decode(logits, logits=True, n_best=2)[0].score - 1e-3
        for logits in batch
    )
    assert better >= 199


def test_build_ctcdecoder_has_the_old_shapes():
    labels, batch = emissions()
    old_labels = ["" if label == "<pad>" else " " if label == "|" else label for label in labels]
    decoder = build_ctcdecoder(old_labels, str(FIXTURES / "tiny.probing.bin"), alpha=0.5, beta=1.5)
    beams = decoder.decode_beams(batch[0], beam_width=64, hotwords=["zug"], beam_prune_logp=-8.0)
    text, state, frames, logit_score, lm_score = beams[0]
    assert state is None and lm_score != logit_score
    assert [word for word, _ in frames] == text.split()
    assert all(0 <= first < last <= len(batch[0]) for _, (first, last) in frames)
    assert decoder.decode_batch(None, batch[:3]) == [decoder.decode(logits) for logits in batch[:3]]
    probs = np.exp(batch[0] - np.logaddexp.reduce(batch[0], axis=1, keepdims=True))
    assert decoder.decode(probs) == decoder.decode(batch[0])
    batch_beams = decoder.decode_beams_batch(None, batch[:2], 16)
    assert [tuple(beam) for beam in batch_beams[0]] == [
        (beam.text, *beam[2:]) for beam in decoder.decode_beams(batch[0], 16)
    ]


def test_arguments_come_in_pyctcdecodes_order():
    """As inspect.signature lists them in pyctcdecode 0.5.0; a switch of our own comes last."""
    names = {
        name: list(inspect.signature(getattr(BeamSearchDecoderCTC, name)).parameters)[1:] for name in OLD
    }
    assert names == OLD
    assert list(inspect.signature(build_ctcdecoder).parameters)[:7] == OLD_BUILD


def test_settings_can_be_reset_and_states_are_refused():
    labels, batch = emissions()
    decoder, other = (build_ctcdecoder(labels, FIXTURES / "tiny.probing.bin", alpha=a) for a in (0.5, 1.2))
    decoder.reset_params(alpha=1.2)
    assert decoder.decode_beams(batch[0], 16) == other.decode_beams(batch[0], 16)
    with pytest.raises(DecodingError, match="lm_start_state"):
        decoder.decode(batch[0], lm_start_state=object())


@pytest.mark.filterwarnings("error")
def test_logits_that_overflow_or_cannot_be_used_are_not_a_warning():
    labels = ["", " ", "a", "b"]
    decoder = build_ctcdecoder(labels)
    assert decoder.decode(np.full((2, 4), 6e4, np.float16)) == decoder.decode(np.zeros((2, 4)))
    for logits in ([[np.inf, -np.inf, 0.0, 0.0]], [[1.0], [1.0, 2.0]], [[np.nan] * 4]):
        with pytest.raises(DecodingError):
            decoder.decode(logits)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_finds_the_same(method):
    labels, batch = emissions()
    decoder = build_ctcdecoder(labels, str(FIXTURES / "tiny.probing.bin"))
    here = decoder.decode_batch(None, batch[:4], 16)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert decoder.decode_batch(pool, batch[:4], 16) == here
