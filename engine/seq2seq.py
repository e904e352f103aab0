"""The decoder loop: an encoder run once, a one-step decoder with a key-value cache, greedy or beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.beam_select import NEVER, select_beams, trace_back
from engine.kernels.top_tokens import advance_greedy, top_tokens
from engine.manifest import TranslationConfig
from engine.session import CancelToken, Session

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


class EncoderDecoder:
    """Runs one batch of sentences of the same padded length. Thread-safe: a call keeps its own state."""

    def __init__(self, encoder: Session, decoder: Session, config: TranslationConfig) -> None:
        self.encoder, self.decoder, self.config = encoder, decoder, config
        kinds = [f"{kind}_{layer}" for layer in range(config.n_layers) for kind in ("key", "value")]
        self._cross = [f"cross_{kind}" for kind in kinds]
        self._past = [f"past_{kind}" for kind in kinds]
        self._outputs = ["log_probs", *kinds]
        self._width = config.n_heads * config.head_dim

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
            CancelledError: cancel was set.
        """
        state = self._encode(sources, cancel)
        bounds = np.asarray(limits, np.int64)
        if beam_size == 1:
            return self._greedy(state, bounds, length_penalty, cancel)
        return self._beams(state, bounds, beam_size, length_penalty, n_best, cancel)

    def _encode(self, sources: Sequence[Sequence[int]], cancel: CancelToken | None) -> dict[str, Array]:
        """The decoder's constant inputs: cross-attention keys and values, and the source mask."""
        width = padded_length(max(len(source) for source in sources))
        ids = np.full((len(sources), width), self.config.pad_id, np.int64)
        mask = np.zeros((len(sources), width), np.int32)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = source
            mask[row, : len(source)] = 1
        outputs = self.encoder.run({"input_ids": ids, "source_mask": mask}, self._cross, cancel)
        return {"source_mask": mask, **dict(zip(self._cross, outputs, strict=True))}

    def _empty_cache(self, rows: int) -> list[Array]:
        shape = (rows, self.config.n_heads, 0, self.config.head_dim)
        return [np.zeros(shape, np.float32) for _ in self._past]

    def _start(self, state: dict[str, Array], rows: int, rows_per_sentence: int) -> dict[str, Array]:
        """The feeds of the first step; the loop changes them in place."""
        batch = len(state["source_mask"])
        return {
            **state,
            "input_ids": np.full((rows, 1), self.config.decoder_start_id, np.int64),
            "row_idx": np.arange(rows),
            "position": np.zeros(1, np.int64),
            "query_shape": np.array([batch, rows_per_sentence, self._width], np.int64),
            **dict(zip(self._past, self._empty_cache(rows), strict=True)),
        }

    def _step(self, feeds: dict[str, Array], step: int, cancel: CancelToken | None) -> Array:
        """Log-probabilities float32 [rows, vocab]; the cache in feeds becomes one token longer."""
        feeds["position"][0] = step
        log_probs, *cache = self.decoder.run(feeds, self._outputs, cancel)
        feeds.update(zip(self._past, cache, strict=True))
        return log_probs.reshape(len(feeds["input_ids"]), -1)

    def _keep_sentences(self, feeds: dict[str, Array], kept: Ids) -> None:
        """Drop the sentences that are done from what is constant over the steps."""
        for name in ("source_mask", *self._cross):
            feeds[name] = feeds[name][kept]

    def _greedy(
        self, state: dict[str, Array], limits: Ids, length_penalty: float, cancel: CancelToken | None
    ) -> list[list[TokenHypothesis]]:
        n_sentences = len(limits)
        tokens = np.zeros((int(limits.max()), n_sentences), np.int64)
        totals, lengths = np.zeros(n_sentences, np.float64), np.zeros(n_sentences, np.int64)
        feeds, active = self._start(state, n_sentences, 1), np.arange(n_sentences)
        for step in range(len(tokens)):
            log_probs = self._step(feeds, step, cancel)
            going_on = advance_greedy(
                log_probs, self.config.pad_id, self.config.eos_id, step, active, limits, tokens, totals,
                lengths, feeds["input_ids"], feeds["row_idx"],
            )  # fmt: skip
            if going_on == 0:
                break
            if going_on < len(active):
                kept = feeds["row_idx"][:going_on].copy()
                active = active[kept]
                self._keep_sentences(feeds, kept)
                feeds.update(input_ids=feeds["input_ids"][:going_on], row_idx=kept)
                feeds["query_shape"][0] = going_on
        return [
            [self._hypothesis(tokens[: lengths[i], i], totals[i] / lengths[i] ** length_penalty, totals[i])]
            for i in range(n_sentences)
        ]

    def _hypothesis(self, tokens: Ids, score: float, log_prob: float) -> TokenHypothesis:
        kept = tokens[:-1] if len(tokens) and tokens[-1] == self.config.eos_id else tokens
        return TokenHypothesis(tuple(kept.tolist()), float(score), float(log_prob), len(tokens))

    def _beams(
        self, state: dict[str, Array], limits: Ids, beam_size: int, length_penalty: float, n_best: int,
        cancel: CancelToken | None,
    ) -> list[list[TokenHypothesis]]:  # fmt: skip
        search = _BeamState(len(limits), beam_size, limits)
        feeds = self._start(state, len(limits), 1)
        for step in range(int(limits.max())):
            log_probs = self._step(feeds, step, cancel)
            scores = np.empty((len(log_probs), 2 * beam_size), np.float32)
            ids = np.empty(scores.shape, np.int64)
            top_tokens(log_probs, self.config.pad_id, scores, ids)
            before = len(search.active)
            next_ids, row_idx, kept = search.advance(scores, ids, step, self.config.eos_id, length_penalty)
            if len(kept) == 0:
                break
            if len(kept) < before:
                self._keep_sentences(feeds, kept)
            feeds.update(input_ids=next_ids[:, None], row_idx=row_idx)
            feeds["query_shape"][:2] = len(kept), beam_size
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
