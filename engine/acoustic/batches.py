"""Which utterances share a call of the encoder on a GPU: few shapes, calls of one shape in a row.

cuDNN searches an algorithm for every new shape and remembers only the last; CUDA graphs want fixed shapes.
With a mask in the graph utterances are padded to a few bucket lengths, which is exact. Without one (a group
norm would count the padding) only utterances of equal length share a call, and calls are sorted by length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

BUCKET_STEPS: Final = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)  # of the longest window
MAX_BATCH: Final = 32
MAX_BATCH_S: Final = 240.0  # audio in a call, padding included


@dataclass(frozen=True)
class Batch:
    """One call.

    Attributes:
        indices: of the utterances.
        width: length that each is padded to.
        n_rows: rows of the call; those beyond the utterances repeat the first, for a fixed shape.
    """

    indices: tuple[int, ...]
    width: int
    n_rows: int


def bucket_width(length: int, max_length: int) -> int:
    """The smallest bucket that holds a length; the length itself where it is beyond all of them."""
    return next((w for step in BUCKET_STEPS if (w := round(max_length * step)) >= length), length)


def plan_batches(
    lengths: Sequence[int],
    max_length: int,
    *,
    masked: bool,
    max_cells: int,
    max_batch: int = MAX_BATCH,
) -> list[Batch]:
    """Sort utterances into calls.

    Args:
        lengths: of each utterance, in samples (or feature frames, and so the other sizes).
        max_length: of the encoder's window.
        masked: the graph takes a mask.
        max_cells: the largest width times rows of a call.
    Returns:
        Batches that hold every utterance once, those of one shape in a row, the longest first so that memory
        grows once.
    """
    widths = [bucket_width(n, max_length) if masked else n for n in lengths]
    order = sorted(range(len(lengths)), key=lambda i: (-widths[i], i))
    batches = []
    for width, group in groupby(order, key=lambda i: widths[i]):
        members = list(group)
        size = max(1, min(max_batch, max_cells // max(1, width)))
        for start in range(0, len(members), size):
            chosen = tuple(members[start : start + size])
            # Alone, few utterances make a small call; the rest of many fills up to the shape before it.
            n_rows = size if masked and len(members) > size else len(chosen)
            batches.append(Batch(chosen, width, n_rows))
    return batches
