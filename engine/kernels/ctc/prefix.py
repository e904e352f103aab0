"""CTC scores of strings that grow by several letters at a time: probabilities of prefixes and of ends.

A prefix holds, for every frame, the probability of all alignments of its letters up to that frame: `symbol`
of those that end in its last letter, `blank` of those that end in a blank. They are plain numbers, divided by
a scale that each prefix has, so that a letter costs two multiply-adds per frame and no logarithm. Frames
outside a window have too little mass to count and are not read: a prefix costs a few seconds of frames,
however long the utterance is.

Versions: 1 all frames, each number compared with the smallest, 20 ns per letter and frame; 2 the window, and
one comparison per frame, 2 ns (one core, busy machine).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel

FLOOR = 1e-6  # no label is less likely: a frame costs a prefix 14 nats at most
SMALLEST = 1e-200  # of a prefix's mass; less counts as none, as after a few dozen frames at the floor
_RESCALE = 1e-40  # the scale is changed before numbers become this small


@kernel
def soften_emissions(log_probs: Any, letters: Any, share: float, softened: Any) -> None:
    """Turn emissions into probabilities that are less certain about which letter was said.

    A part, `share`, of the probability of all letters is spread evenly over them: a word that is not spelled
    as it was heard costs log(share / letters) per letter at most. The blank and the delimiter stay as they
    are, so it stays as certain whether a letter was said.

    Args:
        log_probs: float32 [n_frames, vocab_size], natural log.
        letters: uint8 [vocab_size], 1 for labels that are part of words.
        share: 0 to 1.
        softened: float64 [vocab_size, n_frames], receives the probabilities, at least FLOOR.
    """
    n_frames, vocab_size = log_probs.shape
    n_letters = 0
    for label in range(vocab_size):
        n_letters += letters[label] != 0
    for frame in range(n_frames):
        heard = 0.0
        for label in range(vocab_size):
            prob = math.exp(np.float64(log_probs[frame, label]))
            softened[label, frame] = prob
            if letters[label] != 0:
                heard += prob
        spread = share * heard / max(n_letters, 1)
        for label in range(vocab_size):
            prob = softened[label, frame]
            if letters[label] != 0:
                prob = (1.0 - share) * prob + spread
            softened[label, frame] = max(prob, FLOOR)


@inner
def begin_prefix(blank_probs: Any, symbol: Any, blank: Any) -> int:
    """Make symbol and blank, float64 [n_frames], those of no letters: all frames so far are blank.

    Returns:
        The frame after the last one with mass; the first is frame 0.
    """
    prob, frame = 1.0, 0
    while frame < len(blank_probs) and prob > SMALLEST:
        prob *= blank_probs[frame]
        blank[frame], symbol[frame] = prob, 0.0
        frame += 1
    return frame


@inner
def extend_prefix(
    symbol: Any, blank: Any, first: int, last: int, before: float, repeated: bool, probs: Any,
    blank_probs: Any, new_symbol: Any, new_blank: Any,
) -> Any:  # fmt: skip
    """Append one letter.

    Args:
        symbol, blank: float64 [n_frames], of the prefix; they count from frame `first` to before `last`.
        before: its mass before frame 0: 1 for no letters at all, else 0.
        repeated: the letter equals the prefix's last, so that a blank must be between them.
        probs: float64 [n_frames], of the letter; blank_probs: of the blank.
        new_symbol, new_blank: receive those of the longer prefix; may be symbol and blank.
    Returns:
        The probability that the letters begin with the longer prefix, divided by the prefix's scale; and
        its window: first and last.
    """
    ends, blanks, total, behind = 0.0, 0.0, 0.0, before
    for at in range(np.uint64(first), np.uint64(last)):
        arrived = behind * probs[at]
        behind = blank[at] if repeated else blank[at] + symbol[at]
        total += arrived
        blanks = blanks * blank_probs[at] + ends * blank_probs[at]
        ends = ends * probs[at] + arrived
        new_symbol[at], new_blank[at] = ends, blanks
    while first < last and new_symbol[first] + new_blank[first] <= SMALLEST:
        first += 1
    while last < len(probs) and (ends + blanks > SMALLEST or behind > SMALLEST):
        arrived = behind * probs[last]
        total += arrived
        blanks = blanks * blank_probs[last] + ends * blank_probs[last]
        ends = ends * probs[last] + arrived
        new_symbol[last], new_blank[last] = ends, blanks
        last, behind = last + 1, 0.0
    return total, first, last


@inner
def rescale_prefix(symbol: Any, blank: Any, first: int, last: int, total: float) -> float:
    """Divide a prefix by `total` where that is small; returns what it was divided by."""
    if total >= _RESCALE:
        return 1.0
    factor = 1.0 / total
    for at in range(np.uint64(first), np.uint64(last)):
        symbol[at] *= factor
        blank[at] *= factor
    return total


@kernel
def score_prefix(softened: Any, labels: Any, blank_id: int) -> Any:
    """Score a string of labels from its first to its last.

    Args:
        softened: float64 [vocab_size, n_frames], probabilities, n_frames above 0.
        labels: int64 [n], without blanks.
    Returns:
        Natural logs of the probabilities that the utterance begins with the labels, and that it consists of
        them; -inf for 0.
    """
    n_frames = softened.shape[1]
    symbol, blank = np.empty(n_frames), np.empty(n_frames)
    blank_probs = softened[blank_id]
    first, last, before = 0, begin_prefix(blank_probs, symbol, blank), 1.0
    scale, prefix = 0.0, 0.0
    for i in range(len(labels)):
        label = labels[i]
        repeated = i > 0 and labels[i - 1] == label
        total, first, last = extend_prefix(
            symbol, blank, first, last, before, repeated, softened[label], blank_probs, symbol, blank
        )
        if total <= 0.0:
            return -np.inf, -np.inf
        prefix, before = scale + math.log(total), 0.0
        scale += math.log(rescale_prefix(symbol, blank, first, last, total))
    whole = symbol[n_frames - 1] + blank[n_frames - 1] if last == n_frames else 0.0
    return prefix, scale + math.log(whole) if whole > 0.0 else -np.inf
