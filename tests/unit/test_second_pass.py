"""From tokens to hypotheses: words, marks, times, confidences, silence, and a decoder that loses its way."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.bundle.schema import SecondPassConfig
from engine.decoding import CtcBeamDecoder
from engine.errors import BundleSchemaError, DecodingError, HotwordWarning, ModelCapabilityError, OptionError
from engine.two_pass import second_pass as module
from engine.two_pass.alignment import align_words
from engine.two_pass.confidence import Calibration, compute_logit, read_calibration
from engine.two_pass.search import TokenHypothesis
from engine.two_pass.second_pass import SecondPass, strip_marks
from engine.two_pass.words import read_words
from engine.types import DecodingOptions, RuntimeOptions
from tests.reference.joint_search_reference import draw_log_probs

LABELS = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß")
TOKENS = (
    "<|end|>",
    "<|start|>",
    "<|none|>",
    " Der",
    " E",
    "-",
    "Mail",
    " kam",
    ",",
    " –",
    " an",
    ".",
    " ",
    '"',
)
DECODER = CtcBeamDecoder(LABELS)
FRAME_S = 0.02


class Script:
    """A decoder that wants to say these tokens, then to end; `no_speech`: log-probability at the start."""

    backend, choice = "script", None

    def __init__(self, *wishes: str, no_speech: float = -9.0) -> None:
        self._ids, self._no_speech = [TOKENS.index(wish) for wish in wishes], no_speech

    def start(self, states: np.ndarray, max_rows: int, max_tokens: int, cancel: Any) -> Any:
        rows: list[tuple[int, ...]] = [()]

        def say(row: tuple[int, ...]) -> np.ndarray:
            log_probs = np.full(len(TOKENS), -7.0, np.float32)
            log_probs[self._ids[len(row)] if len(row) < len(self._ids) else 0] = -0.1
            return log_probs

        def prefill(ids: np.ndarray, cancel: Any) -> np.ndarray:
            first = np.stack([say(()) for _ in ids])
            first[0, 2] = self._no_speech
            return first

        def step(ids: np.ndarray, parents: np.ndarray, cancel: Any) -> np.ndarray:
            rows[:] = [(*rows[parent], int(token)) for token, parent in zip(ids, parents, strict=True)]
            return np.stack([say(row) for row in rows])

        return SimpleNamespace(prefill=prefill, step=step)


def load(monkeypatch: pytest.MonkeyPatch, runner: Any, **changes: Any) -> SecondPass:
    config = SecondPassConfig(len(TOKENS), (1,), 0, 2, 1, 1, 8, 8, **{"lm_weight": 0.0, **changes})
    monkeypatch.setattr(module, "open_decoder", lambda *_: runner)
    monkeypatch.setattr(module, "read_tokens", lambda _: TOKENS)
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(second_pass=config), name="toy")
    acoustic: Any = SimpleNamespace(frame_s=FRAME_S)
    return SecondPass(bundle, DECODER, acoustic, RuntimeOptions())


def decode(
    second_pass: SecondPass, log_probs: np.ndarray, options: DecodingOptions | None = None, **more: Any
):
    return second_pass.decode(log_probs, np.zeros((len(log_probs) + 25, 8), np.float32), options, **more)


def hypothesis(*tokens: str, log_prob: float = -0.1) -> TokenHypothesis:
    ids = tuple(TOKENS.index(token) for token in tokens)
    return TokenHypothesis(ids, (log_prob,) * len(ids), 0.0, 0.0, 0.0, 0.0)


def labels_of(text: str) -> tuple[int, ...]:
    return tuple(LABELS.index(char) for char in text)


def test_tokens_become_words_and_lone_marks_belong_to_their_neighbour() -> None:
    found = read_words(
        hypothesis(" –", " Der", " E", "-", "Mail", ",", " –", " kam", " ", " an", "."),
        TOKENS,
        DECODER.labels,
    )
    assert [word.text for word in found] == ["– Der", "E-Mail, –", "kam", "an."]
    assert found[1].spoken == (labels_of("e"), labels_of("mail"))
    assert [word.log_prob for word in found] == pytest.approx([-0.1, -0.2, -0.1, -0.1])  # marks do not count
    assert read_words(hypothesis(".", " –"), TOKENS, DECODER.labels) == []
    assert read_words(hypothesis(), TOKENS, DECODER.labels) == []


def test_words_are_found_where_their_letters_are() -> None:
    log_probs = draw_log_probs(0, LABELS, "der kam an", 80, peak=9.0)
    places = np.flatnonzero(log_probs.argmax(1)).tolist()  # one frame for each of ten labels
    spans = align_words(log_probs, [[labels_of("der")], [labels_of("kam"), labels_of("an")]], 0, 1)
    assert [(span.first, span.last) for span in spans] == [
        (places[0], places[2] + 1), (places[4], places[9] + 1),
    ]  # fmt: skip
    assert all(span.heard > 0.9 for span in spans)
    unheard = align_words(log_probs, [[labels_of("xyz")]], 0, 1)
    assert unheard[0].heard < 0.1


def test_more_letters_than_frames_share_them() -> None:
    log_probs = draw_log_probs(0, LABELS, "", 4)
    spans = align_words(log_probs, [[labels_of("der")], [labels_of("kam")]], 0, 1)
    assert [(span.first, span.last, span.heard) for span in spans] == [(0, 2, 0.0), (2, 4, 0.0)]
    assert align_words(log_probs, [], 0, 1) == []
    assert align_words(log_probs[:0], [], 0, 1) == []


def test_a_hypothesis_has_text_words_times_and_confidences(monkeypatch: pytest.MonkeyPatch) -> None:
    second_pass = load(monkeypatch, Script(" Der", " E", "-", "Mail", " kam", " an", "."))
    (found,) = decode(second_pass, draw_log_probs(1, LABELS, "der e mail kam an", 120, peak=8.0))
    assert found.text == "Der E-Mail kam an."
    assert " ".join(word.text for word in found.words) == found.text
    assert all(a.start_s < a.end_s <= b.start_s for a, b in itertools.pairwise(found.words))
    assert found.words[-1].end_s <= 120 * FRAME_S
    assert found.words[0].confidence == pytest.approx(np.exp(-0.1), abs=1e-3)  # the decoder's, as it stands
    plain = decode(
        second_pass,
        draw_log_probs(1, LABELS, "der e mail kam an", 120, peak=8.0),
        DecodingOptions(punctuation=False),
    )
    assert plain[0].text == "der e-mail kam an"


def test_n_best_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    second_pass = load(monkeypatch, Script(" Der", " kam"), beam_size=8)
    log_probs = draw_log_probs(1, LABELS, "der kam", 60)
    found = decode(second_pass, log_probs, n_best=4)
    assert len(found) > 1 and found[0].text == "Der kam"
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert decode(second_pass, log_probs)[0].text == found[0].text


def test_nobody_speaks_where_ctc_or_the_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = draw_log_probs(1, LABELS, "der kam", 60)
    assert decode(load(monkeypatch, Script(" Der", " kam", no_speech=-0.1)), said)[0].text == ""
    silence = draw_log_probs(1, LABELS, "", 60, peak=9.0)
    (found,) = decode(load(monkeypatch, Script(" Der", " kam")), silence)
    assert (found.text, found.words) == ("", ())


def test_a_decoder_that_has_lost_its_way_leaves_the_word_to_the_first_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lost(Script):
        def start(self, *args: Any) -> Any:
            steps = super().start(*args)
            say = steps.step

            def step(ids: np.ndarray, parents: np.ndarray, cancel: Any) -> np.ndarray:
                rows = np.full_like(say(ids, parents, cancel), -np.inf)
                rows[:, TOKENS.index('"')] = 0.0  # which is never text
                return rows

            return SimpleNamespace(prefill=steps.prefill, step=step)

    text = "der kam an " * 8
    log_probs = draw_log_probs(1, LABELS, text.strip(), 500, peak=9.0)
    (found, *_) = decode(load(monkeypatch, Lost(" Der")), log_probs)
    assert found.text == text.strip()
    assert found.words


def test_threads_share_a_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    second_pass = load(monkeypatch, Script(" Der", " kam", " an", "."))
    inputs = [draw_log_probs(seed, LABELS, "der kam an", 90) for seed in range(4)]
    options = [DecodingOptions(hotwords=("kam",) * (i % 2)) for i in range(4)]
    alone = [decode(second_pass, *pair) for pair in zip(inputs, options, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(
                pool.map(lambda pair: decode(second_pass, *pair), list(zip(inputs, options, strict=True)) * 5)
            )
            == alone * 5
        )


def test_what_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    second_pass = load(monkeypatch, Script(" Der"))
    log_probs = draw_log_probs(1, LABELS, "der", 30)
    with pytest.raises(DecodingError, match="tokens"):
        decode(second_pass, log_probs[:, :5])
    with pytest.raises(DecodingError, match="NaN"):
        decode(second_pass, np.full_like(log_probs, np.nan))
    with pytest.warns(HotwordWarning, match="東京"):
        decode(second_pass, log_probs, DecodingOptions(hotwords=("東京",)))
    with pytest.raises(OptionError, match="beam_size 1000"):
        decode(second_pass, log_probs, DecodingOptions(beam_width=1000))
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(second_pass=None), name="one")
    with pytest.raises(ModelCapabilityError, match="passes=1"):
        SecondPass(bundle, DECODER, SimpleNamespace(frame_s=FRAME_S), RuntimeOptions())  # type: ignore[arg-type]


def test_options_take_the_place_of_what_was_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    second_pass = load(monkeypatch, Script(" Der"), beam_size=7, word_bonus=0.25)
    assert second_pass.settings(DecodingOptions()).beam_size == 7
    chosen = second_pass.settings(DecodingOptions(beam_width=3, lm_beta=1.5))
    assert (chosen.beam_size, chosen.word_bonus) == (3, 1.5)


def test_calibration_is_the_decoders_probability_until_it_is_fitted() -> None:
    for probability in (0.01, 0.5, 0.99):
        assert Calibration().apply(probability, 0.3) == pytest.approx(probability)
    assert Calibration(0.5, 0.4, 0.3).apply(0.9, 0.9) > Calibration(0.5, 0.4, 0.3).apply(0.9, 0.1)
    assert 0.0 < Calibration(-900.0).apply(0.5, 0.5) < Calibration(900.0).apply(0.5, 0.5) <= 1.0
    assert compute_logit(0.0) == -compute_logit(1.0) == -compute_logit(2.0)
    assert read_calibration({"bias": 1, "attention": 0.5, "later": "?"}) == Calibration(1.0, 0.5)
    with pytest.raises(BundleSchemaError, match="ctc"):
        read_calibration({"ctc": "much"})


@pytest.mark.parametrize(
    ("written", "plain"), [("Haus.", "haus"), ("E-Mail, –", "e-mail"), ("„", "„"), ("-", "")]
)
def test_marks_and_capitals_are_taken_off(written: str, plain: str) -> None:
    assert strip_marks(written) == plain
