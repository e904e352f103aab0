"""The processes of one run under torchrun: sums over all of them, and waiting for each other."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def choose_device(name: str) -> torch.device:
    """Return the torch device of a name; "auto" is this rank's GPU where there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


class Ranks:
    """This process among those of the run; for a single process every method is free.

    Attributes:
        rank, world: which one of how many.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Join the processes that torchrun started; a single process without it."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(device, rank, world)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks; all ranks must call it."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def take_first(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def share_weights(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks rank 0's tensors: a new head is drawn at random in each."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum gradients over all ranks; a rank without one (its share was empty) adds zero."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def gather(self, names: list[str]) -> list[str]:
        """The names of all ranks."""
        if self.world == 1:
            return names
        found: list[list[str] | None] = [None] * self.world
        dist.all_gather_object(found, names)
        return [name for part in found for name in part or ()]

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.world > 1:
            dist.barrier()
