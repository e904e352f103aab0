"""The beam search over pieces of words against its slow twin."""

from __future__ import annotations

import functools
import itertools
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoding import CtcBeamDecoder, decode_greedy
from engine.errors import DecodingError
from tests.reference.ctc_beam_reference import ArpaReference, BeamReference

pytestmark = pytest.mark.levels

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
ARPA, BINARY = FIXTURES / "tiny.arpa", FIXTURES / "tiny.probing.bin"
HOTWORDS = {"zug": 3.0, "der zug": 2.0, "dem sofa": 5.0, "xylo": 4.0}
TEXT = "der zug liegt auf dem sofa das xylo buch"
SENTENCEPIECE = (
    "<blk>", "▁", "▁d", "▁der", "▁z", "ug", "er", "▁l", "ie", "gt", "▁auf", "▁de", "m", "▁so", "fa", "▁das",
    "▁x", "lo", "▁bu", "ch", "▁a", "uf", *"abcdefghijklnopqrstuvwxyzäöüß", "<unk>",
)  # fmt: skip
TEVR = ("[PAD]", "|", *"abcdefghijklmnopqrstuvwxyzäöüß", "er", "ie", "gt", "sofa", "ch", "ug", "das", "auf")
LABELS = {"sentencepiece": SENTENCEPIECE, "tevr": TEVR}


@functools.cache
def load(kind: str, lm: bool = False, **options: object) -> CtcBeamDecoder:
    return CtcBeamDecoder(LABELS[kind], BINARY if lm else None, **options)  # type: ignore[arg-type]


@functools.cache
def language_model() -> ArpaReference:
    return ArpaReference(ARPA)


def divide(text: str, labels: tuple[str, ...], rng: np.random.Generator) -> list[int]:
    """Tokens that spell a text, a random way of many."""
    marked = "▁" + text.replace(" ", "▁") if "▁" in labels else text.replace(" ", "|")
    known, at, tokens = {label: i for i, label in enumerate(labels)}, 0, []
    while at < len(marked):
        fits = [n for n in range(1, 6) if marked[at : at + n] in known]
        if not fits:
            at += 1
            continue
        n = int(rng.choice(fits))
        tokens.append(known[marked[at : at + n]])
        at += n
    return tokens


def make_log_probs(kind: str, seed: int, n_frames: int = 14, peak: float = 5.0) -> np.ndarray:
    """Random emissions that often spell known words."""
    rng, labels = np.random.default_rng(seed), LABELS[kind]
    tokens = divide(TEXT[int(rng.integers(12)) :], labels, rng)[:n_frames]
    logits = rng.normal(0, 2.0, (n_frames, len(labels)))
    for frame, token in enumerate(tokens):
        logits[frame, token] += peak
        logits[frame, 0] += rng.normal(3.0, 2.0)
    if "<unk>" in labels:
        logits[:, labels.index("<unk>")] = -30.0  # the twin has no marks
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lm", [False, True])
@pytest.mark.parametrize("hotwords", [{}, HOTWORDS])
def test_pieces_equal_twin(kind, seed, lm, hotwords):
    options = {"lookahead": True, "token_min_logp": -3.5, "unk_score_offset": -3.0, "beam_prune_logp": -20.0}
    twin = BeamReference(
        LABELS[kind], language_model() if lm else None, beam_width=200, hotwords=hotwords, **options
    )
    decoder = load(kind, lm, **options)
    log_probs = make_log_probs(kind, seed, 8)
    ours = decoder.decode(log_probs, 200, n_best=10, hotwords=hotwords)  # later ones lose pruned alignments
    theirs = twin.decode(log_probs)
    np.testing.assert_allclose([h.score for h in ours], [row[2] for row in theirs[:10]], atol=2e-3)
    by_text = {row[0]: row for row in theirs}
    for hypothesis in ours:
        assert hypothesis.acoustic_score == pytest.approx(by_text[hypothesis.text][1], abs=5e-3)
        assert hypothesis.text == " ".join(word.text for word in hypothesis.words)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize(("beam_width", "lookahead"), [(8, True), (8, False)])
def test_few_beams_find_the_twins_best(kind, beam_width, lookahead):
    options = {"lookahead": lookahead, "unk_score_offset": -3.0, "unk_letter_score": -0.3}
    twin = BeamReference(LABELS[kind], language_model(), beam_width=beam_width, **options)
    decoder = load(kind, True, **options)
    for seed in range(8):
        log_probs = make_log_probs(kind, seed, 10)
        best, ours = twin.decode(log_probs)[0], decoder.decode(log_probs, beam_width, n_best=2)[0]
        assert ours.score == pytest.approx(best[2], abs=0.02)
        assert ours.text == best[0]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_pieces_equal_twin(data):
    """Random alphabets of pieces, nothing pruned: the same texts with the same scores."""
    texts = data.draw(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=5, unique=True))
    labels = ["<blk>", *dict.fromkeys(data.draw(st.sampled_from(["", "▁"])) + text for text in texts)]
    if data.draw(st.booleans()) or not any(label[0] == "▁" for label in labels):
        labels.append("▁")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    log_probs = rng.normal(0, data.draw(st.sampled_from([0.0, 1.0, 4.0])), (4, len(labels)))
    log_probs -= np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
    hotwords = data.draw(st.dictionaries(st.sampled_from(["ab", "a b", "ba", "aab"]), st.just(1.5)))
    unpruned = {"beam_width": 2000, "token_min_logp": -1e9, "beam_prune_logp": -600.0}
    found = CtcBeamDecoder(labels, **unpruned).decode(
        log_probs.astype(np.float32), n_best=2000, hotwords=hotwords
    )
    expected = BeamReference(labels, **unpruned, hotwords=hotwords).decode(log_probs.astype(np.float32))
    assert {h.text: pytest.approx(h.score, abs=1e-3) for h in found} == {row[0]: row[2] for row in expected}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("sizes", [[1] * 40, [7, 0, 20, 13]])
@pytest.mark.parametrize("n_best", [1, 5])
def test_chunks_give_the_result_of_the_whole(kind, sizes, n_best):
    decoder = load(kind, True)
    for seed in range(3):
        log_probs = np.concatenate([make_log_probs(kind, seed, 20), make_log_probs(kind, seed + 50, 20)])
        state, begin, stable = decoder.start(n_best=n_best, hotwords=["zug"]), 0, ()
        for size in sizes:
            state = decoder.advance(pickle.loads(pickle.dumps(state)), log_probs[begin : begin + size])
            begin += size
            partial = decoder.read_partial(state)
            assert partial.stable[: len(stable)] == stable
            stable = partial.stable
        assert decoder.finish(state, n_best) == decoder.decode(log_probs, n_best=n_best, hotwords=["zug"])


def test_word_times_follow_the_pieces():
    log_probs = np.full((20, len(SENTENCEPIECE)), -12.0, np.float32)
    log_probs[:, 0] = -0.001
    spelled = ((3, "▁d"), (4, "▁d"), (6, "er"), (9, "▁z"), (10, "ug"), (15, "▁"), (16, "▁so"), (18, "fa"))
    for frame, label in spelled:
        log_probs[frame, [0, SENTENCEPIECE.index(label)]] = -4.0, -0.1
    for hypothesis in (
        load("sentencepiece", frame_s=1.0).decode(log_probs)[0],
        load("sentencepiece", frame_s=1.0).decode(log_probs, n_best=4)[0],
        decode_greedy(log_probs, SENTENCEPIECE, frame_s=1.0),
    ):
        assert [(w.text, w.start_s, w.end_s) for w in hypothesis.words] == [
            ("der", 3.0, 7.0), ("zug", 9.0, 11.0), ("sofa", 16.0, 19.0),
        ]  # fmt: skip
        np.testing.assert_allclose([w.confidence for w in hypothesis.words], np.exp(-0.1), atol=1e-5)


def test_times_of_a_word_move_with_a_later_better_start():
    """A piece that begins a word is likelier later: so is then the end of the word before it."""
    labels = ("<blk>", "▁a", "b", "▁c")
    log_probs = np.log(np.full((6, 4), 1e-6, np.float32))
    for frame, probs in enumerate(
        [{1: 0.9}, {0: 0.7, 3: 0.2}, {2: 0.9}, {0: 0.3, 3: 0.6}, {3: 0.9}, {0: 0.9}]
    ):
        for token, prob in probs.items():
            log_probs[frame, token] = np.log(prob)
    for n_best in (1, 4):
        best = CtcBeamDecoder(labels, frame_s=1.0).decode(log_probs, n_best=n_best)[0]
        assert [(w.text, w.start_s, w.end_s) for w in best.words] == [("ab", 0.0, 3.0), ("c", 3.0, 5.0)]


def test_exhaustive_search_sums_all_alignments():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, (5, 5))
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    decoder = CtcBeamDecoder(("<blk>", "▁a", "a", "aa", "▁"), token_min_logp=-1e9, beam_prune_logp=-1e9)
    found = decoder.decode(log_probs, n_best=4000, beam_width=4000)
    assert np.logaddexp.reduce([h.score for h in found]) == pytest.approx(0.0, abs=1e-5)
    assert len({h.text for h in found}) == len(found)


@pytest.mark.parametrize("kind", LABELS)
def test_one_best_search_finds_what_n_best_finds(kind):
    decoder = load(kind, True)
    for seed in range(20):
        log_probs = make_log_probs(kind, seed, 14, peak=8.0)
        one, several = decoder.decode(log_probs)[0], decoder.decode(log_probs, n_best=5)[0]
        assert one.text == several.text and one.score >= several.score - 0.05


def test_the_division_into_pieces_does_not_matter():
    """A word that the language model knows is known in all its spellings."""
    decoder, rng = load("sentencepiece", True), np.random.default_rng(1)
    found = set()
    for _ in range(20):
        tokens = divide("der zug liegt auf dem sofa", SENTENCEPIECE, rng)
        log_probs = np.full((2 * len(tokens), len(SENTENCEPIECE)), -20.0, np.float32)
        log_probs[::2][np.arange(len(tokens)), tokens] = log_probs[1::2, 0] = 0.0
        best = decoder.decode(log_probs)[0]
        found.add((best.text, round(best.lm_score, 6)))
    assert len(found) == 1 and next(iter(found))[0] == "der zug liegt auf dem sofa"


def test_a_model_of_characters_does_not_fit_pieces():
    with pytest.raises(DecodingError, match="labels of one character"):
        CtcBeamDecoder(SENTENCEPIECE, BINARY, unit="character")


def test_notations_read_alike():
    """SentencePiece, a space for its mark, WordPiece; the blank in front or behind."""
    pieces = ("▁de", "r", "▁zu", "g", "m")
    forms = {
        "sentencepiece": ("<pad>", *pieces),
        "spaces": ("<pad>", *(piece.replace("▁", " ") for piece in pieces)),
        "wordpiece": ("[PAD]", *(p[1:] if p[0] == "▁" else "##" + p for p in pieces)),
    }
    tokens = [1, 2, 3, 4, 1, 5]
    log_probs = np.full((12, 6), -9.0, np.float32)
    log_probs[::2][np.arange(6), tokens] = log_probs[1::2, 0] = -0.01
    for labels in forms.values():
        for blank_id, order in ((0, range(6)), (5, (1, 2, 3, 4, 5, 0))):
            turned = [labels[i] for i in order]
            emissions = log_probs[:, list(order)]
            decoder = CtcBeamDecoder(turned, BINARY, blank_id=blank_id)
            assert decoder.decode(emissions, hotwords=["zug dem"])[0].text == "der zug dem"
            assert decode_greedy(emissions, turned, blank_id).text == "der zug dem"


@pytest.mark.parametrize("forms", itertools.product(("NFC", "NFD"), repeat=3))
def test_composed_and_decomposed_are_one(forms, tmp_path):
    pieces, model, typed = forms
    labels = [unicodedata.normalize(pieces, label) for label in ("<blk>", "▁müd", "e", "▁gro", "ß", "▁")]
    if pieces == "NFD":  # as SentencePiece cuts them: an accent begins a piece
        labels = ["<blk>", "▁mu", "\u0308de"[:2], "▁gro", "ß", "▁", "e"]
    arpa = "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-9\t<s>\t-1\n-1\t</s>\n"
    arpa += "-1\tmüde\t-1\n-1\tgroße\n\n"
    arpa += "\\2-grams:\n-0.1\tmüde große\n\n\\end\\\n"
    (tmp_path / "lm.arpa").write_text(unicodedata.normalize(model, arpa), encoding="utf-8")
    decoder = CtcBeamDecoder(labels, tmp_path / "lm.arpa")
    tokens = [1, 2, 3, 4, 2] if pieces == "NFC" else [1, 2, 6, 3, 4, 6]
    log_probs = np.full((2 * len(tokens), len(labels)), -9.0, np.float32)
    log_probs[::2][np.arange(len(tokens)), tokens] = log_probs[1::2, 0] = -0.01
    plain = decoder.decode(log_probs)[0]
    assert plain.text == unicodedata.normalize("NFC", "müde große")
    favoured = decoder.decode(log_probs, hotwords=[unicodedata.normalize(typed, "müde große")])[0]
    assert favoured.score == pytest.approx(plain.score + 10.0, abs=1e-3)
    decoder.save_lexicon(tmp_path / "lexicon.npz")
    again = CtcBeamDecoder(labels, tmp_path / "lm.arpa", lexicon=tmp_path / "lexicon.npz")
    assert again.decode(log_probs)[0] == plain
