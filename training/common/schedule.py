"""Learning rates over a run, as factors on the base rate."""

from __future__ import annotations

import math


def rise(step: int, warmup_steps: int) -> float:
    """Linear warm-up: 1 / warmup_steps at step 0, 1 from warmup_steps - 1 on."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def cosine(progress: float, floor: float = 0.0) -> float:
    """From 1 at progress 0 to `floor` at progress 1, along half a cosine."""
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def learning_rate_factor(kind: str, step: int, warmup_steps: int, progress: float) -> float:
    """Factor on the base learning rate.

    Args:
        kind: linear (to zero), cosine or inverse_sqrt.
        step: optimiser steps done.
        warmup_steps: steps of linear warm-up.
        progress: share of the run that is done, 0 to 1.
    Raises:
        ValueError: an unknown kind.
    """
    warm = rise(step, warmup_steps)
    if kind == "linear":
        return warm * max(0.0, 1.0 - progress)
    if kind == "cosine":
        return warm * cosine(progress)
    if kind == "inverse_sqrt":
        return warm * min(1.0, (max(1, warmup_steps) / (step + 1)) ** 0.5)
    raise ValueError(f"schedule {kind!r}; expected linear, cosine or inverse_sqrt; change training.schedule")
