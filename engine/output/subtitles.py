"""Segments -> subtitle cues that people can read: two lines, ends of sentences, pauses, reading speed.

A cue has at most two lines of 42 characters and ends with a sentence where the sentence fits. It stays on the
screen long enough for 17 characters a second where the next cue allows it, and never runs over a long pause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, pairwise
from typing import Final

from engine.output.line_breaks import LINE_CHARS, SENTENCE, break_cost, count_chars, fits, wrap
from engine.types import Segment, Word

MAX_CUE_S: Final = 7.0  # longer, and a reader begins again
MIN_CUE_S: Final = 1.0  # shorter, and nobody can read it
READING_CPS: Final = 17.0  # characters a second that everybody can read
FAST_CPS: Final = 21.0  # the most that many can
LONG_PAUSE_S: Final = 1.0  # a cue never runs over one
LEAD_S: Final = 0.5  # a cue may appear this much before its first word, to be readable
GAP_S: Final = 0.08  # two frames between cues, so that the eye sees the change

_CUE_COST: Final = 1.0  # of every cue: few are better than many
_SECOND_SENTENCE: Final = 0.3
_TORN_SENTENCE: Final = 1.5  # of a sentence that begins or ends in a cue with parts of another
_PAUSE_COST: Final = 2.0  # of each second of a pause inside a cue, beyond _SHORT_PAUSE_S
_SHORT_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on the screen from start_s to end_s.

    Attributes:
        lines: one or two, none empty.
        start_s, end_s: seconds; a cue ends before the next one starts.
        words: those of each line, with their times; empty where the segment has none.
        speaker: who says it, "Speaker 1"; empty where that is not known.
    """

    lines: tuple[str, ...]
    start_s: float
    end_s: float
    words: tuple[tuple[Word, ...], ...] = ()
    speaker: str = ""

    @property
    def text(self) -> str:
        """The lines, one below the other."""
        return "\n".join(self.lines)

    @property
    def n_chars(self) -> int:
        """Characters to read; a line break counts as a space."""
        return count_chars(self.lines)


def compute_cues(segments: Sequence[Segment]) -> list[Cue]:
    """Lay out segments as subtitles.

    Args:
        segments: in order of time. Words without times (a translation) are given times in
            proportion to their letters.
    Returns:
        Cues in order, which hold every word exactly once. A word longer than a line has a line
        for itself. Only cues of different channels may overlap.
    """
    laid_out = [make_readable(_cues_of(spoken)) for spoken in _by_channel(segments)]
    return sorted(chain.from_iterable(laid_out), key=lambda cue: cue.start_s)


def word_cues(segments: Sequence[Segment]) -> list[Cue]:
    """One cue a word; segments without word times become ordinary cues."""
    cues: list[Cue] = []
    for segment in segments:
        if segment.words:
            cues.extend(
                Cue((word.text,), word.start_s, word.end_s, ((word,),), segment.speaker)
                for word in segment.words
            )
        else:
            cues.extend(make_readable(_cues_of([segment])))
    return sorted(cues, key=lambda cue: cue.start_s)


def _by_channel(segments: Sequence[Segment]) -> list[list[Segment]]:
    channels: dict[int | None, list[Segment]] = {}
    for segment in segments:
        channels.setdefault(segment.channel, []).append(segment)
    return list(channels.values())


def _cues_of(segments: Sequence[Segment]) -> list[Cue]:
    """The cues of one channel, before their times are made readable."""
    cues: list[Cue] = []
    for timed, group in groupby(segments, key=lambda segment: bool(segment.words)):
        spoken = list(group)
        words = [word for segment in spoken for word in segment.words or spread_words(segment)]
        speaker = spoken[0].speaker
        width = LINE_CHARS - (len(speaker) + 2 if speaker else 0)  # "Speaker 1: "
        for run in _split_at_pauses(words):
            cues.extend(make_cue(part, timed, width, speaker) for part in best_cues(run, width))
    return cues


def spread_words(segment: Segment) -> tuple[Word, ...]:
    """Give the words of a segment times in proportion to their letters."""
    tokens = segment.text.split()
    total = sum(len(token) + 1 for token in tokens)
    words, done = [], 0
    for token in tokens:
        start_s = _at(segment, done / total)
        done += len(token) + 1
        words.append(Word(token, start_s, _at(segment, done / total), segment.confidence))
    return tuple(words)


def make_cue(words: Sequence[Word], timed: bool, width: int = LINE_CHARS, speaker: str = "") -> Cue:
    """One cue of words that fit: wrapped into lines, from the first word's start to the last one's end."""
    lines, done = [], 0
    for count in wrap(tuple(word.text for word in words), width):
        lines.append(tuple(words[done : done + count]))
        done += count
    texts = tuple(" ".join(word.text for word in line) for line in lines)
    return Cue(texts, words[0].start_s, words[-1].end_s, tuple(lines) if timed else (), speaker)


def make_readable(cues: Sequence[Cue]) -> list[Cue]:
    """Give every cue the time that its characters need, where its neighbours leave that time.

    A cue stays after its last word, for a long pause at most as long as its text needs; where the next cue
    follows at once it may appear up to LEAD_S before its first word. No cue overlaps the next.
    """
    result: list[Cue] = []
    for i, cue in enumerate(cues):
        latest_s = cues[i + 1].start_s if i + 1 < len(cues) else float("inf")
        needed_s = max(MIN_CUE_S, min(MAX_CUE_S, cue.n_chars / READING_CPS))
        end_s = min(max(cue.end_s, cue.start_s + needed_s), max(latest_s, cue.start_s))
        missing_s = needed_s - (end_s - cue.start_s)
        earliest_s = result[-1].end_s if result else 0.0
        start_s = max(cue.start_s - min(max(missing_s, 0.0), LEAD_S), min(earliest_s, cue.start_s))
        result.append(replace(cue, start_s=start_s, end_s=end_s))
    return [_leave_gap(cue, after) for cue, after in pairwise(result)] + result[-1:]


def _leave_gap(cue: Cue, after: Cue) -> Cue:
    """End GAP_S before the next cue where the cue does not become too short by it."""
    if cue.end_s <= after.start_s - GAP_S or after.start_s - GAP_S - cue.start_s < MIN_CUE_S:
        return cue
    return replace(cue, end_s=after.start_s - GAP_S)


def _split_at_pauses(words: Sequence[Word]) -> list[Sequence[Word]]:
    """Runs of words without a long pause between two of them."""
    runs, start = [], 0
    for i in range(1, len(words)):
        if words[i].start_s - words[i - 1].end_s >= LONG_PAUSE_S:
            runs.append(words[start:i])
            start = i
    return [*runs, words[start:]] if words else []


def best_cues(words: Sequence[Word], width: int = LINE_CHARS) -> list[Sequence[Word]]:
    """Cut a run of words into cues at the least cost: dynamic programming over the places to cut."""
    run = _Run.of(words, width)
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost, first word of the last cue
    for end in range(1, len(words) + 1):
        options = [(best[start][0] + cost, start) for start, cost in run.cues_to(end)]
        best.append(min(options))
    parts: list[Sequence[Word]] = []
    end = len(words)
    while end:
        parts.append(words[best[end][1] : end])
        end = best[end][1]
    return parts[::-1]


@dataclass(frozen=True, slots=True)
class _Run:
    """What the cost of cues needs to know of a run of words, by word."""

    words: Sequence[Word]
    tokens: tuple[str, ...]
    ended: list[float]  # cost of a cut after the word
    pauses: list[float]  # cost of the pause after the word, inside a cue
    width: int

    @classmethod
    def of(cls, words: Sequence[Word], width: int) -> _Run:
        pauses = [
            _PAUSE_COST * max(after.start_s - word.end_s - _SHORT_PAUSE_S, 0.0)
            for word, after in pairwise(words)
        ]
        tokens = tuple(word.text for word in words)
        breaks = [break_cost(*pair) for pair in zip(tokens, [*tokens[1:], ""], strict=True)]
        return cls(words, tokens, breaks, [*pauses, 0.0], width)

    def cues_to(self, end: int) -> Iterator[tuple[int, float]]:
        """Every first word of a cue that ends before word `end`, and that cue's cost."""
        last = end == len(self.words)
        next_s = self.words[-1].end_s + MIN_CUE_S if last else self.words[end].start_s
        n_chars, n_inner, pauses = -1, 0, 0.0
        for start in range(end - 1, -1, -1):
            n_chars += 1 + len(self.tokens[start])
            if start < end - 1:
                n_inner += self.ended[start] == SENTENCE
                pauses += self.pauses[start]
                if not self._may_be_cue(start, end, n_chars):
                    return
            cost = (
                pauses + _SECOND_SENTENCE * n_inner + _speed_cost(n_chars, next_s - self.words[start].start_s)
            )
            torn = (start > 0 and self.ended[start - 1] != SENTENCE) + (self.ended[end - 1] != SENTENCE)
            cut = 0.0 if last else self.ended[end - 1]
            yield start, _CUE_COST + cut + cost + _TORN_SENTENCE * torn * (n_inner > 0)

    def _may_be_cue(self, start: int, end: int, n_chars: int) -> bool:
        too_long = self.words[end - 1].end_s - self.words[start].start_s > MAX_CUE_S
        return not too_long and (n_chars <= self.width or fits(self.tokens[start:end], self.width))


def _speed_cost(n_chars: int, seconds: float) -> float:
    """What it costs that a cue must be read faster than people can, or is gone at once."""
    seconds = max(seconds, 0.05)
    speed = n_chars / seconds
    cost = max(speed / READING_CPS - 1.0, 0.0) + 2.0 * min(max(speed / FAST_CPS - 1.0, 0.0), 5.0)
    return cost + max(2.0 * (MIN_CUE_S - seconds), 0.0)


def _at(segment: Segment, share: float) -> float:
    return segment.start_s + share * (segment.end_s - segment.start_s)
