"""Phrases between pauses, each judged separately: whether speech and text agree, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audio import vad
from training.alignment.lattice import count_letters
from training.alignment.spoken_text import Slot
from training.alignment.viterbi import Alignment, SlotSpan

MIN_PAUSE_S: Final = 0.16  # the closure before a "t" or "k" is half as long
SHORT_PAUSE_S: Final = 0.08  # only cut at to save phrases next to bad text
REACH_S: Final = 0.1  # CTC may place a letter this far from its sound
MAX_EDGE_S: Final = 0.3  # of silence, before and after an utterance
MAX_STRAY_LETTERS: Final = 2  # heard between words: breath, or a letter of the next word
FASTEST_LETTER_S: Final = 0.03  # nobody speaks faster
MIN_SKIPPED_LETTERS: Final = 8  # fewer may have been said too quickly to hear
WORD_SLACK: Final = 6.0  # nats; a short word with less than this is not judged

ADDED, OMITTED, UNHEARD, UNBROKEN = "other speech", "text left out", "words not heard", "no pause"
Runs = list[tuple[float, float]]


class Gap(NamedTuple):
    """The gap before a word, or after the last one.

    Attributes:
        start_s, end_s: from the end of the last letter to the start of the next.
        heard_s: when letters were heard here that belong to no word.
        skipped: letters of text that was left out here.
        pauses: quiet stretches (start_s, end_s), long enough to cut in.
        sound_s: seconds between start_s and end_s that are not quiet.
    """

    start_s: float
    end_s: float
    heard_s: list[float]
    skipped: int
    pauses: Runs
    sound_s: float

    @property
    def problem(self) -> str:
        """Why the words on either side may not stay in one transcript, or "" where they may."""
        if len(self.heard_s) > MAX_STRAY_LETTERS:
            return ADDED
        clear = self.skipped >= MIN_SKIPPED_LETTERS and self.sound_s < FASTEST_LETTER_S * self.skipped
        return OMITTED if self.skipped and not clear else ""


class Phrase(NamedTuple):
    """Words between two pauses.

    Attributes:
        words: their spans. start_s, end_s: where to cut.
        problems: why it is refused; empty for a good one.
        joins: only a pause is between it and the phrase before.
    """

    words: tuple[SlotSpan, ...]
    start_s: float
    end_s: float
    problems: tuple[str, ...]
    joins: bool


def find_pauses(waveform: NDArray[np.float32], sample_rate: int, min_pause_s: float = SHORT_PAUSE_S) -> Runs:
    """Quiet stretches of a recording.

    Args:
        waveform: float32 [n_samples], mono.
    Returns:
        [(start_s, end_s)] in order, each at least min_pause_s long.
    """
    levels = vad.compute_excess(vad.compute_band_levels(waveform, sample_rate))
    quiet = levels <= vad.compute_thresholds(levels).off
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    runs = edges.reshape(-1, 2) * vad.FRAME_S
    return [(float(start), float(end)) for start, end in runs if end - start >= min_pause_s]


def build_gaps(
    alignment: Alignment,
    slots: Sequence[Slot],
    pauses: Runs,
    heard_s: Sequence[float],
    frame_s: float,
    duration_s: float,
) -> tuple[list[SlotSpan], list[Gap]]:
    """Split an alignment into words and the gaps around them.

    Args:
        heard_s: start of every letter of the greedy path.
    Returns:
        n words that were said and n + 1 gaps.
    """
    words = [span for span in alignment.spans if span.form >= 0]
    ends = [0.0, *(word.end * frame_s for word in words)]
    starts = [*(word.start * frame_s for word in words), duration_s]
    bounds = [-1, *(word.slot for word in words), len(slots)]
    heard = np.asarray(heard_s)
    gaps = []
    for number, (start_s, end_s) in enumerate(zip(ends, starts, strict=True)):
        inside = heard[(heard >= start_s - 1e-6) & (heard < end_s - 1e-6)]
        skipped = sum(count_letters(slot) for slot in slots[bounds[number] + 1 : bounds[number + 1]])
        found = _within(pauses, start_s - REACH_S, end_s + REACH_S)
        if not found and number in (0, len(words)):  # the recording's own edges are as good
            found = [(start_s, start_s) if number == 0 else (end_s, end_s)]
        quiet_s = sum(max(0.0, min(b, end_s) - max(a, start_s)) for a, b in found)
        gaps.append(Gap(start_s, end_s, inside.tolist(), skipped, found, end_s - start_s - quiet_s))
    return words, gaps


def _within(pauses: Runs, start_s: float, end_s: float) -> Runs:
    """The parts of pauses that lie in [start_s, end_s] and are long enough to cut in."""
    parts = [(max(a, start_s), min(b, end_s)) for a, b in pauses if b > start_s and a < end_s]
    return [(a, b) for a, b in parts if b - a >= SHORT_PAUSE_S - 1e-6]


def cut_phrases(
    words: Sequence[SlotSpan],
    gaps: Sequence[Gap],
    slots: Sequence[Slot],
    min_word_score: float,
    max_s: float,
) -> list[Phrase]:
    """Cut at every pause and judge the phrases; bad and overlong phrases are also cut at short pauses.

    Args:
        words: n spans. gaps: n + 1, from build_gaps.
        min_word_score: nats per letter; a word below it was not heard.
        max_s: a longer phrase is cut at shorter pauses too.
    Returns:
        Phrases in order; speech that no word covers is in none of them.
    """
    phrases: list[Phrase] = []
    for first, last in _between(gaps, 0, len(words), MIN_PAUSE_S):
        whole = _judge(words[first:last], gaps[first : last + 1], slots, min_word_score)
        parts = [(first, last)]
        if whole.problems or whole.end_s - whole.start_s > max_s:
            parts = _between(gaps, first, last, SHORT_PAUSE_S)
        phrases += [_judge(words[a:b], gaps[a : b + 1], slots, min_word_score) for a, b in parts]
    return phrases


def _between(gaps: Sequence[Gap], first: int, last: int, min_pause_s: float) -> list[tuple[int, int]]:
    """Ranges of words first to last that begin and end at pauses of at least this length."""
    inner = range(first + 1, last)
    cuts = [at for at in inner if any(b - a >= min_pause_s - 1e-6 for a, b in gaps[at].pauses)]
    return list(pairwise([first, *cuts, last])) if last > first else []


def _judge(
    words: Sequence[SlotSpan], gaps: Sequence[Gap], slots: Sequence[Slot], min_word_score: float
) -> Phrase:
    problems = {gap.problem for gap in gaps[1:-1]}
    start_s, before = _edge_before(gaps[0])
    end_s, behind = _edge_behind(gaps[-1])
    problems |= {before, behind}
    for word in words:
        n_letters = len(slots[word.slot].forms[word.form].letters)
        if word.score < min(-WORD_SLACK, min_word_score * n_letters):
            problems.add(UNHEARD)
    return Phrase(tuple(words), start_s, end_s, tuple(sorted(problems - {""})), not gaps[0].problem)


def _edge_before(gap: Gap) -> tuple[float, str]:
    """Where a phrase after this gap begins, and its problems."""
    stray = gap.heard_s[-1] if len(gap.heard_s) > MAX_STRAY_LETTERS else -1.0
    for start_s, end_s in reversed(gap.pauses):
        if len(gap.heard_s) > MAX_STRAY_LETTERS and end_s <= stray:
            break
        middle_s = (start_s + end_s) / 2
        problem = OMITTED if gap.problem == OMITTED else ""
        return max(middle_s, end_s - MAX_EDGE_S), problem
    return gap.end_s, gap.problem if gap.pauses else UNBROKEN


def _edge_behind(gap: Gap) -> tuple[float, str]:
    """Where a phrase before this gap ends, and its problems."""
    stray = gap.heard_s[0] if len(gap.heard_s) > MAX_STRAY_LETTERS else np.inf
    for start_s, end_s in gap.pauses:
        if start_s >= stray:
            break
        problem = OMITTED if gap.problem == OMITTED else ""
        return min((start_s + end_s) / 2, start_s + MAX_EDGE_S), problem
    return gap.start_s, gap.problem if gap.pauses else UNBROKEN
