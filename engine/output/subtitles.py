"""Segments -> subtitle cues: at most two lines of 42 characters, cut where words begin and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from engine.types import Segment, Word

LINE_CHARS: Final = 42  # what broadcasters use for Latin script
CUE_LINES: Final = 2
MAX_CUE_S: Final = 7.0  # longer, and a reader begins again
MIN_CUE_S: Final = 1.0  # shorter, and nobody can read it


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen from start_s to end_s.

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


def compute_cues(segments: Sequence[Segment]) -> list[Cue]:
    """Lay out segments as subtitles.

    Args:
        segments: in order of time. Words without times (a translation) are given times in
            proportion to their letters.
    Returns:
        Cues in order, which hold every word exactly once. A word longer than a line has a line
        of its own. Only those of different channels may overlap.
    """
    laid_out = [_readable(_cues_of(spoken)) for spoken in _by_channel(segments)]
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
            cues.extend(_cues_of([segment]))
    return sorted(cues, key=lambda cue: cue.start_s)


def _by_channel(segments: Sequence[Segment]) -> list[list[Segment]]:
    channels: dict[int | None, list[Segment]] = {}
    for segment in segments:
        channels.setdefault(segment.channel, []).append(segment)
    return list(channels.values())


def _cues_of(segments: Sequence[Segment]) -> list[Cue]:
    cues: list[Cue] = []
    for segment in segments:
        words = segment.words or spread_words(segment)
        label_chars = len(segment.speaker) + 2 if segment.speaker else 0
        filled = _fill_cues(words, timed=bool(segment.words), width=LINE_CHARS - label_chars)
        cues.extend(replace(cue, speaker=segment.speaker) for cue in filled)
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


def wrap(tokens: Sequence[str], width: int = LINE_CHARS) -> list[int]:
    """Break tokens into the fewest lines of at most `width` characters, of nearly equal length.

    Returns:
        The number of tokens in each line.
    """
    best = _greedy(tokens, width)
    for narrower in range(width - 1, 0, -1):
        counts = _greedy(tokens, narrower)
        if len(counts) > len(best):
            break
        best = counts
    return best


def _greedy(tokens: Sequence[str], width: int) -> list[int]:
    counts: list[int] = []
    used = width + 1
    for token in tokens:
        if used + 1 + len(token) > width:
            counts.append(0)
            used = -1
        counts[-1] += 1
        used += 1 + len(token)
    return counts


def _fill_cues(words: Sequence[Word], timed: bool, width: int) -> list[Cue]:
    lines: list[Sequence[Word]] = []
    done = 0
    for count in wrap([word.text for word in words], width):
        lines.append(words[done : done + count])
        done += count
    cues: list[Cue] = []
    while lines:
        n_lines = min(CUE_LINES, len(lines))
        if lines[n_lines - 1][-1].end_s - lines[0][0].start_s > MAX_CUE_S:
            n_lines = 1
        shown = tuple(tuple(line) for line in lines[:n_lines])
        texts = tuple(" ".join(word.text for word in line) for line in shown)
        cues.append(Cue(texts, shown[0][0].start_s, shown[-1][-1].end_s, shown if timed else ()))
        lines = lines[n_lines:]
    return cues


def _readable(cues: list[Cue]) -> list[Cue]:
    """Let short cues stand longer where nothing follows, and none overlap the next."""
    result = []
    for i, cue in enumerate(cues):
        end_s = max(cue.end_s, cue.start_s + MIN_CUE_S)
        if i + 1 < len(cues):
            end_s = max(min(end_s, cues[i + 1].start_s), cue.start_s)
        result.append(replace(cue, end_s=end_s))
    return result


def _at(segment: Segment, share: float) -> float:
    return segment.start_s + share * (segment.end_s - segment.start_s)
