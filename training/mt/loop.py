"""The training of a translation model: its batches, its gate, its evaluation; the loop itself is common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import EngineError
from training.common.checkpoint import NumberedCheckpoints, State
from training.common.finite import find_nonfinite
from training.common.loop import TrainingLoop
from training.common.ranks import Ranks
from training.common.trainable import Figures, Limits, Position
from training.common.watchdog import StepReport, Watchdog
from training.mt.config import TrainingSection
from training.mt.data import TARGET, Batch, TokenizedCorpus, collate, epoch_batches
from training.mt.model import FastMarian
from training.mt.optim import build_optimizers, learning_rate_factor

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class GateError(EngineError, RuntimeError):
    """The model ignores its source: more training would waste time."""


class PlanError(EngineError, ValueError):
    """The corpus cannot be divided into batches as configured."""


@dataclass
class Progress(Position):
    """The position of a run; what a resumed run needs besides weights and optimiser states."""

    target_tokens: int = 0
    best_chrf: float = -1.0
    evals_without_gain: int = 0
    gate_passed: bool = False


class Plan(NamedTuple):
    """One micro batch of this rank: pairs int64 [n], and the source side of each int8 [n]."""

    rows: NDArray[np.int64]
    sides: NDArray[np.int8]


@dataclass
class Hooks:
    """What the loop calls; each may be None."""

    evaluate: Callable[[FastMarian, Progress], float] | None = None
    log: Callable[[int, dict[str, float]], None] | None = None
    gate_batches: list[Batch] = field(default_factory=list)


class Trainer(TrainingLoop):
    """Trains a FastMarian on a tokenised corpus.

    Args:
        model: on the device to train on.
        corpus: tokenised pairs.
        config: the training section.
        folder: checkpoints go to folder/checkpoints.
        spoken_share, two_pass_share, seed: of the batch plan.
        hooks: evaluation, logging, and the batches of the gate.
    """

    resumes_itself = False  # only with --resume
    position: Progress

    def __init__(
        self, model: FastMarian, corpus: TokenizedCorpus, config: TrainingSection, folder: Path,
        *, spoken_share: float, seed: int, hooks: Hooks, two_pass_share: float = 0.0,
    ) -> None:  # fmt: skip
        self.two_pass_share = two_pass_share
        self.corpus, self.config, self.hooks = corpus, config, hooks
        self.folder, self.spoken_share, self.seed = folder / "checkpoints", spoken_share, seed
        optimizers = build_optimizers(
            model, config.optimizer, config.lr, config.adam_lr, config.weight_decay,
            PRECISIONS[config.precision],
        )  # fmt: skip
        super().__init__(
            model, optimizers, NumberedCheckpoints(self.folder, config.average_checkpoints),
            Watchdog(warmup=config.warmup_steps), Ranks.join(model.embedding.device),
        )  # fmt: skip
        in_copy = config.precision == "bf16" and model.embedding.device.type == "cpu"
        self._bf16 = model.in_bfloat16() if in_copy else None  # computes; model holds the weights in float32
        self.base_lrs = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.position = Progress()
        self._factor, self._n_tokens, self._ended = 0.0, 0.0, False
        self._evaluated_minutes, self._cpu_s = 0.0, 0.0

    @property
    def limits(self) -> Limits:
        """See Trainable; Muon's updates have a fixed size whatever the gradient's."""
        config = self.config
        return Limits(
            config.max_steps, config.max_minutes, config.clip_norm, save_minutes=config.checkpoint_minutes
        )

    def check_plan(self) -> None:
        """Check the corpus before the first step.

        Raises:
            PlanError: no pair is left, one is too long for a batch or the model, or ranks get no batch.
        """
        if not len(self.corpus.weights):
            raise PlanError(
                "no pair of the corpus is short enough", "some", "raise data.max_tokens, or check the text"
            )
        lengths = np.diff(self.corpus.offsets, axis=1)
        target, source = lengths[TARGET], np.delete(lengths, TARGET, 0).max(0)
        longest, positions = int((source + target).max()), len(self.model.positions)
        if longest > self.config.batch_tokens:
            raise PlanError(
                f"training.batch_tokens is {self.config.batch_tokens}, the longest pair has {longest} pieces",
                f"at least {longest}", "raise training.batch_tokens, or lower data.max_tokens",
            )  # fmt: skip
        if (sentence := int(max(source.max(), target.max()))) > positions:
            raise PlanError(
                f"the longest sentence has {sentence} pieces, the model {positions} positions",
                f"at most {positions}", f"lower data.max_tokens to {positions}",
            )  # fmt: skip
        if (n_batches := len(self._plan(0))) < self.world:
            raise PlanError(
                f"an epoch has {n_batches} batches for {self.world} processes", "one for each process",
                "start fewer processes, or lower training.batch_tokens",
            )  # fmt: skip

    def _plan(self, epoch: int) -> list[tuple[NDArray[np.int64], NDArray[np.int8]]]:
        return epoch_batches(
            self.corpus, epoch, batch_tokens=self.config.batch_tokens, spoken_share=self.spoken_share,
            seed=self.seed, two_pass_share=self.two_pass_share,
        )  # fmt: skip

    def run(self) -> None:
        """See TrainingLoop.

        Raises:
            PlanError: see check_plan.
            GateError: by gate_tokens the loss with shuffled sources was no worse than with true ones.
        """
        self.check_plan()
        self._evaluated_minutes = self.position.minutes
        super().run()

    def groups(self) -> Iterator[tuple[int, int, list[Plan]]]:
        """See Trainable; every rank takes its own share."""
        epoch, first, held = self.position.epoch, self.position.batch, []
        while True:
            plan = self._plan(epoch)
            for index in range(first, len(plan) - self.world + 1, self.world):
                held.append(Plan(*plan[index + self.rank]))
                if len(held) == self.config.accumulate:
                    yield epoch, index + self.world - 1, held
                    held = []
            epoch, first = epoch + 1, 0

    def _set_rates(self) -> None:
        config = self.config
        factor = learning_rate_factor(
            config.schedule, self.position.step, config.warmup_steps, self.progress()
        )
        self._factor = factor * self.position.rate
        for optimizer, base in zip(self.optimizers, self.base_lrs, strict=True):
            optimizer.param_groups[0]["lr"] = base * self._factor

    def compute(self, data: Sequence[Plan]) -> Figures:
        """See Trainable; gradients are sums until `finish_gradients`."""
        started = time.process_time()
        self._refresh_copy()
        total_nll, total_tokens = 0.0, 0
        for plan in data:
            if (batch := self._collate(plan)) is not None:
                nll, tokens = self._accumulate(batch)
                total_nll, total_tokens = total_nll + nll, total_tokens + tokens
        self._collect_gradients()
        (self._n_tokens,) = self.ranks.sum(total_tokens)
        self._cpu_s = time.process_time() - started
        return Figures(total_nll / max(self._n_tokens, 1.0))

    def _collate(self, plan: Plan) -> Batch | None:
        """The batch of the pairs that are not left out; None where all are."""
        if self.excluded:
            kept = np.array([name_pair(row) not in self.excluded for row in plan.rows], bool)
            plan = Plan(plan.rows[kept], plan.sides[kept])
        return collate(self.corpus, *plan, self.model.pad_id) if len(plan.rows) else None

    def _accumulate(self, batch: Batch) -> tuple[float, int]:
        device, dtype = self.device, PRECISIONS[self.config.precision]
        model = self._bf16 if self._bf16 is not None else self.model
        sampling = self.progress() < 1.0 - self.config.full_vocab_share
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32 and self._bf16 is None):
            loss, nll, tokens = model(
                batch.source.to(device), batch.target.to(device), self.config.label_smoothing,
                self.config.sampled_vocab if sampling else 0,
            )  # fmt: skip
        self.backward(loss)
        return float(nll.detach()), tokens

    @torch.no_grad()
    def _refresh_copy(self) -> None:
        if self._bf16 is not None:
            for ours, copied in zip(self.model.parameters(), self._bf16.parameters(), strict=True):
                copied.copy_(ours)

    def _collect_gradients(self) -> None:
        """Move the gradients of the copy to the weights."""
        if self._bf16 is not None:
            for ours, copied in zip(self.model.parameters(), self._bf16.parameters(), strict=True):
                ours.grad = None if copied.grad is None else copied.grad.float()
                copied.grad = None

    def finish_gradients(self) -> None:
        """See Trainable: means over all tokens of all ranks."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(max(self._n_tokens, 1.0))
        self.model.freeze_padding()

    def clipped(self) -> list[Tensor]:
        """See Trainable: only AdamW's."""
        found: list[Tensor] = self.optimizers[-1].param_groups[0]["params"]
        return found

    def find_bad(self, data: Sequence[Plan]) -> list[str]:
        """See Trainable: each pair separately."""
        names = []
        for plan in data:
            for row, side in zip(plan.rows, plan.sides, strict=True):
                for parameter in self.trained():
                    parameter.grad = None
                one = collate(self.corpus, np.array([row]), np.array([side]), self.model.pad_id)
                nll, _ = self._accumulate(one)
                self._collect_gradients()
                gradients = [("", p.grad) for p in self.trained() if p.grad is not None]
                if not np.isfinite(nll) or find_nonfinite(gradients):
                    names.append(name_pair(row))
        return names

    def after_step(self, report: StepReport) -> None:
        """See Trainable: log, gate, evaluation."""
        position, config = self.position, self.config
        position.target_tokens += int(self._n_tokens)
        if self.hooks.log and position.step % config.log_steps == 0:
            self.hooks.log(position.step, {
                "loss": report.loss, "lr_factor": self._factor, "grad_norm": report.grad_norm,
                "tokens_per_cpu_s": self._n_tokens / self.world / max(1e-9, self._cpu_s),
                "target_tokens": float(position.target_tokens), "share_done": self.progress(),
            })  # fmt: skip
        self._check_gate()
        if position.minutes - self._evaluated_minutes >= config.eval_minutes:
            self._evaluated_minutes = position.minutes
            self._ended = self._evaluate()

    def is_over(self, epoch: int) -> bool:
        """See Trainable: also for early stopping."""
        return self._ended or super().is_over(epoch)

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        config = self.config
        more = {"two_pass_share": self.two_pass_share} if self.two_pass_share else {}
        return {
            **more, "seed": self.seed, "batch_tokens": config.batch_tokens, "accumulate": config.accumulate,
            "spoken_share": self.spoken_share, "optimizer": config.optimizer,
            "the corpus' number of pairs": len(self.corpus.weights),
        }  # fmt: skip

    def conditions(self) -> dict[str, Any]:
        """See Trainable."""
        names = ("lr", "adam_lr", "schedule", "warmup_steps", "label_smoothing", "precision", "weight_decay")
        found = {name: value for name, value in asdict(self.config).items() if name in names}
        return {**found, "the number of processes": self.world}

    def load_state(self, state: State) -> None:
        """See TrainingLoop."""
        super().load_state(state)
        self._evaluated_minutes = self.position.minutes

    def read_position(self, values: Mapping[str, Any]) -> Progress:
        """See TrainingLoop; checkpoints once had next_batch and elapsed_s."""
        older = {"batch": values.get("next_batch"), "minutes": values.get("elapsed_s", 0.0) / 60.0}
        found = super().read_position(older | dict(values) if "next_batch" in values else values)
        assert isinstance(found, Progress)
        return found

    def _check_gate(self) -> None:
        config, progress = self.config, self.position
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
        """Score the development sets, by the first rank; True when early stopping ends the run."""
        evaluate = self.hooks.evaluate if self.rank == 0 else None
        score = evaluate(self.model, self.position) if evaluate is not None else math.nan
        score = self.ranks.take_first(score)
        if math.isnan(score):
            return False
        progress = self.position
        progress.evals_without_gain = 0 if score > progress.best_chrf else progress.evals_without_gain + 1
        progress.best_chrf = max(progress.best_chrf, score)
        return 0 < self.config.early_stop_evals <= progress.evals_without_gain


def name_pair(row: int) -> str:
    """The name of a pair of the tokenised corpus in messages and checkpoints."""
    return f"pair {row}"


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
    """Loss per token with the true sources, and with each source given to another target."""
    totals, tokens = [0.0, 0.0], 0
    device = model.embedding.device
    trained = model.training
    model.eval()
    for batch in batches:
        source, target = batch.source.to(device), batch.target.to(device)
        _, true, count = model(source, target)
        _, shuffled, _ = model(source.roll(1, 0), target)
        totals[0] += float(true)
        totals[1] += float(shuffled)
        tokens += count
    model.train(trained)
    return totals[0] / tokens, totals[1] / tokens
