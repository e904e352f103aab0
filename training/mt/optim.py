"""Muon for the matrices, AdamW for the rest of a translation model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.common.schedule import (
    learning_rate_factor as learning_rate_factor,
)  # callers import it from here

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic whose iteration drives singular values into [0.7, 1.2]


def orthogonalize(matrices: Tensor, steps: int = 4) -> Tensor:
    """Replace every matrix by (about) the nearest semi-orthogonal one. matrices: [n, rows, cols].

    The iteration runs on the Gram matrix of the shorter side, since it depends on nothing else: a
    256 x 1024 matrix takes half the time of the plain form.
    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    gram = x @ x.transpose(1, 2)
    product: Tensor | None = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = x if product is None else product @ x
    return x.transpose(1, 2) if tall else x


# torch.optim.Muon (since 2.9) has the same momentum, coefficients and size of a step: with ns_steps=4 its
# update of one matrix has a cosine of 0.9999 to ours (tests/unit/test_mt_training.py). It is not used here
# because it orthogonalises a fused q, k, v projection as one matrix, where `blocks` are three; because it
# always iterates in bfloat16; and because it takes the matrices one by one.
class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; for weight matrices of hidden layers only.

    Args:
        modules: linear layers; a `blocks` attribute says how many matrices are stacked in the weight.
        lr: spectral size of an update of a square matrix.
        momentum: of the gradient average (Nesterov).
        weight_decay: decoupled, times lr.
        dtype: of the orthogonalisation, a third of a small batch's time; in bfloat16 its result has a
            cosine of 0.997 to that in float32, in half the time where the CPU multiplies bfloat16.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        layers: list[Any] = list(modules)
        self._dtype = dtype
        self._blocks = [int(getattr(layer, "blocks", 1)) for layer in layers]
        super().__init__(
            [layer.weight for layer in layers], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix; those of one shape are orthogonalised together."""
        group = self.param_groups[0]
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for weight, blocks in zip(group["params"], self._blocks, strict=True):
            if weight.grad is None:
                continue
            average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            average.lerp_(weight.grad, 1 - group["momentum"])
            ahead = weight.grad.lerp(average, group["momentum"]).unflatten(0, (blocks, -1))
            for target, update in zip(weight.unflatten(0, (blocks, -1)), ahead, strict=True):
                shapes.setdefault(tuple(update.shape), []).append((target, update))
        for (rows, cols), members in shapes.items():
            stacked = torch.stack([update for _, update in members])
            updates = orthogonalize(stacked.to(self._dtype)).to(stacked.dtype)
            step_size = group["lr"] * max(1.0, rows / cols) ** 0.5
            for (target, _), update in zip(members, updates, strict=True):
                target.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-step_size)


def build_optimizers(
    model: nn.Module,
    kind: str,
    lr: float,
    adam_lr: float,
    weight_decay: float,
    dtype: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model: [Muon, AdamW], or [AdamW] for everything; dtype is Muon's.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in ("muon", "adamw"):
        raise ValueError(f"optimizer {kind!r}; expected muon or adamw; change training.optimizer")
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)] if kind == "muon" else []
    matrices = {id(layer.weight) for layer in linears}
    rest = [p for p in model.parameters() if id(p) not in matrices]
    rate = adam_lr if kind == "muon" else lr
    adam = torch.optim.AdamW(
        rest, lr=rate, betas=(0.9, 0.98), eps=1e-9, weight_decay=weight_decay, foreach=True
    )
    return [Muon(linears, lr, weight_decay=weight_decay, dtype=dtype), adam] if linears else [adam]
