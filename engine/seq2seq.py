"""The decoder loop: an encoder run once, a one-step decoder with a key-value cache, greedy or beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.beam_select import NEVER, select_beams, trace_back
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
        self._outputs = ["log_probs", "token_ids", *kinds]
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

    def _step(
        self, state: dict[str, Array], cache: list[Array], ids: Ids, row_idx: Ids, step: int,
        n_candidates: int, cancel: CancelToken | None,
    ) -> list[Array]:  # fmt: skip
        """Log-probabilities and ids of the best tokens [rows, n_candidates], then the longer cache."""
        batch = len(state["source_mask"])
        feeds: dict[str, Array] = {
            "input_ids": ids,
            "position": np.array([step], np.int64),
            "row_idx": row_idx,
            "n_candidates": np.array([n_candidates], np.int64),
            "query_shape": np.array([batch, len(ids) // batch, self._width], np.int64),
            **state,
        }
        feeds.update(zip(self._past, cache, strict=True))
        return self.decoder.run(feeds, self._outputs, cancel)

    def _greedy(
        self, state: dict[str, Array], limits: Ids, length_penalty: float, cancel: CancelToken | None
    ) -> list[list[TokenHypothesis]]:
        n_sentences = len(limits)
        tokens = np.zeros((int(limits.max()), n_sentences), np.int64)
        log_probs, lengths = np.zeros(n_sentences, np.float64), np.zeros(n_sentences, np.int64)
        active = row_idx = np.arange(n_sentences)
        ids = np.full(n_sentences, self.config.decoder_start_id, np.int64)
        cache = self._empty_cache(n_sentences)
        for step in range(len(tokens)):
            best, chosen, *cache = self._step(state, cache, ids, row_idx, step, 1, cancel)
            ids = chosen[:, 0]
            tokens[step, active] = ids
            log_probs[active] += best[:, 0]
            lengths[active] += 1
            going_on = (ids != self.config.eos_id) & (limits[active] > step + 1)
            row_idx = np.flatnonzero(going_on)
            if len(row_idx) == 0:
                break
            if len(row_idx) < len(active):
                active, ids = active[row_idx], ids[row_idx]
                state = {name: array[row_idx] for name, array in state.items()}
        return [
            [
                self._hypothesis(
                    tokens[: lengths[i], i], log_probs[i] / lengths[i] ** length_penalty, log_probs[i]
                )
            ]
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
        ids = np.full(len(limits), self.config.decoder_start_id, np.int64)
        row_idx = np.arange(len(limits))
        cache = self._empty_cache(len(limits))
        for step in range(int(limits.max())):
            best, chosen, *cache = self._step(state, cache, ids, row_idx, step, 2 * beam_size, cancel)
            before = len(search.active)
            ids, row_idx, kept = search.advance(best, chosen, step, self.config.eos_id, length_penalty)
            if len(kept) == 0:
                break
            if len(kept) < before:
                state = {name: array[kept] for name, array in state.items()}
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
