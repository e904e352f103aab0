"""Good phrases joined to utterances of a useful length, with their transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from training.alignment.phrases import Phrase
from training.alignment.spoken_text import Slot

TARGET_S: Final = 7.0
SPREAD_S: Final = 7.0
CUT_IN_SENTENCE: Final = 1.5  # a cut there costs as much as a length this many spreads from the target
CUT_AT_COMMA: Final = 0.6


class Utterance(NamedTuple):
    """A stretch of a recording and what is said in it.

    Attributes:
        start_s, end_s: in the recording. text: written, numbers as words. letters: normalised.
        score: nats per letter relative to the greedy path, at most 0.
    """

    start_s: float
    end_s: float
    text: str
    letters: str
    score: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


def join_phrases(
    phrases: Sequence[Phrase], slots: Sequence[Slot], min_s: float, max_s: float
) -> list[Utterance]:
    """Join neighbouring good phrases.

    Args:
        phrases: all phrases of a recording, in order; those with problems separate the others.
        min_s, max_s: wanted length; shorter utterances may remain.
    Returns:
        Utterances in order, none longer than max_s; a phrase that is longer is left out.
    """
    utterances: list[Utterance] = []
    for run in _good_runs(phrases):
        utterances += [_write(run[a:b], slots) for a, b in _best_cuts(run, slots, min_s, max_s)]
    return utterances


def _good_runs(phrases: Sequence[Phrase]) -> Iterator[list[Phrase]]:
    run: list[Phrase] = []
    for phrase in phrases:
        if run and (phrase.problems or not phrase.joins):
            yield run
            run = []
        if not phrase.problems:
            run.append(phrase)
    if run:
        yield run


def _best_cuts(
    run: Sequence[Phrase], slots: Sequence[Slot], min_s: float, max_s: float
) -> list[tuple[int, int]]:
    """Cuts of a run of phrases with the lowest cost, as ranges of phrases."""
    best = [0.0] + [np.inf] * len(run)
    came = [0] * (len(run) + 1)
    for end in range(1, len(run) + 1):
        for start in range(end - 1, -1, -1):
            duration_s = run[end - 1].end_s - run[start].start_s
            if duration_s > max_s and start < end - 1:
                break
            cost = best[start] + _cut_cost(run[end - 1], slots)
            cost += ((duration_s - TARGET_S) / SPREAD_S) ** 2 + (2.0 if duration_s < min_s else 0.0)
            if cost < best[end]:
                best[end], came[end] = cost, start
    ranges, end = [], len(run)
    while end:
        ranges.append((came[end], end))
        end = came[end]
    return [(a, b) for a, b in reversed(ranges) if run[b - 1].end_s - run[a].start_s <= max_s]


def _cut_cost(phrase: Phrase, slots: Sequence[Slot]) -> float:
    word = phrase.words[-1]
    written = slots[word.slot].write(word.form)
    if written.rstrip("\"'“”«»)]").endswith((".", "!", "?")):
        return 0.0
    return CUT_AT_COMMA if written.endswith((",", ";", ":", "-", "–")) else CUT_IN_SENTENCE


def _write(phrases: Sequence[Phrase], slots: Sequence[Slot]) -> Utterance:
    words = [word for phrase in phrases for word in phrase.words]
    written = [slots[word.slot].write(word.form) for word in words]
    letters = " ".join(slots[word.slot].forms[word.form].letters for word in words)
    score = sum(word.score for word in words) / len(letters.replace(" ", ""))
    return Utterance(phrases[0].start_s, phrases[-1].end_s, " ".join(written), letters, score)
