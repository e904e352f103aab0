"""Training of the tagger: batches of tagged words, cross-entropy of case and punctuation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.common.checkpoint import LastCheckpoints
from training.common.loop import TrainingLoop
from training.common.ranks import Ranks
from training.common.schedule import learning_rate_factor
from training.common.trainable import Figures, Limits
from training.common.watchdog import StepReport, Watchdog
from training.punctuation.data import IGNORED, TaggedText, batches
from training.punctuation.model import Tagger, TaggerConfig


@dataclass(frozen=True)
class TrainingConfig:
    """How the tagger is trained: until minutes are over or max_steps are done (0: no such limit)."""

    minutes: float = 15.0
    max_steps: int = 0
    batch_words: int = 4096
    lr: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    misspelled: float = 0.04
    seed: int = 17
    checkpoint_minutes: float = 1.0


class TaggerTrainer(TrainingLoop):
    """Trains a new Tagger on tagged text, on the CPU, in bfloat16."""

    def __init__(self, text: TaggedText, config: TrainingConfig, folder: Path) -> None:
        from tqdm import tqdm

        self.text, self.config = text, config
        torch.manual_seed(config.seed)
        model = Tagger(TaggerConfig())
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        super().__init__(
            model, [optimizer], LastCheckpoints(folder / "checkpoint.pt"),
            Watchdog(warmup=config.warmup_steps), Ranks(torch.device("cpu")),
        )  # fmt: skip
        self.bar: Any = tqdm(
            total=100.0, unit="%", bar_format="{l_bar}{bar}| {elapsed} {postfix}", mininterval=5
        )

    @property
    def limits(self) -> Limits:
        """See Trainable."""
        config = self.config
        return Limits(config.max_steps, config.minutes, save_minutes=config.checkpoint_minutes)

    def groups(self) -> Iterator[tuple[int, int, Any]]:
        """See Trainable; a pass depends on (seed, epoch) only, so its first batches are skipped on resume."""
        epoch, first = self.position.epoch, self.position.batch
        while True:
            order = np.random.default_rng((self.config.seed, epoch))
            drawn = batches(self.text, self.config.batch_words, self.config.misspelled, order)
            for index, batch in enumerate(drawn):
                if index >= first:
                    yield epoch, index, batch
            epoch, first = epoch + 1, 0

    def _set_rates(self) -> None:
        step, config = self.position.step, self.config
        factor = learning_rate_factor("linear", step, config.warmup_steps, self.progress())
        for group in self.optimizers[0].param_groups:
            group["lr"] = config.lr * self.position.rate * factor

    def compute(self, data: Any) -> Figures:
        """See Trainable."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            case_logits, mark_logits = self.model(data.pieces, data.mask)
        loss = tagging_loss(case_logits.float(), mark_logits.float(), data.cases, data.marks)
        self.backward(loss)
        return Figures(float(loss.detach()))

    def after_step(self, report: StepReport) -> None:
        """See Trainable."""
        self.bar.n = round(100 * self.progress(), 1)
        shown = {"step": report.step, "epoch": self.position.epoch, "loss": round(report.loss, 4)}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(0)

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        config = asdict(self.config)
        found = {name: config[name] for name in ("seed", "batch_words", "misspelled")}
        return {**found, "the number of sentences": len(self.text)}

    def conditions(self) -> dict[str, Any]:
        """See Trainable."""
        config = asdict(self.config)
        return {name: config[name] for name in ("lr", "warmup_steps", "weight_decay")}


def tagging_loss(case_logits: Tensor, mark_logits: Tensor, cases: Tensor, marks: Tensor) -> Tensor:
    """Mean cross-entropy of case plus punctuation; labels int64 [batch, n_words], IGNORED on padding."""
    return F.cross_entropy(
        case_logits.flatten(0, 1), cases.flatten(), ignore_index=IGNORED
    ) + F.cross_entropy(mark_logits.flatten(0, 1), marks.flatten(), ignore_index=IGNORED)
