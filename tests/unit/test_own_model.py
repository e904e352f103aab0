"""Language models of one's own: asked in Python, they find what the compiled search finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.decoding import (
    AbstractLanguageModel,
    CtcBeamDecoder,
    KenlmLanguageModel,
    NgramModel,
    OwnModelDecoder,
)
from engine.errors import DecodingError
from tests.kernels.test_decoding_pieces import SENTENCEPIECE, TEVR, make_log_probs

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
BINARY = FIXTURES / "tiny.probing.bin"
LABELS = {"sentencepiece": SENTENCEPIECE, "tevr": TEVR}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("hotwords", [[], ["xylophon", "dem sofa"]])
def test_our_own_kenlm_through_the_hook_finds_the_same(kind: str, hotwords: list[str]) -> None:
    slow = OwnModelDecoder(LABELS[kind], KenlmLanguageModel(BINARY, unk_score_offset=-3.0))
    fast = CtcBeamDecoder(LABELS[kind], BINARY, unk_score_offset=-3.0, lookahead=False)
    for seed in range(3):
        log_probs = make_log_probs(kind, seed, 14, peak=7.0)
        options: dict[str, Any] = {"beam_width": 12, "n_best": 3, "hotwords": hotwords, "hotword_weight": 2.0}
        ours, theirs = slow.decode(log_probs, **options), fast.decode(log_probs, **options)
        assert ours[0].text == theirs[0].text
        assert ours[0].score == pytest.approx(theirs[0].score, abs=0.02)
        assert ours[0].acoustic_score == pytest.approx(theirs[0].acoustic_score, abs=0.02)
        times = [[(w.text, w.start_s, w.end_s) for w in found[0].words] for found in (ours, theirs)]
        assert times[0] == times[1]


def test_states_score_as_whole_sentences_do() -> None:
    model, ngrams = KenlmLanguageModel(BINARY, alpha=1.0, beta=0.0), NgramModel(BINARY)
    words = "der zug liegt auf dem sofa".split()
    state, total = model.get_start_state(), 0.0
    for i, word in enumerate(words):
        score, state = model.score(state, word, is_last_word=i == len(words) - 1)
        total += score
    assert total == pytest.approx(np.log(10.0) * ngrams.score(" ".join(words)), abs=1e-4)
    assert model.score_partial_token("zu") == 0.0
    assert model.score_partial_token("xq") == -10.0
    assert model.score_partial_token("xqxqxqxqxqxq") == -20.0


class LikesOneWord(AbstractLanguageModel):
    """A model as somebody writes it for pyctcdecode."""

    order = 1

    def get_start_state(self) -> None:
        return None

    def score_partial_token(self, partial_token: str) -> float:
        return 0.0

    def score(self, prev_state: None, word: str, is_last_word: bool = False) -> tuple[float, None]:
        return (5.0 if word == "rad" else 0.0), None


def test_a_model_of_ones_own_decides() -> None:
    labels = ("<pad>", "|", "r", "a", "d", "t")
    log_probs = np.log(np.full((3, 6), 0.01))
    for frame, probs in enumerate([{2: 0.95}, {3: 0.95}, {4: 0.35, 5: 0.6}]):
        for token, prob in probs.items():
            log_probs[frame, token] = np.log(prob)
    assert CtcBeamDecoder(labels).decode(log_probs)[0].text == "rat"
    found = OwnModelDecoder(labels, LikesOneWord(), frame_s=1.0).decode(log_probs, n_best=2)
    assert [h.text for h in found] == ["rad", "rat"]
    assert found[0].lm_score == 5.0 and found[0].words[0].end_s == 3.0


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(DecodingError, match="object without get_start_state, score"):
        OwnModelDecoder(("<pad>", "a"), object())  # type: ignore[arg-type]
