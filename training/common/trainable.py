"""What a trainer gives the training loop: batches, loss, rates, limits."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from training.common.checkpoint import State
from training.common.watchdog import StepReport


@dataclasses.dataclass
class Position:
    """The position of a run: steps done, the next batch, a factor on all rates, minutes trained."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    rate: float = 1.0
    minutes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """The length of a run, and how often it is saved; 0 (None for save_minutes) is no limit, or never.

    Attributes:
        max_grad_norm: gradients of a larger norm are scaled down to it.
        save_every, save_minutes: steps, minutes of training between checkpoints.
    """

    max_steps: int = 0
    max_minutes: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 0
    save_minutes: float | None = None


@dataclasses.dataclass
class Figures:
    """What a step computed on this rank.

    Attributes:
        loss: its share of the step's mean loss; the shares of all ranks add up.
        blank_ratio, n_infinite, audio_s: see StepReport; the first is a mean over n_batches.
        shown: further figures, for the trainer's own log.
    """

    loss: float
    blank_ratio: float = 0.0
    n_batches: int = 1
    n_infinite: int = 0
    audio_s: float = 0.0
    shown: dict[str, float] = dataclasses.field(default_factory=dict)


class Trainable(abc.ABC):
    """Implemented by every trainer; `loop.TrainingLoop` does the rest.

    Attributes:
        position: of the run.
        excluded: names of clips that are left out.
    """

    position: Position
    excluded: set[str]
    resumes_itself = True  # `run` continues from the last checkpoint

    @abc.abstractmethod
    def progress(self) -> float:
        """How much of the run is done, 0 to 1."""

    @abc.abstractmethod
    def trained(self) -> list[Tensor]:
        """All parameters that are trained."""

    @property
    @abc.abstractmethod
    def limits(self) -> Limits:
        """The limits of the run."""

    @abc.abstractmethod
    def groups(self) -> Iterator[tuple[int, int, Any]]:
        """(epoch, batch, data) of every step, from self.position on; data may be a future of itself."""

    @abc.abstractmethod
    def compute(self, data: Any) -> Figures:
        """Run the network and `self.backward` on one step's data."""

    @abc.abstractmethod
    def _set_rates(self) -> None:
        """Set the learning rates of the next step; times self.position.rate."""

    def clipped(self) -> list[Tensor]:
        """The parameters whose gradients are clipped."""
        return self.trained()

    def finish_gradients(self) -> None:  # noqa: B027 (a hook)
        """Change the summed gradients before they are clipped."""

    def after_update(self) -> None:  # noqa: B027 (a hook)
        """Called after a step was taken, for instance to average weights."""

    def after_step(self, report: StepReport) -> None:  # noqa: B027 (a hook)
        """Log, evaluate; self.position is after the step."""

    def find_bad(self, data: Any) -> list[str]:
        """Names of the clips whose own loss or gradient is not finite; self.excluded gets them."""
        return []

    def after_save(self) -> None:  # noqa: B027 (a hook)
        """Write what belongs to a saved state, such as the averaged model; on rank 0 only."""

    def extra_state(self) -> State:
        """What else a resumed run needs: tensors and plain values."""
        return {}

    def load_extra(self, state: State) -> None:  # noqa: B027 (a hook)
        """Restore what `extra_state` returned."""

    def identity(self) -> dict[str, Any]:
        """Settings that must equal those of the checkpoint: seed, batch size, model."""
        return {}

    def conditions(self) -> dict[str, Any]:
        """Settings that may change from one start to the next; changes are reported."""
        return {}

    def is_over(self, epoch: int) -> bool:
        """Whether the run ends before a step of this epoch."""
        return self.progress() >= 1.0

    def finish(self) -> None:  # noqa: B027 (a hook)
        """Evaluate and write the model, once the run is over."""
