"""A guess at an utterance that still goes on: only what can still change is decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from engine.audio.limits import SAMPLE_RATE
from engine.jobs.endpoints import Tail
from engine.jobs.longform import Recognise, shift_words
from engine.output.punctuation import QUOTES
from engine.types import Word

LONGEST_S: Final = 5.0  # of audio that is decoded for a guess, if there is a gap between words to cut at
CHANGING_S: Final = 1.5  # the newest audio, whose words may still become others
ENDS_S: Final = {".": 1.0, "?": 1.0, "!": 1.0, "…": 1.0, ":": 0.3, ";": 0.3, ",": 0.3}  # what a mark is worth
SPOKEN_GAP_S: Final = 0.08  # a narrower one may be none, whatever mark stands there


class Gap(NamedTuple):
    """Between two words.

    Attributes:
        width_s, middle_s: seconds. n_before: words before it.
    """

    width_s: float
    n_before: int
    middle_s: float


def find_gap(
    words: Sequence[Word], from_s: float, until_s: float, texts: Sequence[str] | None = None
) -> Gap | None:
    """The widest gap between words whose second word begins in [from_s, until_s]; the last of equal ones.

    Args:
        words: as they were heard.
        texts: of each word, with the marks behind it: a gap behind a sentence or a clause counts as wider.
    """
    gaps = (
        Gap(after.start_s - before.end_s, index, (before.end_s + after.start_s) / 2)
        for index, (before, after) in enumerate(pairwise(words), 1)
        if from_s <= after.start_s <= until_s
    )

    def worth(gap: Gap) -> float:
        if texts is None or gap.width_s < SPOKEN_GAP_S:
            return gap.width_s
        return gap.width_s + ENDS_S.get(texts[gap.n_before - 1].rstrip(QUOTES)[-1:], 0.0)

    return max(gaps, key=lambda gap: (worth(gap), gap), default=None)


class Tentative:
    """The words of an open utterance so far.

    Words far enough from the end are kept from the guess in which they were heard; so a guess costs as much
    after ten seconds of speech as after four.
    """

    def __init__(self, recognise: Recognise) -> None:
        """Start with nothing.

        Args:
            recognise: float32 [n_samples] -> Hypothesis with times relative to it.
        """
        self._recognise = recognise
        self._kept: list[Word] = []
        self._from: int | None = None  # sample behind the kept words

    def clear(self) -> None:
        """The utterance is over."""
        self._kept, self._from = [], None

    def guess(self, samples: Tail, first: int) -> tuple[Word, ...]:
        """Decode what there is of the utterance.

        Args:
            samples: of the stream, up to now.
            first: sample at which the utterance begins.
        Returns:
            Its words, with times from the start of the stream.
        """
        start = max(first, first if self._from is None else self._from)
        waveform = samples.slice(start, samples.end)
        words = shift_words(self._recognise(waveform).words, start / SAMPLE_RATE)
        found = tuple(self._kept + words)
        if len(waveform) > LONGEST_S * SAMPLE_RATE:
            self._keep(words, samples.end / SAMPLE_RATE - CHANGING_S)
        return found

    def _keep(self, words: list[Word], until_s: float) -> None:
        """Cut in the longest gap between words that are sure enough."""
        if not words:
            self._from = round(until_s * SAMPLE_RATE)
            return
        gap = find_gap(words, 0.0, until_s)
        if gap is not None:
            self._kept += words[: gap.n_before]
            self._from = round(gap.middle_s * SAMPLE_RATE)
