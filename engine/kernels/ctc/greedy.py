"""The best token of every frame, collapsed the CTC way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import kernel


@kernel
def collapse_greedy(log_probs: Any, spoken: Any, blank_id: int) -> Any:
    """Take the best token of each frame, merge repeats and drop blanks.

    Args:
        log_probs: float32 [n_frames, vocab_size], natural log.
        spoken: uint8 [vocab_size], 0 for the labels that are never text.
        blank_id: the CTC blank.
    Returns:
        tokens int32 [n], first frame int32 [n], frame after the last int32 [n], highest
        probability float64 [n] of each token, and the score of the path. A frame of only
        -inf has no information and is skipped.
    """
    n_frames, vocab_size = log_probs.shape
    tokens = np.empty(n_frames, np.int32)
    starts = np.empty(n_frames, np.int32)
    ends = np.empty(n_frames, np.int32)
    peaks = np.empty(n_frames, np.float64)
    n, previous, score = 0, blank_id, 0.0
    for frame in range(n_frames):
        best = blank_id
        for token in range(vocab_size):
            if spoken[token] and log_probs[frame, token] > log_probs[frame, best]:
                best = token
        log_prob = log_probs[frame, best]
        if log_prob == -np.inf:
            continue
        score += log_prob
        if best != blank_id and best != previous:
            tokens[n], starts[n], peaks[n] = best, frame, 0.0
            n += 1
        if best != blank_id:
            ends[n - 1] = frame + 1
            peaks[n - 1] = max(peaks[n - 1], math.exp(log_prob))
        previous = best
    return tokens[:n], starts[:n], ends[:n], peaks[:n], score
