"""The decoder loop: an encoder run once, a one-step decoder with a key-value cache, greedy or beams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import TranslationConfig
from engine.errors import ModelError
from engine.kernels.seq2seq.beam_select import NEVER, select_beams, trace_back
from engine.kernels.seq2seq.top_tokens import advance_greedy, top_tokens
from engine.runtime.backend import Choice
from engine.runtime.cancel import CancelToken

PAD_MULTIPLE = 8  # a sentence is padded to its own next multiple, whatever else is in the batch
Ids = NDArray[np.int64]
Array = NDArray[Any]


@dataclass(frozen=True)
class TokenHypothesis:
    """Output token ids without the end token, the length-normalised score and the summed log-probability."""

    tokens: tuple[int, ...]
    score: float
    log_prob: float
    length: int


def padded_length(n_tokens: int) -> int:
    """The source length that a sentence is computed at; it depends on the sentence alone."""
    return -(-n_tokens // PAD_MULTIPLE) * PAD_MULTIPLE


class Steps(Protocol):
    """One batch that is being decoded."""

    def step(self, ids: Ids, row_idx: Ids, kept: Ids | None, cancel: CancelToken | None) -> Array:
        """Advance every row by one token.

        Args:
            ids: int64 [rows], the last token of each row.
            row_idx: int64 [rows], the row of the previous step that each continues.
            kept: positions of the sentences that go on among those of the previous step; None: all.
        Returns:
            Log-probabilities float32 [rows, >= vocab]; valid until the next step.
        """


class Runner(Protocol):
    """What computes the encoder and the decoder's steps. choice: why this backend, where it was chosen."""

    backend: str
    choice: Choice | None

    def start(
        self, sources: Sequence[Sequence[int]], beam_size: int, max_steps: int, cancel: CancelToken | None
    ) -> Steps:
        """Encode sources, each ending with the end token and all of one padded_length."""


class EncoderDecoder:
    """Searches one batch of sentences of the same padded length. Thread-safe: a call keeps its own state."""

    def __init__(self, runner: Runner, config: TranslationConfig) -> None:
        self.runner, self.config = runner, config

    def generate(
        self,
        sources: Sequence[Sequence[int]],
        limits: Sequence[int],
        *,
        beam_size: int,
        length_penalty: float,
        n_best: int = 1,
        cancel: CancelToken | None = None,
    ) -> list[list[TokenHypothesis]]:
        """Translate token ids.

        Args:
            sources: each ends with the end token; all of one padded_length.
            limits: most output tokens of each, the end token included.
            beam_size: 1 is greedy search.
            length_penalty: exponent of the length in a score.
            n_best: hypotheses of each sentence, at most beam_size.
            cancel: stops the loop between and within steps.
        Returns:
            For each sentence its hypotheses, best first.
        Raises:
            CancelledError: cancel was set. ModelError: the graphs give no scores.
        """
        bounds = np.asarray(limits, np.int64)
        steps = self.runner.start(sources, beam_size, int(bounds.max()), cancel)
        if beam_size == 1:
            found = self._greedy(steps, bounds, length_penalty, cancel)
        else:
            found = self._beams(steps, bounds, beam_size, length_penalty, n_best, cancel)
        if not all(each and math.isfinite(each[0].log_prob) for each in found):
            raise ModelError(
                "a translator whose scores are no numbers",
                "finite log-probabilities",
                "export the model again",
            )
        return found

    def _greedy(
        self, steps: Steps, limits: Ids, length_penalty: float, cancel: CancelToken | None
    ) -> list[list[TokenHypothesis]]:
        n_sentences = len(limits)
        tokens = np.zeros((int(limits.max()), n_sentences), np.int64)
        totals, lengths = np.zeros(n_sentences, np.float64), np.zeros(n_sentences, np.int64)
        ids, rows = np.full((n_sentences, 1), self.config.decoder_start_id, np.int64), np.arange(n_sentences)
        active, kept = np.arange(n_sentences), None
        for step in range(len(tokens)):
            log_probs = steps.step(ids[:, 0], rows, kept, cancel)
            going_on = advance_greedy(
                log_probs, self.config.pad_id, self.config.eos_id, step, active, limits, tokens, totals,
                lengths, ids, rows,
            )  # fmt: skip
            if going_on == 0:
                break
            kept = rows[:going_on].copy() if going_on < len(active) else None
            if kept is not None:
                active, ids, rows = active[kept], ids[:going_on], kept.copy()
        return [
            [self._hypothesis(tokens[: lengths[i], i], totals[i] / lengths[i] ** length_penalty, totals[i])]
            for i in range(n_sentences)
        ]

    def _hypothesis(self, tokens: Ids, score: float, log_prob: float) -> TokenHypothesis:
        kept = tokens[:-1] if len(tokens) and tokens[-1] == self.config.eos_id else tokens
        return TokenHypothesis(tuple(kept.tolist()), float(score), float(log_prob), len(tokens))

    def _beams(
        self, steps: Steps, limits: Ids, beam_size: int, length_penalty: float, n_best: int,
        cancel: CancelToken | None,
    ) -> list[list[TokenHypothesis]]:  # fmt: skip
        search = _BeamState(len(limits), beam_size, limits)
        ids, rows = np.full(len(limits), self.config.decoder_start_id, np.int64), np.arange(len(limits))
        kept: Ids | None = None
        for step in range(int(limits.max())):
            log_probs = steps.step(ids, rows, kept, cancel)
            scores = np.empty((len(log_probs), 2 * beam_size), np.float32)
            best = np.empty(scores.shape, np.int64)
            top_tokens(log_probs, self.config.pad_id, scores, best)
            before = len(search.active)
            ids, rows, found = search.advance(scores, best, step, self.config.eos_id, length_penalty)
            if len(found) == 0:
                break
            kept = found if len(found) < before else None
        return [
            [self._hypothesis(*found) for found in search.hypotheses(i, length_penalty)[:n_best]]
            for i in range(len(limits))
        ]


class _BeamState:
    """What a beam search over a batch remembers."""

    def __init__(self, n_sentences: int, beam_size: int, limits: Ids) -> None:
        shape = (n_sentences, beam_size)
        self.limits, self.active = limits, np.arange(n_sentences)
        self.running = np.zeros(shape, np.float32)
        self.tokens = np.zeros((int(limits.max()), *shape), np.int64)
        self.parents = np.zeros_like(self.tokens)
        self.finished_scores = np.full(shape, NEVER, np.float32)
        self.finished = [np.zeros(shape, np.int64) for _ in range(3)]  # step, parent, last token
        self.n_finished = np.zeros(n_sentences, np.int64)

    def advance(
        self, log_probs: Array, token_ids: Array, step: int, eos_id: int, length_penalty: float
    ) -> tuple[Ids, Ids, Ids]:
        """Next input ids, the row that each continues, and which of the active sentences go on."""
        rows = len(self.active) * self.running.shape[1]
        ids, row_idx, keep = (np.empty(n, np.int64) for n in (rows, rows, len(self.active)))
        going_on = select_beams(
            log_probs, token_ids, self.active, self.running, step, self.limits, eos_id, float(length_penalty),
            self.tokens, self.parents, self.finished_scores, *self.finished, self.n_finished,
            ids, row_idx, keep,
        )  # fmt: skip
        kept = keep[:going_on]
        self.active = self.active[kept]
        rows = going_on * self.running.shape[1]
        return ids[:rows], row_idx[:rows], kept

    def hypotheses(self, sentence: int, length_penalty: float) -> list[tuple[Ids, float, float]]:
        """Tokens, score and log-probability of the finished hypotheses of a sentence, best first."""
        found = []
        for rank in range(int(self.n_finished[sentence])):
            step, parent, token = (int(array[sentence, rank]) for array in self.finished)
            out = np.empty(step + 1, np.int64)
            trace_back(self.tokens[:, sentence], self.parents[:, sentence], step, parent, token, out)
            score = float(self.finished_scores[sentence, rank])
            found.append((out, score, score * (step + 1) ** length_penalty))
        return found
