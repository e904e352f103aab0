"""A KenLM file as a language model that is asked in Python: to be mixed with others, or wrapped."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from os import PathLike

from engine.decoding.labels import compose
from engine.decoding.ngram import SPECIAL_WORDS, NgramModel
from engine.decoding.own_model import AbstractLanguageModel
from engine.errors import LanguageModelError
from engine.kernels.ctc.state import AVERAGE_WORD_LENGTH

State = tuple[bool, tuple[str, ...]]  # whether the sentence's start is in reach, and the words before


class KenlmLanguageModel(AbstractLanguageModel):
    """What CtcBeamDecoder does with a KenLM or ARPA file, one word at a time.

    Args:
        path: as for CtcBeamDecoder's language_model.
        unigrams: known words; those that the model's file names where None.
        alpha, beta: weight of the model's natural-log score; natural log added for every word.
        unk_score_offset: log10, added to the model's score of an unknown word.
        score_boundary: score the start and end of the sentence.
    Raises:
        LanguageModelError: the file, or one that names no words where none are given.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        unigrams: Iterable[str] | None = None,
        alpha: float = 0.5,
        beta: float = 1.5,
        unk_score_offset: float = -10.0,
        score_boundary: bool = True,
    ) -> None:
        self.model = NgramModel(path)
        known = self.model.read_vocabulary() if unigrams is None else unigrams
        self._words = sorted({compose(word) for word in known} - SPECIAL_WORDS)
        if not self._words:
            raise LanguageModelError(f"{path} names no words", "a list of known words", "pass unigrams=")
        self._known = set(self._words)
        self.alpha, self.beta = alpha, beta
        self.unk_score_offset, self.score_boundary = unk_score_offset, score_boundary

    @property
    def order(self) -> int:
        """The model's order."""
        return self.model.order

    def get_start_state(self) -> State:
        """The start of a sentence."""
        return self.score_boundary, ()

    def score_partial_token(self, partial_token: str) -> float:
        """0 for the beginning of a known word; else the offset, more for more than six letters."""
        at = bisect_left(self._words, partial_token)
        if at < len(self._words) and self._words[at].startswith(partial_token):
            return 0.0
        return self.unk_score_offset * max(1.0, len(partial_token) / AVERAGE_WORD_LENGTH)

    def score(self, prev_state: State, word: str, is_last_word: bool = False) -> tuple[float, State]:
        """Natural log of a word in its context, weighted."""
        starts, words = prev_state
        ended = is_last_word and self.score_boundary
        scores = self.model.score_words([*words, word], bos=starts, eos=ended)
        log10 = float(scores[len(words) :].sum())
        if word not in self._known or word not in self.model:
            log10 += self.unk_score_offset
        kept = (*words, word)[-(self.order - 1) :]
        state = starts and len(words) + 1 < self.order - 1, kept
        return self.alpha * math.log(10.0) * log10 + self.beta, state
