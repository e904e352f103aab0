"""The beam search against its slow twin."""

from __future__ import annotations

import functools
import gc
import itertools
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoding import CtcBeamDecoder, beam, decode_greedy
from engine.errors import DecodingError
from engine.kernels.ctc.extend import hash_context, mix_hash
from engine.kernels.ctc.ngram import CONTEXT
from engine.kernels.ctc.prune import keep_best
from engine.kernels.vector.lanes import LANES
from tests.reference.ctc_beam_reference import ArpaReference, BeamReference

pytestmark = pytest.mark.levels

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
ARPA, BINARY = FIXTURES / "tiny.arpa", FIXTURES / "tiny.probing.bin"
LETTERS = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüßé")
N_SETTINGS = 12
HOTWORDS = {"zug": 3.0, "der zug": 2.0, "dem sofa": 5.0, "xylo": 4.0}


@functools.cache
def language_model() -> ArpaReference:
    return ArpaReference(ARPA)


@functools.cache
def load(**options: object) -> CtcBeamDecoder:
    return CtcBeamDecoder(LETTERS, **options)  # type: ignore[arg-type]


def make_log_probs(seed: int, n_frames: int = 14, peak: float = 5.0) -> np.ndarray:
    """Random emissions that often spell pieces of known words."""
    rng = np.random.default_rng(seed)
    text = "der zug liegt auf dem sofa das xylo buch"
    begin = int(rng.integers(len(text) - n_frames))
    logits = rng.normal(0, 2.0, (n_frames, len(LETTERS)))
    for frame, char in enumerate(text[begin : begin + n_frames].replace(" ", "|")):
        logits[frame, LETTERS.index(char)] += peak
        logits[frame, 0] += rng.normal(3.0, 2.0)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def assert_like_twin(decoder: CtcBeamDecoder, twin: BeamReference, log_probs: np.ndarray, **options) -> None:
    ours = decoder.decode(log_probs, n_best=20, **options)
    theirs = twin.decode(log_probs)[:20]
    assert len(ours) == len(theirs)
    np.testing.assert_allclose([h.score for h in ours], [row[2] for row in theirs], atol=2e-3)
    by_text = {row[0]: row for row in theirs}
    for hypothesis in ours:
        if hypothesis.text in by_text:  # equal scores may change places at the end of the list
            np.testing.assert_allclose(hypothesis.acoustic_score, by_text[hypothesis.text][1], atol=2e-3)
        assert hypothesis.text == " ".join(word.text for word in hypothesis.words)
    assert ours[0].text == theirs[0][0] or abs(theirs[0][2] - theirs[1][2]) < 2e-3


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("beam_width", [1, 7, 64])
def test_without_language_model_equals_twin(seed, beam_width):
    log_probs = make_log_probs(seed)
    twin = BeamReference(LETTERS, beam_width=beam_width)
    assert_like_twin(load(), twin, log_probs, beam_width=beam_width)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("unk_letter_score", [0.0, -0.7])
def test_with_language_model_equals_twin(seed, lookahead, unk_letter_score):
    options = {"lookahead": lookahead, "unk_letter_score": unk_letter_score, "unk_score_offset": -3.0}
    decoder = load(language_model=BINARY, **options)
    twin = BeamReference(LETTERS, language_model(), beam_width=16, **options)
    assert_like_twin(decoder, twin, make_log_probs(seed), beam_width=16)


@pytest.mark.parametrize(("seed", "lookahead"), [(10, False), (4, True)])
def test_unknown_words_may_be_favoured(seed, lookahead):
    options = {"lookahead": lookahead, "unk_score_offset": 3.0, "beam_prune_logp": -3.0}
    decoder = load(language_model=BINARY, **options)
    twin = BeamReference(LETTERS, language_model(), beam_width=16, **options)
    assert_like_twin(decoder, twin, make_log_probs(seed), beam_width=16)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lm", [False, True])
def test_hotwords_equal_twin(seed, lm):
    decoder = load(language_model=BINARY) if lm else load()
    twin = BeamReference(LETTERS, language_model() if lm else None, beam_width=16, hotwords=HOTWORDS)
    assert_like_twin(decoder, twin, make_log_probs(seed), beam_width=16, hotwords=HOTWORDS)


def write_character_model(path: Path) -> None:
    """A trigram model of letters with made-up weights, in which longer n-grams are rare."""
    rng = np.random.default_rng(4)
    letters = [label for label in LETTERS if label not in ("<pad>", "é")]
    unigrams = [("<unk>",), ("<s>",), ("</s>",), *((letter,) for letter in letters)]
    bigrams = [(a, b) for a in ("<s>", *letters) for b in letters if rng.random() < 0.3]
    trigrams = [(*rng.choice(bigrams), b) for b in letters]
    trigrams = sorted({gram for gram in trigrams if gram[1:] in bigrams})
    lines = ["\\data\\", *(f"ngram {n}={len(t)}" for n, t in enumerate((unigrams, bigrams, trigrams), 1)), ""]
    for n, grams in enumerate((unigrams, bigrams, trigrams), 1):
        lines.append(f"\\{n}-grams:")
        for gram in grams:
            backoff = "" if n == 3 else f"\t{-rng.random():.4f}"
            lines.append(f"{-rng.uniform(0.3, 2.0):.4f}\t{' '.join(gram)}{backoff}")
        lines.append("")
    path.write_text("\n".join([*lines, "\\end\\", ""]), encoding="utf-8")


@pytest.mark.parametrize("seed", range(4))
def test_character_model_equals_twin(seed, tmp_path):
    path = tmp_path / "letters.arpa"
    write_character_model(path)
    decoder = CtcBeamDecoder(LETTERS, path, unit="character")
    twin = BeamReference(LETTERS, ArpaReference(path), beam_width=16, unit="character")
    assert_like_twin(decoder, twin, make_log_probs(seed), beam_width=16)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_emissions_equal_twin(data):
    n_frames, scale = data.draw(st.integers(0, 6)), data.draw(st.sampled_from([0.0, 1.0, 4.0]))
    seed = data.draw(st.integers(0, 2**31))
    labels = ("<pad>", "|", "a", "b")
    log_probs = np.random.default_rng(seed).normal(0, scale, (n_frames, 4))
    log_probs -= np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
    silent = data.draw(st.lists(st.integers(0, max(n_frames - 1, 0)), max_size=3 * (n_frames > 0)))
    log_probs[silent] = -np.inf
    unpruned = {"beam_width": 4000, "token_min_logp": -1e9, "beam_prune_logp": -600.0}
    ours = CtcBeamDecoder(labels, **unpruned).decode(log_probs.astype(np.float32), n_best=50)
    theirs = BeamReference(labels, **unpruned).decode(log_probs.astype(np.float32))[:50]
    np.testing.assert_allclose([h.score for h in ours], [row[2] for row in theirs], atol=1e-3)


def test_one_best_search_finds_what_n_best_finds():
    decoder = load(language_model=BINARY)
    for seed in range(20):
        log_probs = make_log_probs(seed, 30)
        assert decoder.decode(log_probs)[0].score >= decoder.decode(log_probs, n_best=5)[0].score - 1e-3


def test_exhaustive_search_sums_all_alignments():
    """With nothing pruned, the scores of all texts add up to the probability of everything."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, (5, 3))
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    decoder = CtcBeamDecoder(("<pad>", "a", "b"), token_min_logp=-1e9, beam_prune_logp=-1e9)
    scores = [h.score for h in decoder.decode(log_probs, n_best=4000, beam_width=4000)]
    assert np.logaddexp.reduce(scores) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("sizes", [[1] * 40, [7, 0, 20, 13], [40]])
@pytest.mark.parametrize("n_best", [1, 5])
def test_chunks_give_the_result_of_the_whole(sizes, n_best):
    decoder = load(language_model=BINARY)
    for seed in range(5):
        log_probs = np.concatenate([make_log_probs(seed, 20), make_log_probs(seed + 50, 20)])
        state, begin = decoder.start(n_best=n_best, hotwords=["zug"]), 0
        stable: tuple = ()
        for size in sizes:
            before = pickle.dumps(state)
            state = decoder.advance(pickle.loads(before), log_probs[begin : begin + size])
            begin += size
            partial = decoder.read_partial(state)
            assert partial.stable[: len(stable)] == stable
            stable = partial.stable
        whole = decoder.decode(log_probs, n_best=n_best, hotwords=["zug"])
        chunked = decoder.finish(state, n_best)
        assert chunked == whole
        assert decoder.decode(log_probs[:0], n_best=n_best, state=state) == whole
        if n_best == 1:
            assert chunked[0].words[: len(stable)] == stable


def test_advance_leaves_the_state_it_was_given():
    decoder = load(language_model=BINARY)
    log_probs = make_log_probs(1, 20)
    state = decoder.advance(decoder.start(), log_probs[:10])
    before = pickle.dumps(state)
    first, second = decoder.advance(state, log_probs[10:]), decoder.advance(state, log_probs[10:])
    assert pickle.dumps(state) == before
    assert decoder.finish(first) == decoder.finish(second)


def test_a_state_goes_on_only_with_decoders_built_alike():
    log_probs = make_log_probs(1, 20)
    decoder = CtcBeamDecoder(LETTERS, BINARY, beam_width=4)
    state = pickle.loads(pickle.dumps(decoder.advance(decoder.start(), log_probs[:10])))
    alike = pickle.loads(pickle.dumps(decoder))
    assert alike.decode(log_probs[10:], state=state) == decoder.decode(log_probs)
    many = ("<pad>", "|", *(chr(0x4E00 + i) for i in range(31)))
    others = [
        CtcBeamDecoder(LETTERS, BINARY, beam_width=512),
        CtcBeamDecoder(LETTERS, FIXTURES / "tiny.trie.bin", beam_width=4),
        CtcBeamDecoder(LETTERS, beam_width=4),
        CtcBeamDecoder(many, beam_width=4),
        decoder.with_settings(lm_alpha=0.7),
    ]
    uses = [
        lambda other: other.decode(log_probs[10:], state=state),
        lambda other: other.advance(state, log_probs[10:]),
        lambda other: other.finish(state),
        lambda other: other.read_partial(state),
    ]
    for other, use in itertools.product(others, uses):
        with pytest.raises(DecodingError, match="another decoder"):
            use(other)
    with pytest.raises(DecodingError, match="str"):
        decoder.decode(log_probs, state="state")


def test_long_streams_keep_a_small_state():
    decoder = load(language_model=BINARY)
    state = decoder.start(beam_width=16)
    for seed in range(60):
        state = decoder.advance(state, make_log_probs(seed, 20, peak=8.0))
    assert len(pickle.dumps(state)) < 100_000
    assert state.words


def test_word_times_and_confidence_follow_the_emissions():
    log_probs = np.full((20, len(LETTERS)), -9.0, np.float32)
    log_probs[:, 0] = -0.01
    for frame, label in ((4, "d"), (5, "d"), (6, "e"), (8, "r"), (10, "|"), (13, "z"), (14, "u"), (16, "g")):
        log_probs[frame, [0, LETTERS.index(label)]] = -4.0, -0.1
    for hypothesis in (load().decode(log_probs)[0], decode_greedy(log_probs, LETTERS)):
        assert [word.text for word in hypothesis.words] == ["der", "zug"]
        times = [(word.start_s, word.end_s) for word in hypothesis.words]
        np.testing.assert_allclose(times, [(0.08, 0.18), (0.26, 0.34)], atol=1e-9)
        np.testing.assert_allclose([w.confidence for w in hypothesis.words], np.exp(-0.1), atol=1e-5)


def test_labels_of_several_letters_spell_one_text_once():
    probs = [[0.01, 0.01, 0.5, 0.01, 0.47], [0.3, 0.01, 0.01, 0.67, 0.01]]
    found = CtcBeamDecoder(("<pad>", "|", "a", "b", "ab")).decode(np.log(probs), n_best=9)
    texts = [hypothesis.text for hypothesis in found]
    assert len(set(texts)) == len(texts)
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)
    assert texts[0] == "ab" and scores[0] == pytest.approx(np.log(0.5 * 0.67 + 0.47 * (0.3 + 0.01)), abs=0.02)


def test_a_thousand_labels():
    labels = ["<pad>", "|", *(chr(0x4E00 + i) for i in range(998))]
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (30, 1000)).astype(np.float32)
    logits[np.arange(30), rng.integers(1, 1000, 30)] += 12
    ours = CtcBeamDecoder(labels).decode(logits, logits=True, n_best=3)
    log_probs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    theirs = BeamReference(labels).decode(log_probs)
    np.testing.assert_allclose([h.score for h in ours], [row[2] for row in theirs[:3]], atol=2e-3)


def test_other_settings_may_be_of_another_unit(tmp_path):
    write_character_model(tmp_path / "letters.arpa")
    words, letters = (
        CtcBeamDecoder(LETTERS, tmp_path / "letters.arpa", unit=unit) for unit in ("word", "character")
    )
    for seed in range(3):
        log_probs = make_log_probs(seed)
        assert letters.with_settings(unit="word").decode(log_probs) == words.decode(log_probs)
        assert words.with_settings(unit="character").decode(log_probs) == letters.decode(log_probs)


def test_batch_and_pickle_and_threads_agree():
    decoder = load(language_model=BINARY, lookahead=True, beam_width=8)
    batch = [make_log_probs(seed, 25) for seed in range(12)]
    expected = [decoder.decode(log_probs) for log_probs in batch]
    assert decoder.decode_batch(batch, threads=3) == expected
    assert pickle.loads(pickle.dumps(decoder)).decode_batch(batch) == expected


def test_pickles_keep_a_missing_delimiter_missing():
    decoder = CtcBeamDecoder(LETTERS, word_delimiter="_")
    again = pickle.loads(pickle.dumps(decoder))
    assert (decoder.labels.delimiter_id, again.labels.delimiter_id) == (-1, -1)
    assert again.decode(make_log_probs(1), n_best=3) == decoder.decode(make_log_probs(1), n_best=3)


def test_threads_search_several_utterances_a_call_and_change_nothing():
    decoder = CtcBeamDecoder(["", " ", "a", "b"], word_delimiter=" ")
    rng = np.random.default_rng(7)
    lengths = [0, 1, 30, 4, 0, 200, *rng.integers(1, 60, 70)]
    batch = [np.log(rng.dirichlet(np.full(4, 0.3), n)).astype(np.float32).reshape(n, 4) for n in lengths]
    expected = [decoder.decode(each, n_best=5, beam_width=8) for each in batch]
    assert decoder.decode_batch(batch, threads=2, n_best=5, beam_width=8) == expected
    raw = [each + 3 for each in batch]
    assert len(decoder.decode_batch(raw, threads=2, logits=True)) == len(batch)
    batch[41] = np.full((3, 4), np.nan, np.float32)
    with pytest.raises(DecodingError, match="NaN"):
        decoder.decode_batch(batch, threads=2)
    with pytest.raises(DecodingError, match="above 0"):
        decoder.decode_batch(raw, threads=2)


@pytest.mark.parametrize("name", ["search_several", "advance", "finish"])
def test_a_search_holds_its_arrays_though_the_cache_drops_them(name, monkeypatch):
    decoder, kernel, calls = CtcBeamDecoder(LETTERS, BINARY), getattr(beam, name), []

    def evict(*arguments):
        (arrays,) = [arrays for pack, arrays in decoder._cache.values() if pack is arguments[0]]
        held = [weakref.ref(array) for array in arrays]
        del arrays
        decoder._cache.clear()
        gc.collect()
        calls.append(all(array() is not None for array in held))
        return kernel(*arguments)

    monkeypatch.setattr(beam, name, evict)
    log_probs = make_log_probs(1)
    decoder.decode_batch([log_probs] * 3, threads=2 if name == "search_several" else 1)
    state = decoder.advance(decoder.start(hotwords=["zug"]), log_probs)
    decoder.finish(state)
    assert calls and all(calls)


def test_threads_with_more_options_than_are_remembered():
    decoder = CtcBeamDecoder(LETTERS, BINARY)
    options = [
        {"beam_width": width, "n_best": n_best, "hotwords": words}
        for width, n_best, words in itertools.product((4, 9), (1, 3), ((), ("zug",), ("der zug", "xylo")))
    ]
    log_probs = make_log_probs(3, 30)
    expected = [CtcBeamDecoder(LETTERS, BINARY).decode(log_probs, **each) for each in options]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda each: decoder.decode(log_probs, **each), options * 40))
    finally:
        sys.setswitchinterval(before)
    assert found == expected * 40


def test_a_word_said_twice_in_the_same_way_has_its_own_times_each():
    """Frames 0 to 1, 4 to 5 and so on differ in the same bits; the probabilities are the same too."""
    text = "a|a|a|a|b|a"
    log_probs = np.full((2 * len(text), len(LETTERS)), -20.0, np.float32)
    for i, char in enumerate(text):
        log_probs[2 * i, LETTERS.index(char)] = log_probs[2 * i + 1, 0] = 0.0
    decoder = load(frame_s=1.0)
    for hypothesis in decoder.decode(log_probs, n_best=3)[:1] + decoder.decode(log_probs):
        times = [(word.start_s, word.end_s) for word in hypothesis.words]
        assert times == [(4.0 * i, 4.0 * i + 1) for i in range(6)]


def test_hashes_of_contexts_and_the_word_after_them_do_not_collide():
    contexts = np.zeros(1, CONTEXT)
    keys, n = set(), 0
    for words in [(), *((a,) for a in range(120)), *((a, b) for a in range(120) for b in range(0, 120, 3))]:
        contexts[0]["length"] = len(words)
        contexts[0]["words"][: len(words)] = words
        history = np.uint64(hash_context(contexts[0]))
        for word in range(0, 120, 9):
            keys.add(int(mix_hash(history, np.uint64(word + 1))) | 1)
            n += 1
    assert len(keys) == n and 0 not in keys


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 0.2, 0.2000001, 1.0, 7.0]), min_size=2), st.data())
def test_the_best_are_kept_and_of_equal_ones_the_first(ranks, data):
    limit = data.draw(st.integers(1, len(ranks) - 1))
    chosen, values = np.arange(len(ranks), dtype=np.int32), np.zeros(len(ranks) + LANES)
    n = keep_best(np.array(ranks), chosen, len(ranks), limit, values)
    wanted = sorted(sorted(range(len(ranks)), key=lambda i: (-ranks[i], i))[:limit])
    assert chosen[:n].tolist() == wanted


def test_unknown_words_do_not_swallow_those_behind_them():
    """An unknown beginning ranks lower the longer it gets, so that a missed space is found again."""
    decoder = load(language_model=BINARY, unk_score_offset=-3.0)
    text = "der xyqzug liegt auf dem sofa"
    log_probs = np.full((2 * len(text), len(LETTERS)), -9.0, np.float32)
    for i, char in enumerate(text.replace(" ", "|")):
        log_probs[2 * i, LETTERS.index(char)], log_probs[2 * i + 1, 0] = -0.01, -0.01
        if char == "|":
            log_probs[2 * i, LETTERS.index("e")] = -0.005
            log_probs[2 * i, 1] = -1.0
    assert "liegt auf dem sofa" in decoder.decode(log_probs)[0].text


def test_beams_share_nothing_between_calls():
    decoder = load(language_model=BINARY)
    first = decoder.decode(make_log_probs(1), n_best=5)
    decoder.decode(make_log_probs(2), n_best=5, hotwords=HOTWORDS)
    assert decoder.decode(make_log_probs(1), n_best=5) == first
