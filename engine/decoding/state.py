"""A running search: what carries over between chunks, and how it reads as text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.decoding.labels import Labels, refuse_emissions
from engine.kernels.ctc.emissions import FINE
from engine.kernels.ctc.ngram import CONTEXT
from engine.kernels.ctc.search import begin
from engine.kernels.ctc.state import (
    BEAM,
    N_COUNTS,
    N_TOKEN_NODES,
    N_WORD_NODES,
    TOKEN_NODE,
    WORD_NODE,
)
from engine.kernels.ctc.trace import compact, find_stable, trace_words
from engine.types import Hypothesis, Word


@dataclass(frozen=True, slots=True)
class Partial:
    """What a running utterance says so far.

    Attributes:
        stable: words that no later emission can change.
        tentative: the best continuation at the moment; its last word may be unfinished.
    """

    stable: tuple[Word, ...]
    tentative: tuple[Word, ...]

    @property
    def text(self) -> str:
        """Stable and tentative words, joined by spaces."""
        return " ".join(word.text for word in (*self.stable, *self.tentative))


@dataclass
class DecoderState:
    """Everything an interrupted search needs; small and picklable. Treat it as opaque.

    Attributes:
        decoder: which decoders may go on with it.
        n_frames: frames searched so far.
        words: words that all beams agreed on and that were cut from the search.
    """

    decoder: str
    key: Any
    n_frames: int
    words: tuple[Word, ...]
    beams: npt.NDArray[Any]
    contexts: npt.NDArray[Any]
    n_beams: int
    scale: float
    token_nodes: npt.NDArray[Any]
    word_nodes: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]

    def grow(self, n_frames: int) -> DecoderState:
        """A copy with room for more frames."""
        more = n_frames * len(self.beams)
        return replace(
            self,
            beams=self.beams.copy(),
            contexts=self.contexts.copy(),
            token_nodes=_extend(self.token_nodes, int(self.counts[N_TOKEN_NODES]), more),
            word_nodes=_extend(self.word_nodes, int(self.counts[N_WORD_NODES]), more),
            counts=self.counts.copy(),
        )

    def compact(self, labels: Labels, frame_s: float) -> None:
        """Drop what no beam can reach, and move words that all beams share to `words`."""
        stable = find_stable(self.beams, self.n_beams, self.word_nodes, self.counts[N_WORD_NODES])
        if stable >= 0:
            n_words = self.counts[N_WORD_NODES]
            self.words += _read_leaf(stable, self.word_nodes, n_words, self.token_nodes, labels, frame_s)
        self.token_nodes, self.word_nodes = compact(
            self.beams, self.n_beams, stable, self.token_nodes, self.word_nodes, self.counts
        )

    def __getstate__(self) -> dict[str, Any]:
        used = self.__dict__.copy()
        used["beams"], used["contexts"] = self.beams[: self.n_beams], self.contexts[: self.n_beams]
        used["token_nodes"] = self.token_nodes[: self.counts[N_TOKEN_NODES]]
        used["word_nodes"] = self.word_nodes[: self.counts[N_WORD_NODES]]
        return {**used, "width": len(self.beams)}

    def __setstate__(self, used: dict[str, Any]) -> None:
        width = used.pop("width")
        self.__dict__.update(used)
        self.beams = _extend(self.beams, self.n_beams, width - self.n_beams)
        self.contexts = _extend(self.contexts, self.n_beams, width - self.n_beams)


def start_state(key: Any, pack: Any, decoder: str) -> DecoderState:
    """The state of a decoder before the first frame; see engine.kernels.ctc.pack for `pack`."""
    beam_width = int(pack["beam_width"][0])
    beams, contexts = np.zeros(beam_width, BEAM), np.zeros(beam_width, CONTEXT)
    begin(pack, beams, contexts)
    nothing = np.empty(0, TOKEN_NODE), np.empty(0, WORD_NODE)
    return DecoderState(decoder, key, 0, (), beams, contexts, 1, 0.0, *nothing, np.zeros(N_COUNTS, np.int64))


def _extend(nodes: npt.NDArray[Any], used: int, more: int) -> npt.NDArray[Any]:
    grown = np.empty(used + more, nodes.dtype)
    grown[:used] = nodes[:used]
    return grown


def read_several(heads: Any, numbers: Any, values: Any, labels: Labels) -> list[list[Hypothesis]]:
    """The readings of each utterance from the result of engine.kernels.ctc.batch.search_several.

    Raises:
        DecodingError: the emissions of one were not log probabilities.
    """
    results, begin, first = [], 0, 0
    for fault, n, n_numbers, n_values in heads:
        if fault != FINE:
            refuse_emissions(fault)
        found = n, numbers[begin : begin + n_numbers], values[first : first + n_values]
        results.append(read_hypotheses(found, (), labels))
        begin, first = begin + n_numbers, first + n_values
    return results


def read_hypotheses(found: Any, settled: tuple[Word, ...], labels: Labels) -> list[Hypothesis]:
    """Turn what the search found into text with times and scores.

    Args:
        found: the result of engine.kernels.ctc.search.finish.
        settled: words before those found.
    """
    n, numbers, values = found
    scores = values[: 2 * n].tolist()
    words, texts, indices, counts = _read_words(n, numbers, values[2 * n :], labels)
    picked, spelled = _pick(words, indices), _pick(texts, indices)
    before = tuple([word.text for word in settled])
    hypotheses: list[Any] = []
    begin = 0
    for acoustic, lm, count in zip(scores[:n], scores[n:], counts, strict=True):
        end = begin + count
        draft: Any = _HypothesisDraft()
        draft.text = " ".join(before + spelled[begin:end] if before else spelled[begin:end])
        draft.words = settled + picked[begin:end]
        draft.acoustic_score, draft.lm_score, draft.score = acoustic, lm, acoustic + lm
        draft.__class__ = Hypothesis
        hypotheses.append(draft)
        begin = end
    return hypotheses


def _pick(items: list[Any], indices: list[int]) -> tuple[Any, ...]:
    """The items of these indices."""
    if len(indices) > 1:
        return itemgetter(*indices)(items)  # type: ignore[no-any-return]
    return tuple([items[index] for index in indices])


def read_partial(state: DecoderState, labels: Labels, frame_s: float) -> Partial:
    """The best beam's words behind those that are settled; its unfinished word is the last."""
    beams = state.beams[: state.n_beams]
    best = beams[int(np.argmax((beams["blank"] + beams["symbol"]) * beams["factor"]))]
    word_nodes = _extend(state.word_nodes, int(state.counts[N_WORD_NODES]), 1)
    leaf = best["word_node"]
    if best["length"] > 0:
        leaf = len(word_nodes) - 1
        confidence = (best["prob_sum"] + best["peak"]) / best["length"]
        word_nodes[leaf] = (
            best["word_node"], best["token_node"], best["length"], best["start"], best["end"], confidence,
        )  # fmt: skip
    tentative = _read_leaf(leaf, word_nodes, len(word_nodes), state.token_nodes, labels, frame_s)
    return Partial(state.words, tentative)


def _read_leaf(
    leaf: int, word_nodes: Any, n_word_nodes: int, token_nodes: Any, labels: Labels, frame_s: float
) -> tuple[Word, ...]:
    """The words up to one word node."""
    leaves, no_scores = np.array([leaf], np.int32), np.empty(0)
    traced = trace_words(leaves, word_nodes, n_word_nodes, token_nodes, float(frame_s), no_scores)
    words, _, indices, _ = _read_words(1, traced[0], traced[1], labels)
    return _pick(words, indices)


def _read_words(
    n: int, numbers: Any, values: Any, labels: Labels
) -> tuple[list[Any], list[str], list[int], list[int]]:
    """The result of trace_words for n hypotheses and no scores, as lists.

    Returns:
        Distinct words and their texts; those of all hypotheses, as indices into them; how many each has.
    """
    listed, times = numbers.tolist(), values.tolist()
    n_distinct = len(times) // 3
    n_indices = sum(listed[:n])
    first_token = n + n_indices + n_distinct
    texts = labels.spell_words(numbers[first_token:], listed[n + n_indices : first_token])
    starts_s, ends_s = times[:n_distinct], times[n_distinct : 2 * n_distinct]
    words: list[Any] = []
    for text, start_s, end_s, confidence in zip(
        texts, starts_s, ends_s, times[2 * n_distinct :], strict=True
    ):
        draft: Any = _WordDraft()
        draft.text, draft.start_s, draft.end_s, draft.confidence = text, start_s, end_s, confidence
        draft.__class__ = Word
        words.append(draft)
    return words, texts, listed[n : n + n_indices], listed[:n]


class _WordDraft:
    """Becomes a Word: a frozen dataclass takes three times as long to make, field by field."""

    __slots__ = ("confidence", "end_s", "start_s", "text")


class _HypothesisDraft:
    """Becomes a Hypothesis, likewise."""

    __slots__ = ("acoustic_score", "lm_score", "score", "text", "words")
