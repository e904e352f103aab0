"""Slow changes in training from Whisper: weights pulled back to Whisper's, and their running mean."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

EVERY = 4  # steps between two passes over all weights


class SlowWeights:
    """Pulls weights back to their initial values, and averages them.

    Args:
        model: its trained parameters are averaged.
        pulled, anchors: parameters, and the weights that they are pulled to.
        pull: share of the distance at each step.
        keep: factor of the old mean at each step, in the long run.
    """

    def __init__(
        self, model: nn.Module, pulled: Sequence[Tensor], anchors: Sequence[Tensor], pull: float, keep: float
    ) -> None:
        self.model, self.pulled, self.anchors = model, list(pulled), list(anchors)
        self.pull, self.keep = pull, keep
        self.average: Any = copy.deepcopy(model).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Do EVERY steps' worth of both at every EVERY-th step."""
        if step % EVERY:
            return
        keep = min(self.keep, (step + 1) / (step + 20)) ** EVERY
        pull = 1.0 - (1.0 - self.pull) ** EVERY
        for anchor, parameter in zip(self.anchors, self.pulled, strict=True):
            parameter.lerp_(anchor, pull)
        for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            if parameter.requires_grad:
                mean.lerp_(parameter, 1.0 - keep)
