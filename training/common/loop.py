"""The training loop that all trainers share: steps that are checked, watched, saved and resumed exactly.

A trainer defines its batches (`groups`), what a step computes (`compute`), the length of the run (`limits`)
and the learning rates (`_set_rates`); the rest is here. No step is taken and no file written with numbers
that are not finite, and an interrupted run continues with its next batch.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.runtime.interrupts import Stopped
from training.common.checkpoint import (
    CheckpointError,
    CheckpointStore,
    State,
    read_newest,
    read_random_states,
    set_random_states,
)
from training.common.finite import NotFiniteError, find_nonfinite, walk_tensors
from training.common.interrupt import Interrupt
from training.common.ranks import Ranks
from training.common.resume import check_identity, describe_changes
from training.common.trainable import Figures, Position, Trainable
from training.common.watchdog import Finding, StepReport, TrainingStopped, Watchdog

LOGGER = logging.getLogger("training.common.loop")


class TrainingLoop(Trainable):
    """Trains a model; a subclass defines on what, see Trainable.

    Args:
        model: on the device to train on.
        optimizers: of all trained parameters; all of them step together.
        store: where states are saved; None saves nothing.
        watchdog: reads every step.
        loss_scale: at the start of a run in float16; None for the other precisions.
    """

    def __init__(
        self, model: Any, optimizers: Sequence[torch.optim.Optimizer], store: CheckpointStore | None,
        watchdog: Watchdog, ranks: Ranks, loss_scale: float | None = None,
    ) -> None:  # fmt: skip
        self.model, self.optimizers, self.store = model, list(optimizers), store
        self.watchdog, self.ranks, self.device = watchdog, ranks, ranks.device
        self.rank, self.world = ranks.rank, ranks.world
        self.scaler = None if loss_scale is None else torch.amp.GradScaler(self.device.type, loss_scale)
        self.position, self.excluded = Position(), set()
        self._running = [b for name, b in model.named_buffers() if "running_" in name]  # of batch norm
        self.figures = Figures(0.0)  # of the last step
        self._saved: tuple[int, float] | None = None  # step and rate of the last save
        self._saved_minutes = 0.0

    def run(self) -> None:
        """Train to the end of the limits, then `finish`.

        Raises:
            TrainingStopped: the watchdog ended the run; the last good checkpoint remains.
            Stopped, a KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved.
            OSError: a checkpoint could not be written.
        """
        if self.resumes_itself:
            self.resume()
        with Interrupt() as interrupt:
            while self._train(interrupt) or self._save_or_go_back():
                pass  # rolled back: continue from the restored position
        self.finish()

    def _train(self, interrupt: Interrupt) -> bool:
        """Train from self.position on; True if the state was rolled back."""
        groups: Any = self.groups()
        try:
            for epoch, batch, data in groups:
                if self.is_over(epoch):
                    break
                report = self.step(data)
                self.position.epoch, self.position.batch = epoch, batch + 1
                if self._act_on(report):
                    return True
                self.after_step(report)
                if self._is_save_due() and self._save_or_go_back():
                    return True
                if self.ranks.sum(float(interrupt.asked))[0]:
                    self.save()
                    raise Stopped(interrupt.number)
        finally:
            groups.close()
        return False

    def step(self, pending: Any) -> StepReport:
        """Take one optimiser step over one step's data (or the future of it), if all is finite."""
        began = time.monotonic()
        data = pending.result() if hasattr(pending, "result") else pending
        waited = time.monotonic() - began
        self._set_rates()
        self.model.train()
        running = [buffer.clone() for buffer in self._running]
        self.figures = figures = self.compute(data)
        self.ranks.sum_gradients(self.trained())
        for optimizer in self.optimizers:
            with_gradient = (p.grad is not None for group in optimizer.param_groups for p in group["params"])
            if self.scaler and any(with_gradient):
                self.scaler.unscale_(optimizer)
        self.finish_gradients()
        norm = self._clip()
        loss, blanks, n_batches, infinite, audio_s = self.ranks.sum(
            figures.loss, figures.blank_ratio * figures.n_batches, figures.n_batches, figures.n_infinite,
            figures.audio_s,
        )  # fmt: skip
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._put_back(running)
        outcome = self._update(data, loss, norm)
        if outcome:
            self._put_back(running)
        self.position.step += 1
        took = max(self.ranks.sum(time.monotonic() - began)[0] / self.world, 1e-6)  # one clock for all
        self.position.minutes += took / 60.0
        return StepReport(  # figures that the watchdog may stop on are the same on all ranks
            self.position.step, loss, norm, blanks / max(n_batches, 1.0), int(infinite), audio_s / took,
            waited / took, took, loss_scale=self.scaler.get_scale() if self.scaler else None, **outcome,
        )  # fmt: skip

    def trained(self) -> list[Tensor]:
        """All parameters that the optimisers hold."""
        return [p for o in self.optimizers for group in o.param_groups for p in group["params"]]

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient, scaled up in float16."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by minutes, whichever is more."""
        limits = self.limits
        by_steps = self.position.step / limits.max_steps if limits.max_steps else 0.0
        by_time = self.position.minutes / limits.max_minutes if limits.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def _clip(self) -> float:
        """Clip; returns the norm before, NaN where a gradient that is not clipped is not finite."""
        clipped = [p for p in self.clipped() if p.grad is not None]
        limit = self.limits.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(clipped, limit))
        known = {id(p) for p in clipped}
        rest = [("", p.grad) for p in self.trained() if p.grad is not None and id(p) not in known]
        return math.nan if find_nonfinite(rest) else norm

    def _update(self, data: Any, loss: float, norm: float) -> dict[str, Any]:
        """Step the optimisers if loss, gradients, their states and all weights are finite."""
        damage = self.find_damage()
        outcome: dict[str, Any] = {}
        finite = math.isfinite(loss) and math.isfinite(norm)
        if self.ranks.sum(float(bool(damage)))[0]:
            outcome = {"damage": damage[0] if damage else "weights of another rank"}
        elif finite:
            for optimizer in self.optimizers:
                optimizer.step()
            self.after_update()
        else:
            overflow = self.scaler is not None and math.isfinite(loss)  # a smaller scale will fit
            bad = [] if overflow else self.ranks.gather(self.find_bad(data))
            self.excluded |= set(bad)
            outcome = {"skipped": True, "bad": tuple(bad)}
        if self.scaler and any(p.grad is not None for p in self.trained()):
            self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return outcome

    @torch.no_grad()
    def _put_back(self, running: Sequence[Tensor]) -> None:
        """Undo the changes of a batch that is not finite to the running means of batch norm."""
        for buffer, before in zip(self._running, running, strict=True):
            buffer.copy_(before)

    def find_damage(self) -> list[str]:
        """Names of weights, buffers and optimiser states that are not finite."""
        named = [*self.model.named_parameters(), *self.model.named_buffers()]
        states = (walk_tensors(o.state, f"optimizer {number}") for number, o in enumerate(self.optimizers))
        return find_nonfinite([*named, *(pair for state in states for pair in state)])

    def _act_on(self, report: StepReport) -> bool:
        finding = self.watchdog.check(report)
        return finding is not None and self._heed(finding)

    def _heed(self, finding: Finding) -> bool:
        """Act on a finding of the watchdog; True if the state was rolled back."""
        LOGGER.warning("%s", finding.message)
        if finding.action == "stop":
            raise TrainingStopped(finding.message)
        if finding.action != "rollback":
            return False
        rate = self.position.rate * 0.5
        if not self.resume():
            raise TrainingStopped(f"{finding.message} There is no checkpoint yet to go back to.")
        self.position.rate = rate
        self.ranks.wait()  # all have read it before one writes it
        self.save()
        self.ranks.wait()
        return True

    def _is_save_due(self) -> bool:
        limits, position = self.limits, self.position
        if not self.watchdog.is_calm:  # an exploding loss must not replace the good state before it
            return False
        if limits.save_every and position.step % limits.save_every == 0:
            return True
        minutes = position.minutes - self._saved_minutes
        return limits.save_minutes is not None and minutes >= limits.save_minutes

    def _save_or_go_back(self) -> bool:
        """Save; if the state is not finite, go back instead and return True."""
        try:
            self.save()
        except NotFiniteError as error:
            return self._heed(self.watchdog.roll_back(str(error)))
        return False

    def save(self) -> None:
        """Write the whole state, unless it has been written already.

        Raises:
            NotFiniteError: something in it is not finite; nothing is written.
            OSError: it could not be written; earlier checkpoints remain.
        """
        position = self.position
        if self.store is None or self._saved == (position.step, position.rate):
            return
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": dataclasses.asdict(position), "random": read_random_states(),
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "identity": self.identity(), "conditions": self.conditions(),
            "excluded": sorted(self.excluded), **self.extra_state(),
        }  # fmt: skip
        if broken := find_nonfinite(walk_tensors(state)):
            got = f"step {position.step}: {broken[0]} holds NaN or infinity ({len(broken)} such tensors)"
            raise NotFiniteError(got, "finite numbers in a checkpoint", "lower the learning rate")
        if self.rank == 0:
            self.store.save(state)
            self.after_save()
        self._saved, self._saved_minutes = (position.step, position.rate), position.minutes

    def resume(self) -> bool:
        """Load the newest complete checkpoint; False if there is none.

        Raises:
            CheckpointError: it belongs to another run (seed, batch size, model), or all are damaged.
        """
        found = None if self.store is None else read_newest(self.store, self.device)
        if found is None:
            return False
        place, state = found
        check_identity(place, self.model, state, self.identity())
        for change in describe_changes(state.get("conditions", {}), self.conditions()):
            LOGGER.info("%s: %s", place, change)
        self.load_state(state)
        position = self.position
        LOGGER.info("resumed at step %d, epoch %d, batch %d", position.step, position.epoch, position.batch)
        self._saved, self._saved_minutes = (position.step, position.rate), position.minutes
        return True

    def load_state(self, state: State) -> None:
        """Restore a state that `save` wrote, also in an older version."""
        self.model.load_state_dict(state["model"])
        saved = state["optimizers"] if "optimizers" in state else [state["optimizer"]]
        if len(saved) != len(self.optimizers):
            raise CheckpointError(f"the checkpoint has {len(saved)} optimisers", str(len(self.optimizers)))
        for optimizer, content in zip(self.optimizers, saved, strict=True):
            optimizer.load_state_dict(content)
        self.position = self.read_position(state["progress"])
        if self.scaler and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.excluded |= set(state.get("excluded", ()))  # those found since are bad too
        self.load_extra(state)
        if "random" in state:
            set_random_states(state["random"])

    def read_position(self, values: Mapping[str, Any]) -> Position:
        """The position of a checkpoint; fields that an older version did not write keep their defaults."""
        known = {field.name for field in dataclasses.fields(self.position)}
        return type(self.position)(**{name: value for name, value in values.items() if name in known})
