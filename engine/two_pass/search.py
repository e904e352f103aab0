"""Joint search: the decoder proposes tokens, CTC says whether they were heard and whether all is said.

    score(text) = log p_attention(tokens, end)                       the decoder
                + ctc_weight * log p_ctc(text begins with letters)   which letters, softened: see letter_share
                + end_weight * log p_ctc(nothing follows letters)    whether the end is one
                + lm_weight * log p_lm(words) + word_bonus * words + hotwords

Attention alone repeats itself, ends too early or talks into silence; its words are mostly right. So CTC has
little to say about letters and much about the end: a text that leaves out what was clearly heard has a low
probability that nothing follows, one that says more has letters for which no frame is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import SecondPassConfig
from engine.errors import ModelError, OptionError
from engine.kernels.ctc.ngram import CONTEXT
from engine.kernels.ctc.pack import Prepared
from engine.kernels.ctc.prefix import soften_emissions
from engine.kernels.joint.state import END, HYPOTHESIS, N_COUNTS, N_ENDS, SETTINGS, Joint, Spelling
from engine.kernels.joint.step import begin_joint, step_joint
from engine.runtime.cancel import CancelToken
from engine.two_pass.runners import DecoderRunner

MAX_MARKS = 3  # tokens without letters in a row: `."` and a dash
OUTLOOK_WORDS = 2  # of word bonus that a hypothesis may still earn beyond what its words cost
TOKENS_PER_FRAME, SPARE_TOKENS = 0.25, 16  # twelve tokens a second are more than anybody speaks
NO_SPEECH = 0.6  # probability of the decoder's own token for it, above which nothing is searched
MAX_BEAMS, MAX_CANDIDATES = 64, 1000


@dataclass(frozen=True, slots=True)
class JointSettings:
    """Weights of the search; scores are natural logs.

    Attributes:
        beam_size: hypotheses that are followed.
        ctc_weight: of the CTC probability of the letters so far.
        end_weight: of the CTC probability that nothing follows.
        word_bonus: added for every word.
        letter_share: of a heard letter's probability that is spread over all letters; see soften_emissions.
        tolerance: what a word may cost CTC, for each letter and the space.
        unheard_weight: of what it costs beyond that: such a word was not heard, whatever the decoder says.
        candidates: tokens that are tried behind each hypothesis, beside those of hotwords.
        prune: hypotheses so far below the best are dropped.
    Raises:
        OptionError: a value out of range.
    """

    beam_size: int = 5
    ctc_weight: float = 0.1
    end_weight: float = 0.5
    word_bonus: float = 0.5
    letter_share: float = 0.3
    tolerance: float = 3.0
    unheard_weight: float = 0.5
    candidates: int = 10
    prune: float = 3.5

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.beam_size <= MAX_BEAMS:
            problems.append(f"beam_size {self.beam_size}, want 1 to {MAX_BEAMS}")
        for name in ("ctc_weight", "end_weight", "word_bonus", "tolerance", "unheard_weight", "prune"):
            if not 0 <= getattr(self, name) <= 100:
                problems.append(f"{name} {getattr(self, name)}, want 0 to 100")
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            problems.append(f"candidates {self.candidates}, want 1 to {MAX_CANDIDATES}")
        if not 0 <= self.letter_share <= 1:
            problems.append(f"letter_share {self.letter_share}, want 0 to 1")
        if problems:
            raise OptionError("; ".join(problems), "settings of the joint search within their ranges")


@dataclass(frozen=True, slots=True)
class TokenHypothesis:
    """Tokens of one text.

    Attributes:
        tokens: ids without prompt and end. log_probs: natural log of each.
        score: what the list is sorted by. attention: natural log of all tokens' probabilities, the end's
        included. acoustic: natural log of the CTC probability of the letters. words: what words added,
            weighted.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    score: float
    attention: float
    acoustic: float
    words: float


@dataclass(frozen=True, slots=True)
class Found:
    """Result of a search: hypotheses, best first, with different texts; the probability that nobody speaks.

    No hypotheses: nobody speaks, or the letters of none can be heard.
    """

    hypotheses: tuple[TokenHypothesis, ...]
    no_speech: float


class JointSearch:
    """The search with one decoder. Immutable: a call keeps its own state, so many threads may share it."""

    def __init__(self, runner: DecoderRunner, config: SecondPassConfig, letters: NDArray[np.uint8]) -> None:
        """letters: uint8 [vocab_size], 1 for labels of the CTC vocabulary that are part of words."""
        self.runner, self.config, self.letters = runner, config, letters
        self._prompt = np.array(config.prompt, np.int64)

    def search(
        self,
        log_probs: NDArray[np.float32],
        states: NDArray[np.float32],
        prepared: Prepared,
        spelling: Spelling,
        settings: JointSettings,
        n_best: int = 1,
        cancel: CancelToken | None = None,
    ) -> Found:
        """Find the best texts of one utterance.

        Args:
            log_probs: float32 [n_frames, vocab_size], natural log, checked.
            states: float32 [n_frames + tail frames, hidden_size], as the decoder takes them.
            prepared: language model, lexicon and hotwords, from CtcBeamDecoder.prepare.
            spelling: the tokens, made for these hotwords.
            n_best: texts to return at most.
            cancel: ends the call from another thread.
        Raises:
            CancelledError: cancel was set. ModelError: the decoder gives no scores.
        """
        if not len(log_probs):
            return Found((), 1.0)
        room = min(
            self.config.max_tokens - len(self._prompt), int(TOKENS_PER_FRAME * len(log_probs)) + SPARE_TOKENS
        )
        steps = self.runner.start(states, settings.beam_size, len(self._prompt) + room, cancel)
        joint = _make_joint(
            self._soften(log_probs, settings), prepared, settings, n_best, room, self.config.end_id
        )
        begin_joint(joint)
        first = steps.prefill(self._prompt, cancel)
        if np.isnan(first).any():
            raise ModelError(
                "an attention decoder whose scores are no numbers", "log-probabilities", "export it again"
            )
        no_speech = math.exp(min(0.0, float(first[0, self.config.no_speech_id])))
        if no_speech > NO_SPEECH:
            return Found((), no_speech)
        ids, parents = np.empty(settings.beam_size, np.int64), np.empty(settings.beam_size, np.int64)
        n_rows = step_joint(joint, spelling, _writable(first[-1:]), 0, ids, parents)
        for step in range(1, room + 1):
            if n_rows == 0:
                break
            rows = steps.step(ids[:n_rows], parents[:n_rows], cancel)
            n_rows = step_joint(joint, spelling, _writable(rows), step, ids, parents)
        ends = joint.ends[: joint.counts[N_ENDS]]
        return Found(tuple(_trace(joint, end) for end in ends), no_speech)

    def _soften(self, log_probs: NDArray[np.float32], settings: JointSettings) -> NDArray[np.float64]:
        softened = np.empty(log_probs.shape[::-1])
        soften_emissions(log_probs, self.letters, float(settings.letter_share), softened)
        return softened


def _make_joint(
    softened: NDArray[np.float64],
    prepared: Prepared,
    settings: JointSettings,
    n_best: int,
    room: int,
    end_id: int,
) -> Joint:
    """The arrays of a search with `room` tokens; see engine.kernels.joint.state.Joint."""
    width = settings.beam_size
    chosen = np.zeros(1, SETTINGS)
    chosen[0] = (
        end_id, settings.candidates, MAX_MARKS, settings.ctc_weight, settings.end_weight, settings.word_bonus,
        settings.unheard_weight, settings.tolerance, settings.prune,
        OUTLOOK_WORDS * settings.word_bonus,
    )  # fmt: skip
    numbers = (3 * width + 1, softened.shape[1])
    trail = (room + 1, width)
    return Joint(
        prepared.pack, chosen, softened, np.zeros(width, HYPOTHESIS), np.zeros(width, HYPOTHESIS),
        np.zeros(width + 1, HYPOTHESIS), np.zeros(width + 1, np.int32), np.zeros(3 * width + 2, CONTEXT),
        np.empty(numbers), np.empty(numbers), np.zeros(trail, np.int32), np.zeros(trail, np.int32),
        np.zeros(trail, np.float32), np.zeros(n_best, END), np.zeros(N_COUNTS, np.int64),
    )  # fmt: skip


def _writable(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel strikes out what it takes, in an array of one layout."""
    return np.require(rows, np.float32, ("C", "W"))


def _trace(joint: Joint, end: NDArray[np.void]) -> TokenHypothesis:
    """Follow an end back to the first token."""
    row, tokens, log_probs = int(end["row"]), [], []
    for step in range(int(end["step"]) - 1, -1, -1):
        tokens.append(int(joint.tokens[step, row]))
        log_probs.append(float(joint.log_probs[step, row]))
        row = int(joint.parents[step, row])
    scores = (float(end[name]) for name in ("score", "attention", "acoustic", "words"))
    return TokenHypothesis(tuple(tokens[::-1]), tuple(log_probs[::-1]), *scores)
