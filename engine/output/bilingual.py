"""Cues with German above and English below, for the same stretch of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.output.line_breaks import break_cost, count_chars, fits, wrap
from engine.output.subtitles import MAX_CUE_S, Cue, make_readable, spread_words
from engine.types import Segment, Translation, Word

_SHARE_COST: Final = 10.0  # of a cut away from where its share of the letters ends, as a share of the text


def compute_bilingual_cues(result: Translation) -> list[Cue]:
    """Lay out a translation as cues of one or two German and one or two English lines.

    A segment is cut into as many cues as the longer of its two texts needs. The German is cut at word times,
    the English where about the same share of its letters is over: its words have no times of their own.

    Args:
        result: a translation with its source; a segment of one corresponds to a segment of the other.
    Returns:
        Cues in order; their lines hold every German and every English word exactly once.
    """
    below = {(segment.start_s, segment.end_s): segment for segment in result.segments}
    cues: list[Cue] = []
    for german in result.source.segments:
        english = below.get((german.start_s, german.end_s))
        cues.extend(_segment_cues(german, english.text if english else ""))
    return make_readable(cues)


def _segment_cues(german: Segment, english: str) -> list[Cue]:
    words = german.words or spread_words(german)
    tokens = tuple(english.split())
    for n_parts in range(1, len(words) + 1):
        parts = _partition([word.text for word in words], n_parts, [i / n_parts for i in range(1, n_parts)])
        if parts is None or any(_seconds(words[a:b]) > MAX_CUE_S and b - a > 1 for a, b in parts):
            continue
        shares = [count_chars([word.text for word in words[:b]]) for _, b in parts]
        below = _partition(tokens, n_parts, [share / shares[-1] for share in shares[:-1]])
        if below is not None or n_parts == len(words):
            return [
                _cue(words[a:b], tokens[c:d])
                for (a, b), (c, d) in zip(parts, below or _equal_parts(tokens, n_parts), strict=True)
            ]
    return []


def _partition(tokens: Sequence[str], n_parts: int, shares: Sequence[float]) -> list[tuple[int, int]] | None:
    """Cut tokens into parts that fit into a cue each, near the given shares of the letters, at good places.

    Args:
        shares: of all letters, where each part but the last should end.
    Returns:
        First and end token of each part, some empty where tokens are fewer than parts; None if impossible.
    """
    ends = [count_chars(tokens[:i]) / max(count_chars(tokens), 1) for i in range(len(tokens) + 1)]
    allow_empty = len(tokens) < n_parts
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for part in range(n_parts):
        last = part == n_parts - 1
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (cost, cuts) in best.items():
            for end in range(start + (not allow_empty), len(tokens) + 1):
                if end > start + 1 and not fits(tokens[start:end]):
                    break
                if last and end != len(tokens):
                    continue
                here = cost if last else cost + _cut_cost(tokens, end, ends[end] - shares[part])
                if end not in found or here < found[end][0]:
                    found[end] = (here, (*cuts, end))
        best = found
    if len(tokens) not in best:
        return None
    cuts = best[len(tokens)][1]
    return list(zip((0, *cuts[:-1]), cuts, strict=True))


def _cut_cost(tokens: Sequence[str], end: int, off: float) -> float:
    inside = 0 < end < len(tokens)
    return _SHARE_COST * abs(off) + (break_cost(tokens[end - 1], tokens[end]) if inside else 0.0)


def _equal_parts(tokens: Sequence[str], n_parts: int) -> list[tuple[int, int]]:
    """For few German words under much English: parts of about equal numbers of tokens, longer than a cue."""
    size = -(-len(tokens) // n_parts)
    return [(min(i * size, len(tokens)), min((i + 1) * size, len(tokens))) for i in range(n_parts)]


def _cue(words: Sequence[Word], tokens: Sequence[str]) -> Cue:
    lines = _lines([word.text for word in words]) + _lines(tokens)
    return Cue(lines, words[0].start_s, words[-1].end_s)


def _lines(tokens: Sequence[str]) -> tuple[str, ...]:
    lines, done = [], 0
    for count in wrap(tuple(tokens)):
        lines.append(" ".join(tokens[done : done + count]))
        done += count
    return tuple(lines)


def _seconds(words: Sequence[Word]) -> float:
    return words[-1].end_s - words[0].start_s
