"""Whether all numbers of a training state are finite: checked before every step and every save."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import EngineError


class NotFiniteError(EngineError, FloatingPointError):
    """A training state holds NaN or infinity and is therefore not saved."""


def walk_tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors inside mappings and sequences, with their paths; a key that is a tensor itself, as in an
    optimiser's states, is named by its place: to print it takes milliseconds."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for number, (key, value) in enumerate(content.items()):
            key = number if isinstance(key, Tensor) else key
            yield from walk_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from walk_tensors(value, f"{name}[{number}]")


def find_nonfinite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity.

    One pass over the weights: first sums, which are finite only if all their terms are. Single numbers are
    checked only where a sum is not finite (a sum of large numbers can overflow too).
    """
    floats = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not floats:
        return []
    if all(tensor.device.type == "cpu" for _, tensor in floats):
        suspects = [pair for pair in floats if not math.isfinite(float(pair[1].detach().sum()))]
    else:  # one kernel for all, one wait for the device
        norms = torch._foreach_norm([tensor.detach() for _, tensor in floats], math.inf)
        sound = torch.isfinite(torch.stack([norm.float().to(floats[0][1].device) for norm in norms])).tolist()
        suspects = [pair for pair, fine in zip(floats, sound, strict=True) if not fine]
    return [name for name, tensor in suspects if not bool(torch.isfinite(tensor).all())]
