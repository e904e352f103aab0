"""Training of CTC models: accumulated steps that equal large batches, evaluated on real clips."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from engine.text import NORMALIZER
from training.asr.config import AsrConfig
from training.asr.conformer import ConformerConfig
from training.asr.evaluation import evaluate_ctc
from training.asr.loader import Loader
from training.asr.model import blank_ratio, compute_ctc, plain_model
from training.asr.networks import network_of
from training.common.checkpoint import LastFolders, replace_folder
from training.common.data import Sample
from training.common.loop import TrainingLoop
from training.common.metrics import RunLog
from training.common.ranks import Ranks, choose_device
from training.common.schedule import cosine, rise
from training.common.trainable import Figures, Limits
from training.common.watchdog import StepReport, Watchdog
from training.common.watchdog import TrainingStopped as TrainingStopped  # callers catch it from here

LOGGER = logging.getLogger("training.asr.command")
IDENTITY = (
    "seed", "batch_s", "max_batch", "accumulate", "sorted_epochs", "model", "scratch", "conformer", "german",
    "freeze_front_end", "lora_rank", "optimizer_8bit",
)  # fmt: skip
CONDITIONS = (
    "learning_rate", "head_learning_rate", "warmup_steps", "max_grad_norm", "weight_decay", "bf16", "fp16",
    "mask_time", "augment", "max_s", "min_s",
)  # fmt: skip


class AsrTrainer(TrainingLoop):
    """Trains one CTC model on good samples."""

    def __init__(
        self,
        config: AsrConfig,
        model: Any,
        vocabulary: dict[str, int],
        train: Sequence[Sample],
        evaluation: Sequence[Sample],
    ) -> None:
        self.config, self.vocabulary = config, vocabulary
        self.train_samples, self.eval_samples = list(train), list(evaluation)
        ranks = Ranks.join(choose_device(config.device))
        model.to(ranks.device)
        ranks.share_weights([*model.parameters(), *model.buffers()])
        super().__init__(
            model, [self._build_optimizer(model)], LastFolders(config.output_dir / "checkpoint"),
            Watchdog(patience=config.patience, warmup=config.watch_warmup), ranks,
            config.loss_scale if config.fp16 else None,
        )  # fmt: skip
        self.network = network_of(model)
        self.loader = Loader(
            config, self.network, vocabulary, train, self.rank, self.world, excluded=self.excluded
        )
        self.sampler = self.loader.sampler
        self.enough_cer = -1.0  # per cent; an evaluation with this CER or less ends the run
        self.log = RunLog(config.output_dir)
        self._recent: list[StepReport] = []
        self._totals = {"audio_s": 0.0, "waited_s": 0.0, "took_s": 0.0}

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one optimiser; its groups are the encoder and the head."""
        return self.optimizers[0]

    @property
    def limits(self) -> Limits:
        """See Trainable."""
        config = self.config
        return Limits(config.max_steps, config.max_minutes, config.max_grad_norm, config.save_every)

    def _build_optimizer(self, model: Any) -> torch.optim.Optimizer:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        is_head = [name.startswith("output.") or "lm_head" in name for name, _ in named]
        head = [p for (_, p), yes in zip(named, is_head, strict=True) if yes]
        body = [p for (_, p), yes in zip(named, is_head, strict=True) if not yes]
        groups = [
            {"params": body, "lr": self.config.learning_rate, "base": self.config.learning_rate},
            {"params": head, "lr": self.config.head_learning_rate, "base": self.config.head_learning_rate},
        ]
        # fused: one kernel for all weights instead of a dozen passes over them
        fused = functools.partial(torch.optim.AdamW, fused=True)
        kind: Any = import_adamw8bit() if self.config.optimizer_8bit else fused
        return kind(groups, betas=(0.9, 0.98), weight_decay=self.config.weight_decay)

    def groups(self) -> Iterator[tuple[int, int, Any]]:
        """See Trainable; batches are loaded in advance."""
        yield from self.loader.groups(self.position.epoch, self.position.batch)

    def load(self, indices: Sequence[int], epoch: int) -> Any:
        """Read, augment and pad some clips; all random choices depend on (seed, epoch, index) only."""
        return self.loader.load(indices, epoch)

    def compute(self, data: Sequence[Any]) -> Figures:
        """See Trainable; over the labels of the whole step: the parts' gradients sum to the whole's."""
        n_labels = self.ranks.sum(sum(len(label) for batch in data for label in batch.labels))[0]
        figures = Figures(0.0, n_batches=len(data), audio_s=sum(batch.audio_s for batch in data))
        for number, batch in enumerate(data):
            loss, blanks, infinite = self._backward(batch, number, n_labels)
            figures.loss += loss
            figures.blank_ratio += blanks / len(data)
            figures.n_infinite += infinite
        return figures

    def after_step(self, report: StepReport) -> None:
        """See Trainable."""
        self._recent.append(report)
        shares = (report.audio_per_s, report.wait_share, 1.0)
        for name, share in zip(self._totals, shares, strict=True):
            self._totals[name] += share * report.took_s
        if self._is_due():
            self.evaluate_and_log(self.position.epoch)

    def find_bad(self, data: Sequence[Any]) -> list[str]:
        """See Trainable: each clip's loss and gradient separately."""
        names = []
        for batch in data:
            for row, index in enumerate(batch.clips):
                for parameter in self.trained():
                    parameter.grad = None
                loss, _, _ = self._backward(batch.select(row), None, 1.0)
                gradients = [p.grad.norm() for p in self.trained() if p.grad is not None]
                if not (math.isfinite(loss) and bool(torch.isfinite(torch.stack(gradients)).all())):
                    names.append(str(self.train_samples[index].path))
        return names

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        return {name: getattr(self.config, name) for name in IDENTITY}

    def conditions(self) -> dict[str, Any]:
        """See Trainable."""
        return {
            **{name: getattr(self.config, name) for name in CONDITIONS},
            "the number of clips": len(self.train_samples), "the number of processes": self.world,
            "the text normaliser": NORMALIZER,
        }  # fmt: skip

    def finish(self) -> None:
        """See Trainable: the last evaluation, and output_dir/model."""
        self.evaluate_and_log(self.position.epoch)
        if self.rank == 0:
            save = functools.partial(self.network.save, self.model, self.vocabulary)
            replace_folder(self.config.output_dir / "model", save)
            self.log.draw()
        LOGGER.info("%s", self.describe_speed())

    def describe_speed(self) -> str:
        """Report how much audio was trained on, how fast, and the share of time spent waiting."""
        audio_s, waited_s, took_s = (self._totals[name] for name in ("audio_s", "waited_s", "took_s"))
        took_s = max(took_s, 1e-6)
        return (
            f"{audio_s / 3600:.2f} h of audio in {took_s / 60:.1f} min: {audio_s / took_s:.1f}x real time, "
            f"{waited_s / took_s:.1%} of it waiting for data"
        )

    def _backward(self, batch: Any, number: int | None, n_labels: float) -> tuple[float, float, int]:
        """Add a micro batch's gradient; returns its loss, blank ratio and clips of infinite loss.

        number: of the micro batch, from which its masks follow; None hides nothing.
        """
        batch, step, config = batch.to(self.device), self.position.step, self.config
        rng = None
        if number is not None and step >= config.mask_from:
            rng = np.random.default_rng((config.seed, 1, step, number, self.rank))
        dtype = torch.float16 if config.fp16 else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=config.bf16 or config.fp16):
            logits, frames = self.network.compute_logits(self.model, batch, config, rng)
        total, infinite = compute_ctc(logits, frames, batch.labels)
        self.backward(total / n_labels)
        return float(total.detach()) / n_labels, blank_ratio(logits, frames), infinite

    def _set_rates(self) -> None:
        step, config = self.position.step, self.config
        factor = self.position.rate * rise(step, config.warmup_steps) * cosine(self.progress(), 0.03)
        for number, group in enumerate(self.optimizer.param_groups):
            frozen = number == 0 and step < config.freeze_encoder_steps
            group["lr"] = 0.0 if frozen else group["base"] * factor

    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by minutes, whichever ends it first."""
        config = self.config
        total = config.max_steps or config.epochs * max(1, len(self.sampler.epoch(0)) // config.accumulate)
        passed = self.position.minutes / config.max_minutes if config.max_minutes > 0 else 0.0
        return min(1.0, max(self.position.step / total, passed))

    def is_over(self, epoch: int) -> bool:
        """See Trainable."""
        config = self.config
        out_of_time = 0.0 < config.max_minutes <= self.position.minutes
        if self.log.rows and float(self.log.rows[-1]["cer"]) <= self.enough_cer:
            return True
        return epoch >= config.epochs or out_of_time or 0 < config.max_steps <= self.position.step

    def _is_due(self) -> bool:
        if self.config.eval_every:
            return self.position.step % self.config.eval_every == 0
        epoch, batch = self.position.epoch, self.position.batch
        return batch + self.config.accumulate > len(self.sampler.epoch(epoch))

    def evaluate_and_log(self, epoch: int) -> None:
        """Evaluate, and add a row to the table."""
        recent, self._recent = [report for report in self._recent if not report.skipped], []
        if not recent or self.rank:
            return
        found = evaluate_ctc(
            self.network, self.model, self.eval_samples or self.train_samples[:32], self.vocabulary,
            self.config.batch_s, self.device,
        )  # fmt: skip
        rates = found.rates
        weights = [report.took_s + 1e-9 for report in recent]
        mean = lambda name: float(np.mean([getattr(report, name) for report in recent]))  # noqa: E731
        share = lambda name: float(  # noqa: E731
            np.average([getattr(report, name) for report in recent], weights=weights)
        )
        self.log.add({
            "epoch": float(epoch), "step": self.position.step, "train_loss": mean("loss"),
            "eval_loss": found.loss,
            "wer": rates.wer, "cer": rates.cer, "blank_ratio": found.blank_ratio,
            "grad_norm": mean("grad_norm"),
            "audio_per_s": share("audio_per_s"), "wait_share": share("wait_share"),
        })  # fmt: skip
        LOGGER.info("\n%s", self.log.render())


def import_adamw8bit() -> Any:
    """Return bitsandbytes' AdamW with 8-bit states.

    Raises:
        RuntimeError: bitsandbytes is not installed; the message says how to.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise RuntimeError("optimizer_8bit needs bitsandbytes: pip install bitsandbytes") from error
    return AdamW8bit


def describe_model(model: Any) -> str:
    """The kind and size of the trained encoder, as text."""
    config = plain_model(model).config
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    if isinstance(config, ConformerConfig):
        return f"Conformer, {config.n_layers} layers of {config.hidden_size}, {millions:.1f}M parameters"
    layers = f"{config.num_hidden_layers} layers of {config.hidden_size}"
    return f"Wav2Vec2, {layers}, {config.feat_extract_norm} norm, {millions:.1f}M parameters"
