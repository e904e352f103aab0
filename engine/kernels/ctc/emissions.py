"""Emissions: what is wrong with them, and log-softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.ngram import bits_to_float

FINE, HAS_NAN, HAS_POSITIVE = 0, 1, 2
POSITIVE_TOLERANCE = 1e-3  # float16 softmax outputs round a little above zero
_LOWEST, _PER_LN_2 = np.float32(-87.0), np.float32(1.44269504)
_ROUND = np.float32(12582912.0)  # 1.5 * 2 ** 23: added, it rounds to a whole number
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C7, _C6, _C5 = np.float32(1.9875691e-4), np.float32(1.3981999e-3), np.float32(8.3334519e-3)  # as in Cephes
_C4, _C3, _C2 = np.float32(4.1665796e-2), np.float32(1.6666666e-1), np.float32(0.5)
_ONE = np.float32(1.0)
_NONE, _NEXT, _TWO, _THREE, _FOUR = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


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

    Versions: 1 the C library's exp, 11 ns a number: with a thousand labels a frame cost more than its search;
    2 exp_negative, which becomes vector code, 1.3 ns (one core of a Zen 3).
    """
    n_frames, vocab_size = logits.shape
    log_probs = np.empty((n_frames, vocab_size), np.float32)
    for frame in range(n_frames):
        row, out = logits[frame], log_probs[frame]  # indices without a sign, or no vector code is made
        largest = find_largest(row)
        if largest == -np.inf:
            out[:] = -np.inf
            continue
        for token in range(np.uint64(vocab_size)):
            out[token] = exp_negative(row[token] - largest)
        shift = np.float32(np.float64(largest) + math.log(add_up(out)))
        for token in range(np.uint64(vocab_size)):
            out[token] = row[token] - shift
    return log_probs


@inner(forceinline=True)
def find_largest(row: Any) -> Any:
    """The largest number of a row; four that do not wait for each other."""
    a = b = c = d = np.float32(-np.inf)
    whole = np.uint64(len(row) & -4)
    for at in range(_NONE, whole, _FOUR):
        a, b = larger(row[at], a), larger(row[at + _NEXT], b)
        c, d = larger(row[at + _TWO], c), larger(row[at + _THREE], d)
    for at in range(whole, np.uint64(len(row))):
        a = larger(row[at], a)
    return larger(larger(a, b), larger(c, d))


@inner(forceinline=True)
def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers; max would also look for NaN."""
    return a if a > b else b


@inner(forceinline=True)
def add_up(row: Any) -> Any:
    """The sum of a row, in float64."""
    a = b = c = d = 0.0
    whole = np.uint64(len(row) & -4)
    for at in range(_NONE, whole, _FOUR):
        a, b = a + row[at], b + row[at + _NEXT]
        c, d = c + row[at + _TWO], d + row[at + _THREE]
    for at in range(whole, np.uint64(len(row))):
        a += row[at]
    return (a + b) + (c + d)


@inner(forceinline=True)
def exp_negative(x: Any) -> Any:
    """exp of a float32 of 0 or less, to 2e-7 of it; below -87 it is that of -87, which adds to no sum.

    2 to the whole part of x / ln 2, times a polynomial for the rest, which is within half of ln 2.
    """
    x = larger(x, _LOWEST)
    whole = (x * _PER_LN_2 + _ROUND) - _ROUND
    rest = (x - whole * _LN_2_HIGH) - whole * _LN_2_LOW
    power = bits_to_float(np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)))
    curve = ((((_C7 * rest + _C6) * rest + _C5) * rest + _C4) * rest + _C3) * rest + _C2
    return (curve * (rest * rest) + rest + _ONE) * power
