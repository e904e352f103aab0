"""The best path of a text through emissions, which may leave out text and skip speech.

CTC segmentation (Kuerzinger et al., 2020) with two more moves: at each boundary between slots a state
that follows the greedy path, for a price per letter, and a jump over a slot, for another price.
All scores are relative to the greedy path: 0 is as good as any text can be.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.alignment.lattice import GAP_COLUMN, Lattice

FOREIGN_COST: Final = 2.5  # nats per letter of speech that is not in the text
FOREIGN_ENTRY: Final = 4.0  # nats, once for each such stretch
SKIP_COST: Final = 1.0  # nats per letter of text that was not said
SKIP_ENTRY: Final = 5.0  # nats, once for each slot
LOWEST: Final = np.float32(-1e30)
GAP, FOREIGN, SKIPPED, FIRST_FORM = 0, 1, 2, 3  # where a boundary's score comes from


class Costs(NamedTuple):
    """Prices in nats, finite and at least 0: of a letter, and of each stretch or slot once.

    Attributes:
        foreign, foreign_entry: speech that is not in the text.
        skip, skip_entry: text that was not said.
    """

    foreign: float = FOREIGN_COST
    foreign_entry: float = FOREIGN_ENTRY
    skip: float = SKIP_COST
    skip_entry: float = SKIP_ENTRY


class SlotSpan(NamedTuple):
    """Where a slot was said.

    Attributes:
        slot: its index. form: index of the form that was said, or -1 where it was left out.
        start, end: frames, end exclusive; the first letter's first frame and the last one's last.
        score: nats relative to the greedy path over these frames, at most 0.
    """

    slot: int
    form: int
    start: int
    end: int
    score: float


class Stretch(NamedTuple):
    """Frames [start, end) before slot `boundary` with speech of no slot."""

    boundary: int
    start: int
    end: int


class Alignment(NamedTuple):
    """A path: one span for each slot, stretches of other speech, and each frame's score (nats, <= 0)."""

    spans: list[SlotSpan]
    foreign: list[Stretch]
    frame_scores: NDArray[np.float32]
    score: float


class _Trace(NamedTuple):
    moves: NDArray[np.uint8]  # [n_frames, n_states]: 0 stayed, 1 from the state before, 2 from two before
    sources: NDArray[np.int16]  # [n_frames + 1, n_boundaries]: where the boundary's score came from
    stayed: NDArray[np.bool_]  # [n_frames, n_boundaries]: other speech continued


def extend_emissions(log_probs: NDArray[np.float32], foreign: float) -> NDArray[np.float32]:
    """Add the columns of gaps and of other speech, all relative to each frame's best.

    Args:
        log_probs: float32 [n_frames, 32], as Emissions holds them.
        foreign: price of a greedy letter that is not in the text.
    Returns:
        float32 [n_frames, 34], at most 0.
    """
    relative = log_probs - log_probs.max(axis=1, keepdims=True)
    best = log_probs.argmax(axis=1)
    begins = (best > 1) & (best != np.concatenate([[-1], best[:-1]]))
    gap = np.maximum(relative[:, 0], relative[:, 1])
    other = np.where(begins, -np.float32(foreign), np.float32(0.0))
    return np.concatenate([relative, gap[:, None], other[:, None]], axis=1, dtype=np.float32)


def align_slots(log_probs: NDArray[np.float32], lattice: Lattice, costs: Costs | None = None) -> Alignment:
    """Find the best path of a text through emissions.

    Args:
        log_probs: float32 [n_frames, 32], as Emissions holds them.
        lattice: from build_lattice.
        costs: prices of leaving out text and of skipping speech.
    Returns:
        Alignment; where nothing fits, all slots are left out.
    Source: Kuerzinger et al., CTC-Segmentation of Large Corpora, 2020; differs: other speech, left-out
        text, several forms per slot, scores relative to the greedy path.
    """
    costs = costs or Costs()
    emissions = extend_emissions(log_probs, costs.foreign)
    trace, score = _search(emissions, lattice, costs)
    return _trace_back(emissions, lattice, trace, score)


def _search(emissions: NDArray[np.float32], lattice: Lattice, costs: Costs) -> tuple[_Trace, float]:
    n_frames, n_states, n_boundaries = len(emissions), len(lattice.columns), lattice.n_slots + 1
    trace = _Trace(
        np.empty((n_frames, n_states), np.uint8), np.empty((n_frames + 1, n_boundaries), np.int16),
        np.empty((n_frames, n_boundaries), bool),
    )  # fmt: skip
    letters = np.full(n_states, LOWEST)
    gaps, foreign = np.full(n_boundaries, LOWEST), np.full(n_boundaries, LOWEST)
    paid = np.concatenate([[0.0], np.cumsum(costs.skip_entry + costs.skip * lattice.n_letters)])
    starts = np.full(n_boundaries, LOWEST)
    starts[0] = 0.0
    edges = _leap_slots(starts, paid, np.zeros(n_boundaries, np.int16), trace.sources[0])
    for frame, row in enumerate(emissions):
        letters = _advance(letters, edges, row, lattice, trace.moves[frame])
        entering = edges - np.float32(costs.foreign_entry)
        trace.stayed[frame] = foreign >= entering
        foreign = np.maximum(foreign, entering) + row[-1]
        gaps = edges + row[GAP_COLUMN]
        edges = _close_slots(letters, gaps, foreign, paid, lattice, trace.sources[frame + 1])
    return trace, float(edges[-1])


def _advance(
    letters: NDArray[np.float32],
    edges: NDArray[np.float32],
    row: NDArray[np.float32],
    lattice: Lattice,
    moves: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Scores of the letters' states one frame on; `moves` gets where each came from."""
    before = np.empty_like(letters)
    before[1:] = letters[:-1]
    before[lattice.first] = edges[lattice.slot_of] - lattice.form_costs
    earlier = np.full_like(letters, LOWEST)
    np.copyto(earlier[2:], letters[:-2], where=lattice.leap[2:])
    best = np.maximum(letters, before)
    np.greater(before, letters, out=moves, casting="unsafe")
    moves[earlier > best] = 2
    return np.maximum(best, earlier) + row[lattice.columns]


def _close_slots(
    letters: NDArray[np.float32],
    gaps: NDArray[np.float32],
    foreign: NDArray[np.float32],
    paid: NDArray[np.float64],
    lattice: Lattice,
    sources: NDArray[np.int16],
) -> NDArray[np.float32]:
    """Scores of the boundaries after a frame: a gap, other speech, a form's end, or slots left out."""
    ended = letters[lattice.last]
    best_form = np.maximum.reduceat(ended, lattice.slot_starts)
    edges, found = np.maximum(gaps, foreign), np.where(foreign > gaps, FOREIGN, GAP).astype(np.int16)
    better = np.flatnonzero(best_form > edges[1:]) + 1
    if len(better):
        edges[better] = best_form[better - 1]
        matches = np.flatnonzero(ended == best_form[lattice.slot_of])
        chosen = np.zeros(lattice.n_slots, np.intp)
        chosen[lattice.slot_of[matches[::-1]]] = matches[::-1]
        found[better] = FIRST_FORM + chosen[better - 1] - lattice.slot_starts[better - 1]
    return _leap_slots(edges, paid, found, sources)


def _leap_slots(
    edges: NDArray[np.float32],
    paid: NDArray[np.float64],
    found: NDArray[np.int16],
    sources: NDArray[np.int16],
) -> NDArray[np.float32]:
    """Let every boundary be reached from earlier ones by leaving out the slots between."""
    free = edges + paid
    reached = np.maximum.accumulate(free)
    sources[:] = np.where(reached > free, SKIPPED, found)
    return np.where(reached > free, reached - paid, edges).astype(np.float32)


def _trace_back(emissions: NDArray[np.float32], lattice: Lattice, trace: _Trace, score: float) -> Alignment:
    """Follow the path from its end: boundary by boundary, and state by state inside a form."""
    frame, boundary = len(emissions), lattice.n_slots
    scores = np.zeros(len(emissions), np.float32)
    spans: list[SlotSpan] = []
    foreign: list[Stretch] = []
    while frame > 0 or boundary > 0:
        source = int(trace.sources[frame, boundary])
        if source == SKIPPED:
            boundary -= 1
            spans.append(SlotSpan(boundary, -1, frame, frame, 0.0))
        elif source == GAP:
            frame -= 1
            scores[frame] = emissions[frame, GAP_COLUMN]
        elif source == FOREIGN:
            end = frame
            frame -= 1
            while trace.stayed[frame, boundary]:
                frame -= 1
            scores[frame:end] = emissions[frame:end, -1]
            foreign.append(Stretch(boundary, frame, end))
        else:
            boundary -= 1
            form = source - FIRST_FORM
            start = _trace_form(
                emissions, lattice, trace, frame, lattice.slot_starts[boundary] + form, scores
            )
            spans.append(SlotSpan(boundary, form, start, frame, float(scores[start:frame].sum())))
            frame = start
    return Alignment(spans[::-1], foreign[::-1], scores, score)


def _trace_form(
    emissions: NDArray[np.float32], lattice: Lattice, trace: _Trace, end: int, form: int,
    scores: NDArray[np.float32],
) -> int:  # fmt: skip
    """Fill in the scores of a form's frames, which end at `end`; returns the frame it begins at."""
    state, first, frame = int(lattice.last[form]), int(lattice.first[form]), end
    while True:
        frame -= 1
        scores[frame] = emissions[frame, lattice.columns[state]]
        move = int(trace.moves[frame, state])
        if state == first and move == 1:
            return frame
        state -= move
