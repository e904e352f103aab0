"""The training loop: steps that equal large batches, watched, saved, resumable to the step."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from training.asr.config import AsrConfig
from training.asr.conformer import ConformerConfig
from training.asr.loader import Loader
from training.asr.model import blank_ratio, compute_ctc, plain_model
from training.asr.networks import network_of
from training.common.data import Sample, encode_text, load_waveform, normalize_for
from training.common.metrics import RunLog, collapse, compute_error_rates
from training.common.watchdog import StepReport, Watchdog

LOGGER = logging.getLogger("training.asr.command")


class TrainingStopped(RuntimeError):
    """The watchdog ended the run; the message says what it saw and what to change."""


@dataclasses.dataclass
class Position:
    """Where a run stands: steps done, the next micro batch, a factor on all rates, minutes trained."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    rate: float = 1.0
    minutes: float = 0.0


class AsrTrainer:
    """Trains one CTC model on good samples."""

    def __init__(
        self,
        config: AsrConfig,
        model: Any,
        vocabulary: dict[str, int],
        train: Sequence[Sample],
        evaluation: Sequence[Sample],
    ) -> None:
        self.config, self.model, self.vocabulary = config, model, vocabulary
        self.train_samples, self.eval_samples = list(train), list(evaluation)
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = choose_device(config.device)
        self.model.to(self.device)
        if self.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self._share_weights()
        self.network = network_of(model)
        self.loader = Loader(config, self.network, vocabulary, train, self.rank, self.world)
        self.sampler = self.loader.sampler
        self.optimizer = self._build_optimizer()
        self.watchdog = Watchdog(patience=config.patience, warmup=config.watch_warmup)
        self.position = Position()
        self.enough_cer = -1.0  # per cent; an evaluation at or under it ends the run
        self.log = RunLog(config.output_dir)
        self._recent: list[StepReport] = []
        self._totals = {"audio_s": 0.0, "waited_s": 0.0, "took_s": 0.0}

    def _build_optimizer(self) -> torch.optim.Optimizer:
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
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

    def run(self) -> None:
        """Train to the end of the configuration; resumes by itself from output_dir's last checkpoint.

        Raises:
            TrainingStopped: the watchdog saw no way on.
        """
        self.resume()
        groups = self.loader.groups(self.position.epoch, self.position.batch)
        for epoch, last_batch, batches in groups:
            if self._is_over(epoch):
                break
            report = self.step(batches)
            self.position.epoch, self.position.batch = epoch, last_batch + 1
            if self._act_on(report):  # rolled back: the data goes on from the restored place
                groups.close()
                return self.run()
            if self._is_due(epoch, last_batch):
                self.evaluate_and_log(epoch)
            if self.position.step % self.config.save_every == 0:
                self.save()
        groups.close()
        self.evaluate_and_log(self.position.epoch)
        self.save()
        if self.rank == 0:
            self.network.save(self.model, self.vocabulary, self.config.output_dir / "model")
            self.log.draw()
        LOGGER.info("%s", self.describe_speed())
        return None

    def load(self, indices: Sequence[int], epoch: int) -> Any:
        """Read, augment and pad some clips; what is random follows from (seed, epoch, index) alone."""
        return self.loader.load(indices, epoch)

    def step(self, pending: Any) -> StepReport:
        """Take one optimiser step over a group of micro batches (or the future of one)."""
        began = time.monotonic()
        batches: list[Any] = pending.result() if hasattr(pending, "result") else pending
        waited = time.monotonic() - began
        self._set_rates()
        self.model.train()
        n_labels = self._sum_over_ranks(sum(len(label) for batch in batches for label in batch.labels))
        loss, blanks, infinite = 0.0, 0.0, 0
        for number, batch in enumerate(batches):
            batch_loss, batch_blanks, batch_infinite = self._backward(batch, number, n_labels)
            loss, blanks, infinite = loss + batch_loss, blanks + batch_blanks, infinite + batch_infinite
        self._sum_gradients()
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm))
        if math.isfinite(norm) and math.isfinite(loss):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.position.step += 1
        took = max(self._sum_over_ranks(time.monotonic() - began) / self.world, 1e-6)  # one clock for all
        self.position.minutes += took / 60.0
        audio_s = sum(batch.audio_s for batch in batches) * self.world
        n_batches = max(self._sum_over_ranks(len(batches)), 1.0)
        report = StepReport(  # what the watchdog may stop on is the same on all ranks
            self.position.step, self._sum_over_ranks(loss), norm, self._sum_over_ranks(blanks) / n_batches,
            infinite, audio_s / took, waited / took, took,
        )  # fmt: skip
        self._recent.append(report)
        for name, value in (("audio_s", audio_s), ("waited_s", waited), ("took_s", took)):
            self._totals[name] += value
        return report

    def describe_speed(self) -> str:
        """Say how much audio was trained on, how fast, and what share of the time went into waiting."""
        audio_s, waited_s, took_s = (self._totals[name] for name in ("audio_s", "waited_s", "took_s"))
        took_s = max(took_s, 1e-6)
        return (
            f"{audio_s / 3600:.2f} h of audio in {took_s / 60:.1f} min: {audio_s / took_s:.1f}x real time, "
            f"{waited_s / took_s:.1%} of it waiting for data"
        )

    def _backward(self, batch: Any, number: int, n_labels: float) -> tuple[float, float, int]:
        """Add one micro batch's gradient, over the labels of the whole step: the parts sum to the whole."""
        batch, step = batch.to(self.device), self.position.step
        seed = (self.config.seed, 1, step, number, self.rank)
        rng = np.random.default_rng(seed) if step >= self.config.mask_from else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            logits, frames = self.network.compute_logits(self.model, batch, self.config, rng)
        total, infinite = compute_ctc(logits, frames, batch.labels)
        (total / n_labels).backward()
        return float(total.detach()) / n_labels, blank_ratio(logits, frames), infinite

    def _set_rates(self) -> None:
        step, config = self.position.step, self.config
        rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
        fall = 0.515 + 0.485 * math.cos(math.pi * self._progress())
        factor = self.position.rate * rise * fall
        for number, group in enumerate(self.optimizer.param_groups):
            frozen = number == 0 and step < config.freeze_encoder_steps
            group["lr"] = 0.0 if frozen else group["base"] * factor

    def _progress(self) -> float:
        """Return how much of the run is done, 0 to 1, by steps or by minutes, whichever ends it first."""
        config = self.config
        total = config.max_steps or config.epochs * max(1, len(self.sampler.epoch(0)) // config.accumulate)
        passed = self.position.minutes / config.max_minutes if config.max_minutes > 0 else 0.0
        return min(1.0, max(self.position.step / total, passed))

    def _sum_over_ranks(self, value: float) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return float(tensor)

    def _share_weights(self) -> None:
        """Give all ranks rank 0's weights: a new head is drawn at random in each."""
        if self.world > 1:
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                torch.distributed.broadcast(tensor.data, 0)

    def _wait_for_ranks(self) -> None:
        if self.world > 1:
            torch.distributed.barrier()

    def _sum_gradients(self) -> None:
        if self.world > 1:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    torch.distributed.all_reduce(parameter.grad)

    def _is_over(self, epoch: int) -> bool:
        config = self.config
        out_of_time = 0.0 < config.max_minutes <= self.position.minutes
        if self.log.rows and float(self.log.rows[-1]["cer"]) <= self.enough_cer:
            return True
        return epoch >= config.epochs or out_of_time or 0 < config.max_steps <= self.position.step

    def _is_due(self, epoch: int, batch: int) -> bool:
        if self.config.eval_every:
            return self.position.step % self.config.eval_every == 0
        return batch + self.config.accumulate >= len(self.sampler.epoch(epoch))

    def _act_on(self, report: StepReport) -> bool:
        """Heed the watchdog; True where the state was rolled back."""
        finding = self.watchdog.check(report)
        if finding is None:
            return False
        LOGGER.warning("%s", finding.message)
        if finding.action == "stop":
            raise TrainingStopped(finding.message)
        if finding.action == "rollback":
            rate = self.position.rate * 0.5
            if not self.resume():
                raise TrainingStopped(f"{finding.message} There is no checkpoint yet to go back to.")
            self.position.rate = rate
            self._wait_for_ranks()  # all have read it before one writes it
            self.save()
            self._wait_for_ranks()
            return True
        return False

    def evaluate_and_log(self, epoch: int) -> None:
        """Evaluate, and add a row to the table."""
        recent, self._recent = self._recent, []
        if not recent or self.rank:
            return
        eval_loss, references, hypotheses, blanks = self.evaluate(
            self.eval_samples or self.train_samples[:32]
        )
        rates = compute_error_rates(references, hypotheses)
        weights = [report.took_s + 1e-9 for report in recent]
        mean = lambda name: float(np.mean([getattr(report, name) for report in recent]))  # noqa: E731
        share = lambda name: float(  # noqa: E731
            np.average([getattr(report, name) for report in recent], weights=weights)
        )
        self.log.add({
            "epoch": float(epoch), "step": self.position.step, "train_loss": mean("loss"),
            "eval_loss": eval_loss,
            "wer": rates.wer, "cer": rates.cer, "blank_ratio": blanks, "grad_norm": mean("grad_norm"),
            "audio_per_s": share("audio_per_s"), "wait_share": share("wait_share"),
        })  # fmt: skip
        LOGGER.info("\n%s", self.log.render())

    @torch.no_grad()
    def evaluate(self, samples: Sequence[Sample]) -> tuple[float, list[str], list[str], float]:
        """Return loss per label, references, greedy hypotheses and the blank ratio."""
        self.model.eval()
        loss, n_labels, blanks = 0.0, 0, []
        references, hypotheses = [], []
        symbols = sorted(self.vocabulary, key=lambda symbol: self.vocabulary[symbol])
        for sample in samples:
            labels = [encode_text(sample.text, self.vocabulary)]
            batch = self.network.make_batch([load_waveform(sample.path)], labels).to(self.device)
            logits, frames = self.network.compute_logits(self.model, batch)
            loss += float(compute_ctc(logits, frames, batch.labels)[0])
            n_labels += len(batch.labels[0])
            blanks.append(blank_ratio(logits, frames))
            references.append(normalize_for(sample.text, self.vocabulary))
            hypotheses.append(collapse(logits[0].argmax(-1).tolist(), symbols))
        return loss / max(n_labels, 1), references, hypotheses, float(np.mean(blanks))

    def save(self) -> None:
        """Write the whole state to output_dir/checkpoint, beside first: a kill leaves one whole."""
        if self.rank:
            return
        target, beside = self.config.output_dir / "checkpoint", self.config.output_dir / "checkpoint.part"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        try:
            torch.save(content, beside / "state.pt")
        except RuntimeError as error:  # torch's own writer has no OSError for a full disk
            raise OSError(f"{beside}: the checkpoint could not be written whole ({error})") from error
        (beside / "position.json").write_text(json.dumps(dataclasses.asdict(self.position)), encoding="utf-8")
        old = self.config.output_dir / "checkpoint.old"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        beside.replace(target)

    def resume(self) -> bool:
        """Load the last whole checkpoint; False where there is none."""
        folder = next((self.config.output_dir / n for n in ("checkpoint", "checkpoint.old")
                       if (self.config.output_dir / n / "position.json").exists()), None)  # fmt: skip
        if folder is None:
            return False
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**json.loads((folder / "position.json").read_text(encoding="utf-8")))
        LOGGER.info("resumed at step %d, epoch %d, batch %d", *dataclasses.astuple(self.position)[:3])
        return True


def choose_device(name: str) -> torch.device:
    """Return the torch device of a name; "auto" is this rank's GPU where there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


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
    """Say what kind of encoder is trained and how large it is."""
    config = plain_model(model).config
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    if isinstance(config, ConformerConfig):
        return f"Conformer, {config.n_layers} layers of {config.hidden_size}, {millions:.1f}M parameters"
    layers = f"{config.num_hidden_layers} layers of {config.hidden_size}"
    return f"Wav2Vec2, {layers}, {config.feat_extract_norm} norm, {millions:.1f}M parameters"
