"""Beam search with a language model of one's own, which is asked in Python.

The interface of a model is pyctcdecode's, so a class written for it works here unchanged. The search is that
of CtcBeamDecoder without lookahead, in plain Python: some hundred times slower.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.decoding.hotwords import Phrases, build_hotwords, freeze_phrases
from engine.decoding.labels import Labelled, build_labels, check_emissions, compose
from engine.decoding.settings import HOTWORD_WEIGHT, MAX_BEAM_WIDTH, check_count
from engine.decoding.spans import make_words
from engine.errors import DecodingError
from engine.types import Hypothesis

_NEVER = -math.inf
_Words = tuple[str, ...]
_Key = tuple[_Words, str, int]  # finished words, letters of the unfinished one, last label
_Spans = tuple[tuple[int, int], ...]


class AbstractLanguageModel(ABC):
    """What a language model has to answer. States may be any object and are never changed here."""

    @property
    @abstractmethod
    def order(self) -> int:
        """How many words a score depends on, its own included; 0 for all."""

    @abstractmethod
    def get_start_state(self) -> Any:
        """The state at the start of an utterance."""

    @abstractmethod
    def score_partial_token(self, partial_token: str) -> float:
        """Natural log, for ranking: what the beginning of a word costs; 0 where words go on so."""

    @abstractmethod
    def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> tuple[float, Any]:
        """Natural log, weighted, of a word after a state, with the end of the utterance if it is the last.

        Returns:
            The score, and the state after the word.
        """


@dataclass(frozen=True, slots=True)
class _History:
    """What finished words came to: natural log in all, of the last word, and the states around it."""

    total: float
    last: float
    before: Any
    state: Any
    hotword: int


@dataclass(slots=True)
class _Ends:
    """Alignments of a prefix: natural log of those that end in a blank or not; the likeliest's frames."""

    blank: float = _NEVER
    symbol: float = _NEVER
    best: float = _NEVER
    spans: _Spans = ()
    begun: tuple[int, int] = (0, 0)

    @property
    def total(self) -> float:
        return float(np.logaddexp(self.blank, self.symbol))


class OwnModelDecoder(Labelled):
    """Beam search over any vocabulary with a language model of one's own.

    Args:
        vocabulary, blank_id, word_delimiter, frame_s, token_min_logp, beam_prune_logp, beam_width: as for
            CtcBeamDecoder.
        language_model: an object with the methods of AbstractLanguageModel. It is asked by the thread that
            calls decode; the decoder is as safe to share between threads as the model is.
    Raises:
        DecodingError: the vocabulary, or an object without these methods.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        language_model: AbstractLanguageModel,
        *,
        blank_id: int = 0,
        word_delimiter: str = "|",
        frame_s: float = 0.02,
        token_min_logp: float = -5.0,
        beam_prune_logp: float = -10.0,
        beam_width: int = 64,
    ) -> None:
        self.labels = build_labels(vocabulary, blank_id, word_delimiter)
        missing = [
            name
            for name in ("get_start_state", "score", "score_partial_token")
            if not hasattr(language_model, name)
        ]
        if missing:
            got = f"a language model of type {type(language_model).__name__} without {', '.join(missing)}"
            raise DecodingError(got, "the methods of engine.decoding.AbstractLanguageModel")
        self.language_model = language_model
        self.frame_s, self.beam_width = frame_s, check_count("beam_width", beam_width, MAX_BEAM_WIDTH)
        self.token_min_logp, self.beam_prune_logp = token_min_logp, beam_prune_logp

    def with_settings(self, **changes: Any) -> OwnModelDecoder:
        """The same decoder with another token_min_logp, beam_prune_logp, beam_width or frame_s."""
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    def decode(
        self,
        log_probs: Any,
        beam_width: int | None = None,
        n_best: int = 1,
        hotwords: Phrases | None = (),
        hotword_weight: float = HOTWORD_WEIGHT,
        *,
        logits: bool = False,
    ) -> list[Hypothesis]:
        """Decode one utterance; arguments and result as for CtcBeamDecoder.decode.

        A word's confidence is the mean probability of the likeliest label of its frames. Whether a hotword is
        charged as unknown is up to the language model.
        """
        emissions = check_emissions(log_probs, len(self.labels), logits=logits)
        n_best = check_count("n_best", n_best, MAX_BEAM_WIDTH)
        width = check_count("beam_width", beam_width or self.beam_width, MAX_BEAM_WIDTH)
        phrases, weight = freeze_phrases(hotwords, hotword_weight)
        pairs = phrases if weight is None else [(phrase, weight) for phrase in phrases]
        search = _Search(self, build_hotwords(self.labels, pairs), width)
        for frame, row in enumerate(emissions.astype(np.float64)):
            search.advance(frame, row)
        return [self._read(found, emissions) for found in search.finish()[:n_best]]

    def _read(self, found: tuple[_Words, _Spans, float, float], emissions: Any) -> Hypothesis:
        words, spans, acoustic, lm = found
        texts = [compose(word) for word in words]
        read = make_words(zip(texts, spans, strict=True), emissions, self.frame_s)
        return Hypothesis(" ".join(texts), read, acoustic, lm, acoustic + lm)


class _Search:
    """The beams of one utterance."""

    def __init__(self, decoder: OwnModelDecoder, hotwords: Any, width: int) -> None:
        self.decoder, self.labels, self.model = decoder, decoder.labels, decoder.language_model
        self.hotwords, self.width = hotwords, width
        self.beams: dict[_Key, _Ends] = {((), "", self.labels.delimiter_id): _Ends(blank=0.0, best=0.0)}
        start = self.model.get_start_state()
        self.histories: dict[_Words, _History] = {(): _History(0.0, 0.0, start, start, 0)}
        self.partials: dict[str, float] = {}

    def advance(self, frame: int, row: Any) -> None:
        """Carry the beams through one frame: float64 [vocab_size], natural log."""
        labels, least = self.labels, self.decoder.token_min_logp
        spoken = np.flatnonzero(labels.spoken)
        best = spoken[int(row[spoken].argmax())]
        if row[best] == _NEVER:
            return
        chosen = [int(token) for token in spoken if row[token] >= least or token == best]
        grown: dict[_Key, _Ends] = {}
        for key, ends in self.beams.items():
            for token in chosen:
                self._extend(grown, key, ends, token, float(row[token]), frame)
        self.beams = self._prune(grown)

    def _extend(
        self, grown: dict[_Key, _Ends], key: _Key, ends: _Ends, token: int, log_prob: float, frame: int
    ) -> None:
        if token == self.labels.blank_id:
            _add(grown, key, True, ends.total + log_prob, ends.spans, ends.begun)
        elif token != key[2]:
            self._append(grown, key, ends, token, ends.total + log_prob, frame)
        elif token == self.labels.delimiter_id:
            _add(grown, key, False, ends.total + log_prob, ends.spans, ends.begun)
        else:
            _add(grown, key, False, ends.symbol + log_prob, ends.spans, (ends.begun[0], frame + 1))
            self._append(grown, key, ends, token, ends.blank + log_prob, frame)

    def _append(
        self, grown: dict[_Key, _Ends], key: _Key, ends: _Ends, token: int, total: float, frame: int
    ) -> None:
        """The prefix with one more label."""
        (words, partial, _), spans, (first, _last) = key, ends.spans, ends.begun
        silent = token == self.labels.delimiter_id
        if partial and (silent or self.labels.opens_word(token)):
            words, partial, spans = (*words, partial), "", (*spans, ends.begun)
        begun = (first if partial else frame, frame + 1)
        longer = partial if silent else partial + self.labels.texts[token]
        _add(grown, (words, longer, token), False, total, spans, begun)

    def _prune(self, grown: Mapping[_Key, _Ends]) -> dict[_Key, _Ends]:
        ranked = sorted(
            ((self._rank(key, ends), key) for key, ends in grown.items()), key=lambda pair: -pair[0]
        )
        floor = ranked[0][0] + self.decoder.beam_prune_logp
        return {key: grown[key] for rank, key in ranked[: self.width] if rank >= floor and rank > _NEVER}

    def _rank(self, key: _Key, ends: _Ends) -> float:
        words, partial, _ = key
        history = self._recall(words)
        rank = ends.total + history.total
        if not partial:
            return rank + float(np.log(self.hotwords.factors[history.hotword]))
        node = self._follow(history.hotword, partial)
        if node >= 0:
            return rank + float(np.log(self.hotwords.factors[node]))
        if partial not in self.partials:
            self.partials[partial] = float(self.model.score_partial_token(compose(partial)))
        return rank + self.partials[partial]

    def _follow(self, node: int, partial: str) -> int:
        """The hotwords' node behind letters; -1 outside, and everywhere where there are no hotwords."""
        if len(self.hotwords.factors) == 1:
            return -1
        for char in partial:
            node = int(self.hotwords.follow[node, self.labels.letter_index[char]]) if node >= 0 else -1
        return node

    def _recall(self, words: _Words) -> _History:
        """The history of finished words; that of all but the last is known."""
        found = self.histories.get(words)
        if found is None:
            before = self.histories[words[:-1]]
            score, state = self.model.score(before.state, compose(words[-1]), False)
            node = self._follow(before.hotword, words[-1])
            score = float(score) + (float(self.hotwords.complete[node]) if node >= 0 else 0.0)
            follow = (
                int(self.hotwords.follow[node, self.labels.space]) if node >= 0 <= self.labels.space else 0
            )
            found = _History(before.total + score, score, before.state, state, follow)
            self.histories[words] = found
        return found

    def finish(self) -> list[tuple[_Words, _Spans, float, float]]:
        """Words, their frames, acoustic and language model score of each text, best first."""
        texts: dict[_Words, _Ends] = {}
        for (words, partial, _), ends in self.beams.items():
            whole, spans = ((*words, partial), (*ends.spans, ends.begun)) if partial else (words, ends.spans)
            _add(texts, whole, False, ends.total, spans, ends.begun)
        rows = [(words, ends.spans, ends.symbol, self._end(words)) for words, ends in texts.items()]
        return sorted(rows, key=lambda row: -(row[2] + row[3]))

    def _end(self, words: _Words) -> float:
        """The score of all words with the end of the utterance behind the last; 0 for none."""
        if not words:
            return 0.0
        history = self._recall(words)
        plain, _ = self.model.score(history.before, compose(words[-1]), False)
        ended, _ = self.model.score(history.before, compose(words[-1]), True)
        return history.total + float(ended) - float(plain)


def _add(
    grown: dict[Any, _Ends], key: Any, blank: bool, value: float, spans: _Spans, begun: tuple[int, int]
) -> None:
    ends = grown.setdefault(key, _Ends())
    if blank:
        ends.blank = float(np.logaddexp(ends.blank, value))
    else:
        ends.symbol = float(np.logaddexp(ends.symbol, value))
    if value > ends.best:
        ends.best, ends.spans, ends.begun = value, spans, begun
