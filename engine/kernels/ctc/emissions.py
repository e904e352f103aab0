"""Emissions: what is wrong with them, and log-softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import kernel

FINE, HAS_NAN, HAS_POSITIVE = 0, 1, 2
POSITIVE_TOLERANCE = 1e-3  # float16 softmax outputs round a little above zero


@kernel
def check_log_probs(log_probs: Any) -> int:
    """Tell whether a float32 array [n_frames, vocab_size] can be log probabilities.

    Returns:
        FINE, HAS_NAN or HAS_POSITIVE (which includes +inf); -inf is fine.
    """
    n_frames, vocab_size = log_probs.shape
    n_nan = 0
    n_positive = 0
    for frame in range(n_frames):
        for token in range(vocab_size):
            value = log_probs[frame, token]
            n_nan += value != value
            n_positive += value > POSITIVE_TOLERANCE
    if n_nan:
        return HAS_NAN
    return HAS_POSITIVE if n_positive else FINE


@kernel
def compute_log_softmax(logits: Any) -> Any:
    """Normalise float32 logits [n_frames, vocab_size] so that each frame's exponentials sum to 1.

    A frame of only -inf stays as it is: it has no information.
    """
    n_frames, vocab_size = logits.shape
    log_probs = np.empty((n_frames, vocab_size), np.float32)
    for frame in range(n_frames):
        largest = -np.inf
        for token in range(vocab_size):
            largest = max(largest, logits[frame, token])
        if largest == -np.inf:
            log_probs[frame] = -np.inf
            continue
        total = 0.0
        for token in range(vocab_size):
            total += math.exp(logits[frame, token] - largest)
        shift = np.float32(largest + math.log(total))
        for token in range(vocab_size):
            log_probs[frame, token] = logits[frame, token] - shift
    return log_probs
