"""Word and character errors by jiwer, BLEU and chrF by sacreBLEU, kept per utterance for resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.extras import load_extra
from engine.text import NORMALIZER
from engine.text.nearest import choose_readings

Integers = NDArray[np.int64]
BLEU_ORDER = 4
LENGTH_BUCKETS_S = (2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Errors:
    """Edit operations of one utterance, or of many added up.

    Attributes:
        substitutions, deletions, insertions: of the cheapest alignment.
        reference: length of the reference with numbers as they are usually said, in words or characters.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def total(self) -> int:
        """All edit operations."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference unit: WER or CER as a fraction; may exceed 1. 0 where nothing is said."""
        return self.total / self.reference if self.reference else 0.0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference + other.reference,
        )


def count_word_errors(reference: str, hypothesis: str) -> Errors:
    """Compare two German texts word by word, as they are said: numbers in the way that fits best.

    Args:
        reference: as written; empty where nothing is said, every word is then an insertion.
        hypothesis: as recognised; may be empty.
    Returns:
        Errors between the chosen ways to say both. The reference's length is that of the usual way to say it,
        so that it depends on the reference alone and every system is divided by the same.
    """
    pair = choose_readings(reference, hypothesis)
    if not pair.usual:
        return Errors(insertions=len(pair.heard.split()))
    return _errors(load_extra("jiwer").process_words(pair.said, pair.heard), len(pair.usual.split()))


def count_character_errors(reference: str, hypothesis: str) -> Errors:
    """Compare two German texts character by character (spaces count), numbers as for the word errors."""
    pair = choose_readings(reference, hypothesis)
    if not pair.usual:
        return Errors(insertions=len(pair.heard))
    return _errors(load_extra("jiwer").process_characters(pair.said, pair.heard), len(pair.usual))


def _errors(out: Any, reference: int) -> Errors:
    return Errors(out.substitutions, out.deletions, out.insertions, reference)


def add_errors(parts: Sequence[Errors]) -> Errors:
    """The sum; its rate is the corpus-level WER, not a mean of rates."""
    return sum(parts, Errors())


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """What corpus BLEU needs of one sentence: n-gram matches and totals of order 1 to 4, and lengths."""

    correct: tuple[int, ...]
    total: tuple[int, ...]
    hypothesis_len: int
    reference_len: int

    def as_row(self) -> list[int]:
        """Ten integers that add up over sentences."""
        return [*self.correct, *self.total, self.hypothesis_len, self.reference_len]


class TranslationScorer:
    """sacreBLEU with its default settings: BLEU (13a tokens, mixed case) and chrF2."""

    @cached_property
    def _bleu(self) -> Any:
        return load_extra("sacrebleu.metrics").BLEU()

    @cached_property
    def _sentence_bleu(self) -> Any:
        # The same counts, without a warning for each sentence.
        return load_extra("sacrebleu.metrics").BLEU(effective_order=True)

    @cached_property
    def _chrf(self) -> Any:
        return load_extra("sacrebleu.metrics").CHRF()

    def count(self, hypothesis: str, reference: str) -> BleuCounts:
        """Count one sentence."""
        score = self._sentence_bleu.sentence_score(hypothesis, [reference])
        return BleuCounts(
            tuple(map(int, score.counts)),
            tuple(map(int, score.totals)),
            int(score.sys_len),
            int(score.ref_len),
        )

    def bleu(self, hypotheses: Sequence[str], references: Sequence[str]) -> float:
        """Corpus BLEU, 0 to 100."""
        return float(self._bleu.corpus_score(list(hypotheses), [list(references)]).score)

    def chrf(self, hypotheses: Sequence[str], references: Sequence[str]) -> float:
        """Corpus chrF2, 0 to 100."""
        return float(self._chrf.corpus_score(list(hypotheses), [list(references)]).score)

    def sentence_chrf(self, hypothesis: str, reference: str) -> float:
        """chrF2 of one sentence, 0 to 100; unlike BLEU it is not 0 for want of a four-gram."""
        return float(self._chrf.sentence_score(hypothesis, [reference]).score)

    @property
    def signatures(self) -> dict[str, str]:
        """sacreBLEU's own signatures; they exist once something was scored."""
        return {"bleu": str(self._bleu.get_signature()), "chrf": str(self._chrf.get_signature())}


def bleu_from_counts(counts: Integers) -> float:
    """Corpus BLEU from summed BleuCounts rows.

    Args:
        counts: int64 [10], the sum of BleuCounts.as_row over sentences.
    """
    values = [int(value) for value in counts]
    score = load_extra("sacrebleu.metrics").BLEU.compute_bleu(
        correct=values[:BLEU_ORDER],
        total=values[BLEU_ORDER : 2 * BLEU_ORDER],
        sys_len=values[-2],
        ref_len=values[-1],
        smooth_method="exp",
    )
    return float(score.score)


def length_bucket(audio_s: float) -> str:
    """The name of the bucket of a length in seconds, sortable as text only by sort_buckets."""
    low = 0.0
    for high in LENGTH_BUCKETS_S:
        if audio_s < high:
            return f"{low:g}-{high:g} s"
        low = high
    return f">= {low:g} s"


def bucket_names() -> list[str]:
    """All bucket names, from short to long."""
    edges = (0.0, *LENGTH_BUCKETS_S)
    return [length_bucket(edge) for edge in edges]


def normalizer_signature() -> str:
    """How German text is made what is said."""
    return f"norm:{NORMALIZER}"


def scorer_signature() -> str:
    """How transcripts are scored: normaliser and jiwer's version."""
    return f"{normalizer_signature()}|jiwer:{version('jiwer')}"
