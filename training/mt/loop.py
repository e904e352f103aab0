"""The training loop of a translation model: steps, schedule, gate, checkpoints that resume to the step."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.mt.config import TrainingSection
from training.mt.data import Batch, TokenizedCorpus, collate, epoch_batches
from training.mt.model import FastMarian
from training.mt.optim import build_optimizers, learning_rate_factor

logger = logging.getLogger("training")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class GateError(RuntimeError):
    """The model ignores its source: training on would waste the time."""


@dataclass
class Progress:
    """Where a run is; everything that a resumed run needs besides weights and optimiser states."""

    step: int = 0
    epoch: int = 0
    next_batch: int = 0
    target_tokens: int = 0
    elapsed_s: float = 0.0
    best_chrf: float = -1.0
    evals_without_gain: int = 0
    gate_passed: bool = False


@dataclass
class Hooks:
    """What the loop calls; each may be None."""

    evaluate: Callable[[FastMarian, Progress], float] | None = None
    log: Callable[[int, dict[str, float]], None] | None = None
    gate_batches: list[Batch] = field(default_factory=list)


class Trainer:
    """Trains a FastMarian on a tokenised corpus.

    Args:
        model: on the device to train on.
        corpus: tokenised pairs.
        config: the training section.
        folder: checkpoints go to folder/checkpoints.
        spoken_share, seed: of the batch plan.
        hooks: evaluation, logging, and the batches of the gate.
    """

    def __init__(
        self, model: FastMarian, corpus: TokenizedCorpus, config: TrainingSection, folder: Path,
        *, spoken_share: float, seed: int, hooks: Hooks,
    ) -> None:  # fmt: skip
        self.model, self.corpus, self.config, self.hooks = model, corpus, config, hooks
        self.folder, self.spoken_share, self.seed = folder / "checkpoints", spoken_share, seed
        self.optimizers = build_optimizers(
            model, config.optimizer, config.lr, config.adam_lr, config.weight_decay,
            PRECISIONS[config.precision],
        )  # fmt: skip
        self.base_lrs = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.progress = Progress()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.recent: deque[Path] = deque(maxlen=max(1, config.average_checkpoints))

    def run(self) -> None:
        """Train until the schedule ends, the gate fails or early stopping decides.

        Raises:
            GateError: by gate_tokens the loss with shuffled sources was no worse than with true ones.
        """
        batches = self._batches()
        last_checkpoint = last_eval = self.progress.elapsed_s
        clock = time.monotonic()
        while self.share_done() < 1.0:
            self._step(batches)
            now = time.monotonic()
            # Rank 0's clock for all, so that ranks never part ways.
            elapsed = self.progress.elapsed_s = self._agree(self.progress.elapsed_s + now - clock)
            clock = now
            self._check_gate()
            if elapsed - last_checkpoint >= 60 * self.config.checkpoint_minutes:
                last_checkpoint = elapsed
                self.save()
            if elapsed - last_eval >= 60 * self.config.eval_minutes:
                last_eval = elapsed
                if self._evaluate():
                    break
        self.save()

    def share_done(self) -> float:
        """How much of the run is over, 0 to 1: by steps or by minutes, whichever is further on."""
        by_steps = self.progress.step / self.config.max_steps
        minutes = self.progress.elapsed_s / 60
        by_time = minutes / self.config.max_minutes if self.config.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def _agree(self, value: float) -> float:
        """Rank 0's value, on every rank; all must call it together."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.model.embedding.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def _batches(self) -> Iterator[Batch]:
        """Endless batches from where the run stands; every rank takes its own share."""
        while True:
            plan = epoch_batches(
                self.corpus, self.progress.epoch, batch_tokens=self.config.batch_tokens,
                spoken_share=self.spoken_share, seed=self.seed,
            )  # fmt: skip
            for index in range(self.progress.next_batch, len(plan) - self.world + 1, self.world):
                self.progress.next_batch = index + self.world
                yield collate(self.corpus, *plan[index + self.rank], self.model.pad_id)
            self.progress.epoch, self.progress.next_batch = self.progress.epoch + 1, 0

    def _step(self, batches: Iterator[Batch]) -> None:
        config, progress = self.config, self.progress
        started = time.process_time()
        factor = learning_rate_factor(config.schedule, progress.step, config.warmup_steps, self.share_done())
        for optimizer, base in zip(self.optimizers, self.base_lrs, strict=True):
            optimizer.param_groups[0]["lr"] = base * factor
        total_nll, total_tokens = 0.0, 0
        for _ in range(config.accumulate):
            nll, tokens = self._accumulate(next(batches))
            total_nll, total_tokens = total_nll + nll, total_tokens + tokens
        self._share_gradients(total_tokens)
        norm = self._clip()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.target_tokens += total_tokens * self.world
        if self.hooks.log and progress.step % config.log_steps == 0:
            speed = total_tokens / max(1e-9, time.process_time() - started)
            self.hooks.log(progress.step, {
                "loss": total_nll / total_tokens, "lr_factor": factor, "grad_norm": norm,
                "tokens_per_cpu_s": speed, "target_tokens": float(progress.target_tokens),
                "share_done": self.share_done(),
            })  # fmt: skip

    def _accumulate(self, batch: Batch) -> tuple[float, int]:
        device = self.model.embedding.device
        dtype = PRECISIONS[self.config.precision]
        sampling = self.share_done() < 1.0 - self.config.full_vocab_share
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss, nll, tokens = self.model(
                batch.source.to(device), batch.target.to(device), self.config.label_smoothing,
                self.config.sampled_vocab if sampling else 0,
            )  # fmt: skip
        loss.backward()
        return float(nll.detach()), tokens

    def _share_gradients(self, tokens: int) -> None:
        """Turn summed gradients into means over all tokens of all ranks."""
        count = torch.tensor(float(tokens), device=self.model.embedding.device)
        if self.world > 1:
            dist.all_reduce(count)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                if self.world > 1:
                    dist.all_reduce(parameter.grad)
                parameter.grad.div_(count)
        self.model.freeze_padding()

    def _clip(self) -> float:
        """Clip the AdamW group; Muon's updates have a fixed size whatever the gradient's."""
        parameters = self.optimizers[-1].param_groups[0]["params"]
        limit = self.config.clip_norm or float("inf")
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))

    def _check_gate(self) -> None:
        config, progress = self.config, self.progress
        if progress.gate_passed or not self.hooks.gate_batches or progress.step % 100:
            return
        true, shuffled = compare_sources(self.model, self.hooks.gate_batches)
        if self.hooks.log:
            self.hooks.log(progress.step, {"gate_true": true, "gate_shuffled": shuffled})
        progress.gate_passed = shuffled - true > config.gate_margin
        if not progress.gate_passed and progress.target_tokens > config.gate_tokens:
            raise GateError(
                f"after {progress.target_tokens} target tokens the loss is {true:.3f} with true and "
                f"{shuffled:.3f} with shuffled sources: the model ignores its source; "
                "lower training.lr, lengthen training.warmup_steps or lower model.branch_scale"
            )

    def _evaluate(self) -> bool:
        """Score the development sets; True when early stopping says stop."""
        if self.hooks.evaluate is None:
            return False
        score = self.hooks.evaluate(self.model, self.progress) if self.rank == 0 else 0.0
        score = self._agree(score)
        progress = self.progress
        progress.evals_without_gain = 0 if score > progress.best_chrf else progress.evals_without_gain + 1
        progress.best_chrf = max(progress.best_chrf, score)
        return 0 < self.config.early_stop_evals <= progress.evals_without_gain

    def save(self) -> None:
        """Write a checkpoint beside the others (atomically); only those that averaging needs are kept."""
        if self.rank != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{self.progress.step:08d}.pt"
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        logger.info("checkpoint %s", path)
        for old in checkpoints(self.folder)[: -max(1, self.config.average_checkpoints)]:
            old.unlink()

    def resume(self) -> bool:
        """Continue from the newest checkpoint; False when there is none."""
        found = checkpoints(self.folder)
        if not found:
            return False
        state = torch.load(found[-1], map_location=self.model.embedding.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        logger.info("resumed from %s", found[-1])
        return True


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted(folder.glob("step_*.pt"))


def average_weights(paths: list[Path]) -> dict[str, Tensor]:
    """The mean of the model weights of several checkpoints."""
    states: list[dict[str, Any]] = [
        torch.load(p, map_location="cpu", weights_only=True)["model"] for p in paths
    ]
    return {name: torch.stack([s[name].float() for s in states]).mean(0) for name in states[0]}


@torch.no_grad()
def compare_sources(model: FastMarian, batches: list[Batch]) -> tuple[float, float]:
    """Loss a token with the true sources and with every source given to another target."""
    totals, tokens = [0.0, 0.0], 0
    device = model.embedding.device
    for batch in batches:
        source, target = batch.source.to(device), batch.target.to(device)
        _, true, count = model(source, target)
        _, shuffled, _ = model(source.roll(1, 0), target)
        totals[0] += float(true)
        totals[1] += float(shuffled)
        tokens += count
    return totals[0] / tokens, totals[1] / tokens
