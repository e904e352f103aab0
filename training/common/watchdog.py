"""The watchdog: reads every training step's figures, and reports in plain words when something is wrong."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np

from engine.errors import EngineError

OVERFLOW = (
    "step {step}: loss {loss}, grad norm {norm}. Numbers have overflowed. CTC runs in float32 here, so "
    "look at the learning rate (halve it), at fp16 (use bf16), and at samples with extreme audio (let the"
    " doctor listen)."
)
DAMAGE = (
    "step {step}: {name} holds NaN or infinity (loss {loss}, grad norm {norm}). The update before was too "
    "large: lower the learning rate, or lengthen the warm-up."
)
SKIPPED = (
    "step {step}: loss {loss}, grad norm {norm}: not finite. The update was skipped, the weights are "
    "unchanged. {names}"
)
SCALE = (
    "step {step}: the loss scale of fp16 has fallen to {scale:.2g}: gradients overflow float16 at every "
    "scale. Use bf16 (the same range as float32) or float32, or a lower learning rate."
)
UNDERFLOW = (
    "step {step}: grad norm {norm:.1e} for {patience} steps at a loss scale of {scale:.2g}: the gradients "
    "underflow float16 and become zero, so nothing is learned. This is how fp16 runs end in NaN and then "
    "in a loss of 0. Use bf16 or float32, or start with a larger loss_scale."
)
EXPLOSION = (
    "step {step}: loss {loss:.3g} is over {factor:g} times the usual {typical:.3g}. The update was too "
    "large: lower the learning rate, lengthen the warm-up, or clip gradients harder."
)
ZERO_LOSS = (
    "step {step}: the loss is zero. This is an error: either every sample has more text than frames "
    "(their infinite losses are zeroed; the doctor lists them), or the texts are empty."
)
VANISHING = (
    "step {step}: grad norm {norm:.1e} for {patience} steps: nothing is learned. Is everything frozen? Is"
    " an attention mask given to a model with group norm (wav2vec2-base), or left out for one with layer "
    "norm?"
)
BLANK_ONLY = (
    "step {step}: the model says blank on {ratio:.1%} of all frames and has left the warm-up of {warmup} "
    "steps. The usual cures: a higher learning rate for the head, a longer warm-up, shorter clips first, "
    "less masking (SpecAugment), and a check of the texts."
)
INFINITE = (
    "step {step}: {count} clips had more text than frames and were left out; the doctor lists such samples"
)
WAITING = (
    "step {step}: {share:.0%} of the time is spent waiting for data: add workers, or reduce augmentation"
)
SLOW = (
    "step {step}: {speed:.1f} s of audio per second, usually {typical:.1f}: does another program use the "
    "processor, does the machine swap or throttle, or is the storage slow?"
)


@dataclasses.dataclass(frozen=True)
class StepReport:
    """The trainer's report of a step.

    Attributes:
        step: optimiser steps so far.
        loss: mean CTC loss per label.
        grad_norm: before clipping.
        blank_ratio: fraction of valid frames whose best symbol is the blank.
        n_infinite: samples of the step whose loss was infinite (zeroed out).
        audio_per_s: seconds of audio per second of training.
        wait_share: fraction of the step spent waiting for data.
        took_s: seconds the step took, waiting included.
        skipped: loss or gradient was not finite, so the update was skipped; the weights are unchanged.
        bad: the clips that caused this; they are left out from now on.
        damage: the weight or optimiser state that is not finite; empty where all are finite.
        loss_scale: factor on the loss in float16; None in other precisions.
    """

    step: int
    loss: float
    grad_norm: float
    blank_ratio: float = 0.0
    n_infinite: int = 0
    audio_per_s: float = 0.0
    wait_share: float = 0.0
    took_s: float = 0.0
    skipped: bool = False
    bad: tuple[str, ...] = ()
    damage: str = ""
    loss_scale: float | None = None


class TrainingStopped(EngineError, RuntimeError):
    """The watchdog ended the run; the message says why, and what to change."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding of the watchdog; `action` is "warn", "rollback" or "stop"."""

    action: str
    message: str


@dataclasses.dataclass
class Watchdog:
    """Reads step reports and finds problems.

    Attributes:
        patience: steps that a bad state must last before it is reported.
        warmup: steps in which blanks everywhere and large gradients are normal.
        explosion: factor over the running median loss or grad norm that counts as an explosion.
        vanishing: grad norm below which nothing is learned any more.
        slow: fraction of the usual throughput below which training counts as slow.
        max_rollbacks: rollbacks before the run is stopped.
        max_skipped: skipped updates in a row, before they count as an overflow.
        zero: loss below which something is wrong; 0 where a loss may become that small.
        min_scale: loss scale of fp16 below which no gradient fits any more.
    """

    patience: int = 50
    warmup: int = 500
    explosion: float = 10.0
    vanishing: float = 1e-6
    max_rollbacks: int = 3
    slow: float = 0.33
    max_skipped: int = 20
    zero: float = 1e-4
    min_scale: float = 1e-4

    def __post_init__(self) -> None:
        self._losses: collections.deque[float] = collections.deque(maxlen=200)
        self._speeds: collections.deque[float] = collections.deque(maxlen=200)
        self._streaks: collections.Counter[str] = collections.Counter()
        self.rollbacks = 0

    def check(self, report: StepReport) -> Finding | None:
        """Judge one step; returns a finding, or None."""
        if report.damage:
            return self.roll_back(DAMAGE.format(**_figures(report), name=report.damage))
        if report.skipped:
            return self._check_skipped(report)
        self._streaks["skipped"] = 0
        if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
            return self.roll_back(OVERFLOW.format(**_figures(report)))
        finding = self._check_explosion(report) or self._check_streaks(report) or self._check_speed(report)
        self._losses.append(report.loss)
        return finding

    @property
    def is_calm(self) -> bool:
        """Whether the last step's loss was usual: a state worth saving."""
        return not self._streaks["exploded"]

    def _check_skipped(self, report: StepReport) -> Finding | None:
        if report.loss_scale is not None and math.isfinite(report.loss):
            if report.loss_scale >= self.min_scale:  # the scale has been halved: part of fp16's life
                return None
            return Finding("stop", SCALE.format(step=report.step, scale=report.loss_scale))
        if self._lasts("skipped", True, self.max_skipped):
            return self.roll_back(OVERFLOW.format(**_figures(report)))
        names = (
            f"Left out from now on: {', '.join(report.bad)}."
            if report.bad
            else "No single clip is the cause."
        )
        return Finding("warn", SKIPPED.format(**_figures(report), names=names))

    def _check_speed(self, report: StepReport) -> Finding | None:
        typical = float(np.median(self._speeds)) if len(self._speeds) >= 20 else 0.0
        slow = report.audio_per_s < self.slow * typical
        if not slow:  # slow steps do not change the usual throughput
            self._speeds.append(report.audio_per_s)
        if not self._lasts("slow", slow, self.patience):
            return None
        self._streaks["slow"] = 0
        values = {"step": report.step, "speed": report.audio_per_s, "typical": typical}
        return Finding("warn", SLOW.format(**values))

    def _check_explosion(self, report: StepReport) -> Finding | None:
        if report.step < self.warmup or len(self._losses) < 20:
            return None
        typical = float(np.median(self._losses))
        exploded = report.loss > self.explosion * max(typical, 0.05)
        if not self._lasts("exploded", exploded, max(3, self.patience // 10)):
            return None
        values = {"step": report.step, "loss": report.loss, "factor": self.explosion, "typical": typical}
        return self.roll_back(EXPLOSION.format(**values))

    def _check_streaks(self, report: StepReport) -> Finding | None:
        step, patience = report.step, self.patience
        if self._lasts("zero", report.loss < self.zero, patience):
            return Finding("stop", ZERO_LOSS.format(step=step))
        if self._lasts("vanishing", report.grad_norm < self.vanishing, patience):
            values = {"step": step, "norm": report.grad_norm, "patience": patience}
            text = VANISHING if report.loss_scale is None else UNDERFLOW
            return Finding("stop", text.format(**values, scale=report.loss_scale))
        if self._lasts("blank", step >= self.warmup and report.blank_ratio > 0.995, patience):
            return Finding("stop", BLANK_ONLY.format(step=step, ratio=report.blank_ratio, warmup=self.warmup))
        if self._lasts("waiting", report.wait_share > 0.05, patience):
            self._streaks["waiting"] = 0
            return Finding("warn", WAITING.format(step=step, share=report.wait_share))
        if report.n_infinite:
            return Finding("warn", INFINITE.format(step=step, count=report.n_infinite))
        return None

    def _lasts(self, name: str, present: bool, patience: int) -> bool:
        self._streaks[name] = self._streaks[name] + 1 if present else 0
        return self._streaks[name] >= patience

    def roll_back(self, message: str) -> Finding:
        """Count a rollback; "stop" once there were too many."""
        self.rollbacks += 1
        self._streaks.clear()
        if self.rollbacks > self.max_rollbacks:
            return Finding("stop", f"{message} This was rollback number {self.rollbacks}: stopping.")
        return Finding(
            "rollback", f"{message} Going back to the last good checkpoint with half the learning rate."
        )


def _figures(report: StepReport) -> dict[str, float]:
    return {"step": report.step, "loss": report.loss, "norm": report.grad_norm}
