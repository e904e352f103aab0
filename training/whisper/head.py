"""Trains only the CTC head, on states of a fixed encoder: twenty times as fast as training everything.

The states of every clip, changed at random as usual, are computed once and stay in memory. Training of
all parts begins with a head that can spell.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.asr.log_mel_ctc import LogMelCtc
from training.asr.model import compute_ctc
from training.common.checkpoint import LastCheckpoints
from training.common.loop import TrainingLoop
from training.common.ranks import Ranks
from training.common.schedule import cosine, rise
from training.common.trainable import Figures, Limits
from training.common.watchdog import StepReport, Watchdog
from training.whisper.examples import Example, ExampleMaker

LOGGER = logging.getLogger("training.whisper")
BATCH_FRAMES = 3000
LEARNING_RATE = 2e-3
REPORT_EVERY = 100
WARMUP = 50  # steps
SAVE_MINUTES = 5.0


@torch.inference_mode()
def compute_head_states(
    ctc: LogMelCtc, maker: ExampleMaker, indices: Sequence[int], seed: int
) -> list[tuple[Tensor, list[int]]]:
    """States float16 [n_frames, d] and labels of clips, each encoded alone."""
    device, found = next(ctc.parameters()).device, []
    for number, index in enumerate(indices):
        example: Example = maker.make(index, np.random.default_rng((seed, 2, number)))
        if example.labels and example.n_frames <= 1475:
            states = ctc.encode(example.features[None].to(device))[0]
            found.append((states.half().cpu(), example.labels))
        if (number + 1) % 500 == 0:
            LOGGER.info("states of %d of %d clips", number + 1, len(indices))
    return found


def train_head(
    ctc: LogMelCtc, clips: Sequence[tuple[Tensor, list[int]]], steps: int, seed: int, path: Path | None = None
) -> None:
    """Train ctc.head in place with a new optimiser; clips from compute_head_states.

    Args:
        path: where the state is saved, to resume from; None saves none.
    Raises:
        TrainingStopped: the watchdog ended the run.
    """
    HeadTrainer(ctc, clips, steps, seed, path).run()


class HeadTrainer(TrainingLoop):
    """Trains a head on states that are in memory."""

    def __init__(
        self, ctc: LogMelCtc, clips: Sequence[tuple[Tensor, list[int]]], steps: int, seed: int,
        path: Path | None,
    ) -> None:  # fmt: skip
        self.ctc, self.clips, self.steps, self.seed = ctc, clips, steps, seed
        optimizer = torch.optim.AdamW(
            ctc.head.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        super().__init__(
            ctc.head, [optimizer], LastCheckpoints(path) if path else None,
            Watchdog(warmup=WARMUP), Ranks(next(ctc.parameters()).device),
        )  # fmt: skip
        self.order = sorted(range(len(clips)), key=lambda index: len(clips[index][0]))
        self._losses: list[float] = []

    @property
    def limits(self) -> Limits:
        """See Trainable."""
        return Limits(self.steps, save_minutes=SAVE_MINUTES)

    def groups(self) -> Iterator[tuple[int, int, list[int]]]:
        """See Trainable: neighbours in length from a random place on, up to BATCH_FRAMES with padding."""
        number = self.position.batch
        while True:
            rng = np.random.default_rng((self.seed, 3, number))
            chosen: list[int] = []
            for index in self.order[int(rng.integers(len(self.order))) :]:
                if chosen and len(self.clips[index][0]) * (len(chosen) + 1) > BATCH_FRAMES:
                    break
                chosen.append(index)
            yield 0, number, [index for index in chosen if f"clip {index}" not in self.excluded]
            number += 1

    def _set_rates(self) -> None:
        factor = self.position.rate * rise(self.position.step, WARMUP) * cosine(self.progress(), 0.02)
        for group in self.optimizers[0].param_groups:
            group["lr"] = LEARNING_RATE * factor

    def compute(self, data: Sequence[int]) -> Figures:
        """See Trainable."""
        if not data:
            return Figures(0.0)
        chosen = [self.clips[index] for index in data]
        longest = max(len(states) for states, _ in chosen)
        padded = [functional.pad(states.float(), (0, 0, 0, longest - len(states))) for states, _ in chosen]
        n_frames = torch.tensor([len(states) for states, _ in chosen])
        logits = self.ctc.classify(torch.stack(padded).to(self.device))
        total, infinite = compute_ctc(logits, n_frames, [ids for _, ids in chosen])
        loss = total / sum(len(ids) for _, ids in chosen)
        self.backward(loss)
        return Figures(float(loss.detach()), n_infinite=infinite)

    def find_bad(self, data: Sequence[int]) -> list[str]:
        """See Trainable."""
        return [f"clip {index}" for index in data if not math.isfinite(self.compute([index]).loss)]

    def after_step(self, report: StepReport) -> None:
        """See Trainable."""
        self._losses += [] if report.skipped else [report.loss]
        if report.step % REPORT_EVERY == 0:
            LOGGER.info("head, step %d: loss per label %.3f", report.step, float(np.mean(self._losses)))
            self._losses = []

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        return {"seed": self.seed, "the number of clips": len(self.clips)}

    def finish(self) -> None:
        """See Trainable."""
        self.ctc.head.eval()


def copy_head(target: LogMelCtc, source: LogMelCtc, folder: Path) -> None:
    """Take the head of another checkpoint.

    Raises:
        ValueError: it is of another kind or size.
    """
    try:
        target.head.load_state_dict(source.head.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{folder}: its CTC head does not fit ({str(error).splitlines()[0]})") from error
