"""The frames of each letter of a known text: the best CTC alignment, by Viterbi search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel

STAY, NEXT, SKIP = 0, 1, 2  # how a state was reached: from itself, the one before, the one before that


@kernel
def align_labels(log_probs: Any, labels: Any, blank: int, firsts: Any, lasts: Any, peaks: Any) -> float:
    """Find the likeliest frames of every label.

    The states of the alignment are blank, label 0, blank, label 1 ... blank: state 2 * i + 1 is label i.

    Args:
        log_probs: float32 [n_frames, vocab_size], natural log.
        labels: int64 [n], without blanks.
        firsts, lasts: int32 [n], receive the first frame of each and the one after its last.
        peaks: float32 [n], receives its highest probability in them.
    Returns:
        The alignment's natural log probability; -inf, and nothing written, where the labels do not fit into
        the frames.
    """
    n_frames, n_states = len(log_probs), 2 * len(labels) + 1
    scores, moves = np.full(n_states, -np.inf), np.empty((n_frames, n_states), np.uint8)
    for frame in range(n_frames):
        advance_states(log_probs[frame], labels, blank, frame, scores, moves[frame])
    state = n_states - 1
    if n_states > 1 and scores[n_states - 2] > scores[state]:
        state = n_states - 2
    best = scores[state] if n_frames else (0.0 if n_states == 1 else -np.inf)
    if best == -np.inf:
        return best
    behind = -1
    for frame in range(n_frames - 1, -1, -1):
        if state & 1:
            label = state >> 1
            if state != behind:
                lasts[label], peaks[label] = frame + 1, 0.0
            firsts[label] = frame
            peaks[label] = max(peaks[label], math.exp(log_probs[frame, labels[label]]))
        behind, state = state, state - moves[frame, state]
    return best


@inner
def advance_states(row: Any, labels: Any, blank: int, frame: int, scores: Any, moves: Any) -> None:
    """Carry the scores of all states through one frame; moves: how each was reached."""
    n_states = len(scores)
    highest = min(n_states - 1, 2 * frame + 1)  # no state beyond can be reached yet
    for state in range(highest, -1, -1):
        best, move = scores[state], STAY
        if state > 0 and scores[state - 1] > best:
            best, move = scores[state - 1], NEXT
        differs = state & 1 and state > 1 and labels[state >> 1] != labels[(state >> 1) - 1]
        if differs and scores[state - 2] > best:
            best, move = scores[state - 2], SKIP
        if frame == 0:
            best, move = 0.0, STAY
        moves[state] = move
        scores[state] = best + row[labels[state >> 1] if state & 1 else blank]
