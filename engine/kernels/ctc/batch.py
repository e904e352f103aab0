"""Several utterances searched in one call, so that a thread needs Python's lock only once for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.search import search_whole
from engine.kernels.ctc.trace import put

N_HEADS = 4


@inner
def append(target: Any, used: int, more: Any) -> Any:
    """target with `more` after its first `used` numbers; a larger copy where it has no room."""
    if used + len(more) > len(target):
        grown = np.empty(2 * (used + len(more)), target.dtype)
        put(grown, 0, target[:used])
        target = grown
    put(target, used, more)
    return target


@kernel
def search_several(
    pack: Any, log_probs: Any, offsets: Any, n_best: int, frame_s: float, arena: Any
) -> Any:  # fmt: skip
    """Search whole utterances, stored one after the other.

    Args:
        log_probs: float32 [n_frames, vocab_size] of all.
        offsets: int64 [n + 1], where each begins; empty for one utterance.
        arena: as for search_whole.
    Returns:
        int64 [n, 4]: of each, the result of check_log_probs, the number of hypotheses, and how many numbers
        of the next two arrays belong to it; these arrays, int64 and float64; the size that the arena needed.
    """
    heads = np.empty((max(1, len(offsets) - 1), N_HEADS), np.int64)
    numbers, values = np.empty(0, np.int64), np.empty(0, np.float64)
    n_numbers, n_values, most = 0, 0, 0
    for index in range(len(heads)):
        part = log_probs[offsets[index] : offsets[index + 1]] if len(offsets) else log_probs
        fault, n_bytes, (n, some, others) = search_whole(pack, part, n_best, frame_s, arena)
        if n_bytes > len(arena):
            arena = np.empty(n_bytes, np.uint8)
        most = max(most, n_bytes)
        if index == 0:
            numbers, values = some, others
        else:
            numbers, values = append(numbers, n_numbers, some), append(values, n_values, others)
        n_numbers, n_values = n_numbers + len(some), n_values + len(others)
        heads[index, 0], heads[index, 1] = fault, n
        heads[index, 2], heads[index, 3] = len(some), len(others)
    return heads, numbers[:n_numbers], values[:n_values], most
