"""Anchors: rare runs of letters that are both heard and written, where a long text may be split."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from engine.errors import EngineError
from training.alignment.emissions import FloatArray, read_greedy
from training.alignment.lattice import build_lattice
from training.alignment.spoken_text import Slot
from training.alignment.viterbi import Alignment, Costs, SlotSpan, Stretch, align_slots

GOOD_CELLS: Final = 30_000_000  # frames times states of one search: some minutes of speech
MAX_CELLS: Final = 400_000_000  # ... where there is no anchor; takes as many bytes
MATCH_LETTERS: Final = 10
MIN_SUPPORT: Final = 2  # other matches that agree with a match about how text and speech continue
SUPPORT_LETTERS: Final = 300
MAX_DRIFT: Final = 0.25  # letters heard more or fewer than written, as a share


class AlignmentError(EngineError, ValueError):
    """A recording whose text cannot be found in it."""


class Anchor(NamedTuple):
    """Slot `slot` begins at frame `frame`, for certain."""

    slot: int
    frame: int


class _Match(NamedTuple):
    heard: int  # position among the letters heard
    written: int  # ... and among those of the text


def align_long(
    log_probs: FloatArray,
    slots: Sequence[Slot],
    costs: Costs | None = None,
    good_cells: int = GOOD_CELLS,
    max_cells: int = MAX_CELLS,
) -> Alignment:
    """Align a text of any length: split at anchors until each part can be searched as a whole.

    Args:
        log_probs: float32 [n_frames, 32], as Emissions holds them.
        slots: the text.
        costs: prices of leaving out text and of skipping speech.
        good_cells: frames times states of one search, where it can be split.
        max_cells: the same, where it cannot.
    Returns:
        Alignment of the whole.
    Raises:
        AlignmentError: too long for one search, and without anchors.
    """
    anchors = find_anchors(log_probs, slots)
    ends = [Anchor(0, 0), Anchor(len(slots), len(log_probs))]
    parts = []
    for first, last in pairwise(_split(ends, anchors, slots, (good_cells, max_cells))):
        lattice = build_lattice(slots[first.slot : last.slot])
        part = align_slots(log_probs[first.frame : last.frame], lattice, costs)
        parts.append(_shift(part, first))
    return Alignment(
        [span for part in parts for span in part.spans],
        [stretch for part in parts for stretch in part.foreign],
        np.concatenate([part.frame_scores for part in parts]),
        sum(part.score for part in parts),
    )


def _shift(part: Alignment, start: Anchor) -> Alignment:
    spans = [
        SlotSpan(s.slot + start.slot, s.form, s.start + start.frame, s.end + start.frame, s.score)
        for s in part.spans
    ]
    foreign = [
        Stretch(f.boundary + start.slot, f.start + start.frame, f.end + start.frame) for f in part.foreign
    ]
    return part._replace(spans=spans, foreign=foreign)


def _split(
    ends: Sequence[Anchor], anchors: Sequence[Anchor], slots: Sequence[Slot], limits: tuple[int, int]
) -> list[Anchor]:
    """Ends of parts within the limits of cells: good ones, and the most."""
    first, last = ends
    n_states = sum(2 * len(form.letters) for slot in slots[first.slot : last.slot] for form in slot.forms)
    n_cells = n_states * (last.frame - first.frame)
    inside = [a for a in anchors if first.slot < a.slot < last.slot and first.frame < a.frame < last.frame]
    if n_cells <= limits[0] or (not inside and n_cells <= limits[1]):
        return [first, last]
    if not inside:
        raise AlignmentError(
            f"no certain match between {last.frame - first.frame} frames of speech and "
            f"{last.slot - first.slot} words of text",
            "a text that mostly matches the speech, or a shorter recording",
            "check that the text belongs to the recording, or cut it into parts of a few minutes",
        )
    middle = min(inside, key=lambda anchor: abs(2 * anchor.frame - first.frame - last.frame))
    left = _split([first, middle], inside, slots, limits)
    return left[:-1] + _split([middle, last], inside, slots, limits)


def find_anchors(log_probs: FloatArray, slots: Sequence[Slot]) -> list[Anchor]:
    """Find the anchors: certain beginnings of slots, ordered by slots and by frames."""
    heard = [(letter, frame) for letter, frame in read_greedy(log_probs) if letter != " "]
    written, begins = "", {}
    for number, slot in enumerate(slots):
        begins[len(written)] = number
        written += slot.forms[0].letters.replace(" ", "")
    matches = _longest_chain(_find_matches("".join(letter for letter, _ in heard), written))
    anchors: dict[int, int] = {}
    for match in _supported(matches):
        for offset in range(1, MATCH_LETTERS - 1):
            if match.written + offset in begins:
                anchors.setdefault(begins[match.written + offset], heard[match.heard + offset][1])
    return [Anchor(slot, frame) for slot, frame in sorted(anchors.items())]


def _find_matches(heard: str, written: str) -> list[_Match]:
    """Runs of MATCH_LETTERS letters that occur once in either string, in the order they are heard."""
    places = [_unique_runs(text) for text in (heard, written)]
    return [_Match(at, places[1][run]) for run, at in places[0].items() if run in places[1]]


def _unique_runs(text: str) -> dict[str, int]:
    runs = [text[at : at + MATCH_LETTERS] for at in range(len(text) - MATCH_LETTERS + 1)]
    counts = Counter(runs)
    return {run: at for at, run in enumerate(runs) if counts[run] == 1}


def _longest_chain(matches: Sequence[_Match]) -> list[_Match]:
    """The longest subsequence that is in the order of the text too."""
    tails: list[int] = []
    last: list[int] = []
    came = [-1] * len(matches)
    for number, match in enumerate(matches):
        place = bisect_left(tails, match.written)
        came[number] = last[place - 1] if place else -1
        tails[place : place + 1] = [match.written]
        last[place : place + 1] = [number]
    chain, at = [], last[-1] if last else -1
    while at >= 0:
        chain.append(matches[at])
        at = came[at]
    return chain[::-1]


def _supported(chain: Sequence[_Match]) -> list[_Match]:
    """Matches that others near them agree with, on both sides."""
    return [
        match
        for at, match in enumerate(chain)
        if _count_support(match, chain[:at][::-1]) >= MIN_SUPPORT
        and _count_support(match, chain[at + 1 :]) >= MIN_SUPPORT
    ]


def _count_support(match: _Match, others: Sequence[_Match]) -> int:
    support = 0
    for other in others:
        heard, written = abs(other.heard - match.heard), abs(other.written - match.written)
        if heard > SUPPORT_LETTERS or support >= MIN_SUPPORT:
            break
        support += heard >= MATCH_LETTERS and abs(heard - written) <= MAX_DRIFT * heard + 2
    return support
