"""Joint search of decoder and CTC, kernels against slow twins: scores, steps, and all texts there are."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoding import CtcBeamDecoder
from engine.errors import CancelledError, OptionError
from engine.kernels.ctc.align import align_labels
from engine.kernels.ctc.prefix import FLOOR, score_prefix, soften_emissions
from engine.runtime.cancel import CancelToken
from engine.two_pass.search import Found, JointSearch, JointSettings
from engine.two_pass.spelling import TokenSpelling
from tests.reference import joint_search_reference as reference
from tests.reference.ctc_beam_reference import ArpaReference, BeamReference

pytestmark = pytest.mark.levels

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
LABELS = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß")
TOKENS = (
    "<|end|>", "<|start|>", "<|none|>", " der", " zug", " Zug", "ug", " liegt", " auf", "auf", " dem",
    " sofa", "so", "fa", " s", ".", ",", " ", " a", "e", "ee", " xylo",
)  # fmt: skip


class FakeSteps:
    """A decoder whose next token depends on the tokens so far alone."""

    def __init__(self, language: reference.Language, prompt: int) -> None:
        self._language, self._prompt, self.rows = language, prompt, [()]

    def prefill(self, ids: np.ndarray, cancel: Any) -> np.ndarray:
        first = np.stack([self._language(()) for _ in ids])
        first[0, 2] = -9.0  # somebody speaks
        return first

    def step(self, ids: np.ndarray, parents: np.ndarray, cancel: Any) -> np.ndarray:
        self.rows = [(*self.rows[p], int(i)) for i, p in zip(ids, parents, strict=True)]
        return np.stack([self._language(row) for row in self.rows])


class FakeRunner:
    backend, choice = "fake", None

    def __init__(self, language: reference.Language) -> None:
        self.language = language

    def start(self, states: np.ndarray, max_rows: int, max_tokens: int, cancel: Any) -> FakeSteps:
        return FakeSteps(self.language, 1)


@functools.cache
def load(with_model: bool) -> CtcBeamDecoder:
    return CtcBeamDecoder(
        LABELS,
        FIXTURES / "tiny.probing.bin" if with_model else None,
        unigrams=words() if with_model else None,
    )


@functools.cache
def words() -> tuple[str, ...]:
    return tuple(ArpaReference(FIXTURES / "tiny.arpa").words)


def search(
    log_probs: np.ndarray, language: reference.Language, max_tokens: int, chosen: JointSettings, *,
    tokens: tuple[str, ...] = TOKENS, with_model: bool = False, hotwords: dict[str, float] | None = None,
    alpha: float = 0.3, n_best: int = 1,
) -> Found:  # fmt: skip
    decoder = load(with_model)
    letters = np.array([decoder.labels.is_letter(i) for i in range(len(LABELS))], np.uint8)
    config: Any = SimpleNamespace(prompt=(1,), end_id=0, no_speech_id=2, max_tokens=max_tokens + 1)
    prepared = decoder.prepare(hotwords, lm_alpha=alpha, lm_beta=0.0)
    table = TokenSpelling(tokens, decoder.labels).table(prepared.array("follow"))
    joint = JointSearch(FakeRunner(language), config, letters)
    return joint.search(log_probs, np.zeros((1, 1), np.float32), prepared, table, chosen, n_best)


def twin(
    chosen: JointSettings, tokens: tuple[str, ...] = TOKENS, with_model: bool = False,
    hotwords: dict[str, float] | None = None, alpha: float = 0.3, **options: Any,
) -> reference.JointReference:  # fmt: skip
    model = ArpaReference(FIXTURES / "tiny.arpa") if with_model else None
    scores = BeamReference(LABELS, model, alpha, 0.0, hotwords=hotwords or {})
    names = (
        "beam_size",
        "ctc_weight",
        "end_weight",
        "word_bonus",
        "letter_share",
        "tolerance",
        "unheard_weight",
        "candidates",
        "prune",
    )
    given = {name: getattr(chosen, name) for name in names}
    return reference.JointReference(tokens, LABELS, scores, **given, **options)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 5), max_size=12), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_prefix_scores_equal_the_twin(seed: int, labels: list[int], share: float) -> None:
    rng = np.random.default_rng(seed)
    n_frames = int(rng.integers(1, 25))
    log_probs = np.log(rng.dirichlet(np.full(6, 0.3), n_frames) + 1e-30).astype(np.float32)
    softened = np.empty((6, n_frames))
    soften_emissions(log_probs, np.array([0, 0, 1, 1, 1, 1], np.uint8), share, softened)
    probs = reference.soften(log_probs, [2, 3, 4, 5], share)
    np.testing.assert_allclose(softened.T, probs, rtol=1e-12)
    found = score_prefix(softened, np.array(labels, np.int64), 0)
    np.testing.assert_allclose(found, reference.score_labels(probs, labels), rtol=1e-9, atol=1e-9)


def test_a_prefix_of_an_hour_keeps_its_precision() -> None:
    """Letters far apart, silence and noise between them, and a text that nobody said."""
    labels = [2 + i % 4 for i in range(60)]
    log_probs = reference.draw_log_probs(3, "<|abcd", "abcd" * 15, 900)
    log_probs[:, 0] = np.maximum(log_probs[:, 0], -0.5)
    probs = reference.soften(log_probs, [2, 3, 4, 5], 0.1)
    softened = np.ascontiguousarray(probs.T)
    wanted = reference.score_labels(probs, labels)
    np.testing.assert_allclose(score_prefix(softened, np.array(labels), 0), wanted, rtol=1e-9)
    nothing = np.full((6, 400), FLOOR)
    nothing[0] = 1.0
    prefix, whole = score_prefix(nothing, np.array([2] * 30), 0)
    assert prefix == pytest.approx(reference.score_labels(nothing.T, [2] * 30)[0], rel=1e-9)
    assert whole == pytest.approx(reference.score_labels(nothing.T, [2] * 30)[1], rel=1e-9)


def test_letters_that_no_frame_is_left_for_are_never_heard() -> None:
    softened = np.full((4, 5), 0.25)
    assert score_prefix(softened, np.array([2, 3, 2, 3, 2]), 0)[0] > -np.inf
    assert score_prefix(softened, np.array([2, 3, 2, 3, 2, 3]), 0) == (-np.inf, -np.inf)
    assert score_prefix(softened, np.array([2, 2, 2, 2]), 0) == (-np.inf, -np.inf)  # blanks between


@pytest.mark.parametrize("with_model", [False, True])
@given(
    seed=st.integers(0, 10_000), beam=st.sampled_from([1, 2, 5]), n_best=st.sampled_from([1, 3]),
    weights=st.sampled_from([(0.1, 0.5, 0.5), (0.5, 1.0, 0.0), (0.0, 0.0, 1.0)]),
    hotwords=st.sampled_from([None, {"sofa": 3.0}, {"zug": 2.0, "dem sofa": 4.0, "xylo": 5.0}]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_search_equals_the_twin(
    with_model: bool, seed: int, beam: int, n_best: int, weights: tuple[float, float, float],
    hotwords: dict[str, float] | None,
) -> None:  # fmt: skip
    ctc_weight, end_weight, unheard = weights
    chosen = JointSettings(
        beam, ctc_weight, end_weight, 0.5, unheard_weight=unheard, tolerance=1.0, candidates=len(TOKENS)
    )
    log_probs = reference.draw_log_probs(seed, LABELS, "der zug liegt auf", 30, peak=4.0)
    language = reference.random_language(seed, len(TOKENS), 2.0)
    found = search(
        log_probs, language, 7, chosen, with_model=with_model, hotwords=hotwords, n_best=n_best,
    )  # fmt: skip
    wanted = twin(chosen, with_model=with_model, hotwords=hotwords).search(log_probs, language, 7, n_best)
    assert [h.tokens for h in found.hypotheses] == [tokens for _, tokens in wanted]
    np.testing.assert_allclose(
        [h.score for h in found.hypotheses], [s for s, _ in wanted], rtol=1e-6, atol=1e-6
    )


@given(seed=st.integers(0, 10_000), weight=st.sampled_from([0.05, 0.3, 1.0]))
@settings(max_examples=15, deadline=None)
def test_with_room_for_all_the_best_of_all_texts_is_found(seed: int, weight: float) -> None:
    # 4 ** 3 texts, each in one spelling: of several, the search follows the one that is best so far
    tokens = ("<|end|>", "<|start|>", "<|none|>", " a", "b", " c", "d")
    chosen = JointSettings(64, weight, 0.5, 0.0, tolerance=1.0, candidates=6, prune=100.0)
    log_probs = reference.draw_log_probs(seed, LABELS, "ab cd", 12, peak=3.0)
    language = reference.random_language(seed, len(tokens))
    found = search(log_probs, language, 3, chosen, tokens=tokens, n_best=5)
    wanted = twin(chosen, tokens).enumerate(log_probs, language, 3)[:5]
    assert [h.tokens for h in found.hypotheses] == [tokens for _, tokens in wanted]
    np.testing.assert_allclose(
        [h.score for h in found.hypotheses], [s for s, _ in wanted], rtol=1e-6, atol=1e-6
    )


def stubborn(*wishes: str, end: float = -9.0, others: float = -6.0) -> reference.Language:
    """A decoder that says these tokens in a row, and the last of them for ever."""

    def language(tokens: tuple[int, ...]) -> np.ndarray:
        row = np.full(len(TOKENS), others, np.float32)
        row[TOKENS.index(wishes[min(len(tokens), len(wishes) - 1)])] = -0.02
        row[0] = end
        return row

    return language


def text(found: Found) -> str:
    return "".join(TOKENS[token] for token in found.hypotheses[0].tokens).strip()


LIKE_SHIPPED = JointSettings(word_bonus=0.5)


def test_a_decoder_that_repeats_itself_ends_where_the_speech_does() -> None:
    log_probs = reference.draw_log_probs(1, LABELS, "der zug liegt auf dem sofa", 150)
    language = stubborn(" der", " Zug", " liegt", " auf", " dem", " sofa", " dem", " sofa", " auf")
    assert text(search(log_probs, language, 40, LIKE_SHIPPED)) == "der Zug liegt auf dem sofa"


@pytest.mark.parametrize("wish", [" a", " der", ".", "e", " "])
def test_nothing_is_said_in_silence_whatever_the_decoder_wants(wish: str) -> None:
    silence = np.full((200, len(LABELS)), 1e-4 / (len(LABELS) - 1))
    silence[:, 0] = 1.0 - 1e-4
    found = search(np.log(silence).astype(np.float32), stubborn(wish), 60, LIKE_SHIPPED)
    assert text(found).strip(" .") == ""


def test_a_decoder_that_wants_to_end_goes_on_while_words_are_heard() -> None:
    log_probs = reference.draw_log_probs(2, LABELS, "der zug liegt auf dem sofa", 150)
    language = stubborn(" der", " Zug", " liegt", " auf", " dem", " sofa", ".", end=-0.1)
    assert text(search(log_probs, language, 40, LIKE_SHIPPED)).rstrip(".") == "der Zug liegt auf dem sofa"


def test_a_clause_in_the_middle_cannot_be_left_out() -> None:
    log_probs = reference.draw_log_probs(4, LABELS, "der zug liegt auf dem sofa", 150)

    def language(tokens: tuple[int, ...]) -> np.ndarray:
        row = np.full(len(TOKENS), -8.0, np.float32)
        row[[TOKENS.index(word) for word in (" der", " Zug", " liegt", " auf", " dem", " sofa")]] = -3.0
        if tokens == (TOKENS.index(" der"),):
            row[TOKENS.index(" sofa")] = -0.05  # and not "zug"
        row[0] = -0.05 if tokens and TOKENS[tokens[-1]] == " sofa" else -8.0
        return row

    assert text(search(log_probs, language, 40, LIKE_SHIPPED)).endswith(" liegt auf dem sofa")


def test_marks_alone_do_not_go_on_for_ever() -> None:
    log_probs = reference.draw_log_probs(1, LABELS, "der zug", 60)
    found = search(log_probs, stubborn(" der", " Zug", ".", ","), 50, LIKE_SHIPPED)
    assert text(found).rstrip(".,") == "der Zug"
    assert len(found.hypotheses[0].tokens) <= 2 + 3


def test_a_hotword_is_found_among_tokens_that_would_not_be_tried() -> None:
    log_probs = reference.draw_log_probs(5, LABELS, "der xylo", 60)

    def language(tokens: tuple[int, ...]) -> np.ndarray:
        row = np.full(len(TOKENS), -7.0, np.float32)
        row[[TOKENS.index(" auf"), TOKENS.index(" sofa")]] = -1.0
        row[TOKENS.index(" der")] = -0.1 if not tokens else -7.0
        row[0] = -3.0
        return row

    few = JointSettings(beam_size=2, candidates=2)
    assert text(search(log_probs, language, 10, few)) != "der xylo"
    assert text(search(log_probs, language, 10, few, hotwords={"xylo": 10.0})) == "der xylo"


def test_n_best_are_sorted_and_differ_in_their_words() -> None:
    log_probs = reference.draw_log_probs(6, LABELS, "der zug liegt", 40, peak=3.0)
    language = reference.random_language(6, len(TOKENS))
    found = search(log_probs, language, 8, JointSettings(10, candidates=20), n_best=8).hypotheses
    assert len(found) == 8
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)
    model = twin(JointSettings())
    assert (
        len(
            {
                tuple(filter(None, (*words, partial)))
                for words, partial in (model.split(h.tokens) for h in found)
            }
        )
        == 8
    )
    alone = search(log_probs, language, 8, JointSettings(10, candidates=20)).hypotheses
    assert alone[0].tokens == found[0].tokens


def test_many_threads_share_a_search() -> None:
    cases = []
    for seed in range(6):
        log_probs = reference.draw_log_probs(seed, LABELS, "der zug liegt auf", 60, 4.0)
        cases.append((log_probs, reference.random_language(seed, len(TOKENS))))
    alone = [search(*case, 12, LIKE_SHIPPED, with_model=True) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda case: search(*case, 12, LIKE_SHIPPED, with_model=True), cases * 4))
    assert together == alone * 4


def test_a_cancelled_search_ends_at_the_next_step() -> None:
    token = CancelToken()

    def language(tokens: tuple[int, ...]) -> np.ndarray:
        if len(tokens) == 2:
            token.cancel()
        token.raise_if_cancelled()
        return stubborn(" der", " Zug", " a")(tokens)

    with pytest.raises(CancelledError):
        search(reference.draw_log_probs(1, LABELS, "der zug", 60), language, 20, LIKE_SHIPPED)


@pytest.mark.parametrize("n_frames", [0, 1, 2])
def test_hardly_any_frames_give_no_text(n_frames: int) -> None:
    log_probs = reference.draw_log_probs(1, LABELS, "", n_frames)
    found = search(log_probs, stubborn(" der"), 20, LIKE_SHIPPED)
    assert n_frames == 0 or text(found) == ""
    assert len(found.hypotheses) == (n_frames > 0)


@pytest.mark.parametrize(
    "wrong", [{"beam_size": 0}, {"ctc_weight": -1.0}, {"letter_share": 2.0}, {"candidates": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        JointSettings(**wrong)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), max_size=6), st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_alignments_equal_the_twin(seed: int, labels: list[int], n_frames: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs = (
        np.log(rng.dirichlet(np.full(5, 0.5), n_frames) + 1e-12).astype(np.float32).reshape(n_frames, 5)
    )
    n = len(labels)
    firsts, lasts, peaks = np.full(n, 7, np.int32), np.zeros(n, np.int32), np.zeros(n, np.float32)
    score = align_labels(log_probs, np.array(labels, np.int64), 0, firsts, lasts, peaks)
    wanted, spans = reference.align(log_probs, labels)
    assert score == pytest.approx(wanted, rel=1e-6)
    if score > -np.inf:
        assert list(zip(firsts.tolist(), lasts.tolist(), strict=True)) == spans
        highest = [np.exp(log_probs[a:b, c].max()) for (a, b), c in zip(spans, labels, strict=True)]
        np.testing.assert_allclose(peaks, highest, rtol=1e-5)
