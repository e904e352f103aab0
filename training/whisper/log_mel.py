"""The log-mel form of training from Whisper: upper layers and a head, on stored states of the lower ones."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.text import NORMALIZER, VOCABULARY, WORD_DELIMITER
from training.asr.doctor import min_frames
from training.asr.log_mel_ctc import LogMelCtc, save_checkpoint
from training.asr.model import compute_ctc
from training.common.augment import mask_spans
from training.common.checkpoint import LastCheckpoints, State, replace_folder
from training.common.data import BucketSampler, Sample, load_waveform
from training.common.finite import find_nonfinite
from training.common.loop import TrainingLoop
from training.common.mel import compute_log_mel
from training.common.metrics import collapse, compute_spoken_error_rates
from training.common.ranks import Ranks
from training.common.schedule import cosine, rise
from training.common.trainable import Figures, Limits
from training.common.watchdog import StepReport, Watchdog
from training.whisper.average import SlowWeights
from training.whisper.states import SPARE_FRAMES, Clip
from training.whisper.weights import load_whisper_encoder

LOGGER = logging.getLogger("training.whisper.command")
WARMUP = 100  # steps
IDENTITY = ("seed", "batch_s", "n_frozen", "passes", "head")
CONDITIONS = ("learning_rate", "head_learning_rate", "pull", "join", "dropout", "mask", "bf16")


class WhisperTrainer(TrainingLoop):
    """Trains the layers above the frozen ones, and the head, on stored states."""

    def __init__(
        self,
        options: argparse.Namespace,
        model: LogMelCtc,
        clips: Sequence[Clip],
        evaluation: Sequence[Sample],
    ) -> None:
        self.options, self.clips = options, clips
        device = next(model.parameters()).device
        groups = self._choose_trained(model)
        upper = groups[0]["params"]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        super().__init__(
            model, [optimizer], LastCheckpoints(Path(options.output_dir) / "state.pt"),
            Watchdog(warmup=WARMUP), Ranks(device),
        )  # fmt: skip
        self.slow = SlowWeights(model, upper, self._load_anchors(model), options.pull, 0.99)
        self.references = [sample.text for sample in evaluation]
        self.features = [self._features(sample) for sample in evaluation]
        durations = [len(clip.states) / 50.0 for clip in clips]
        self.sampler = BucketSampler(durations, options.batch_s, options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.best_cer = math.inf
        self._losses: list[float] = []

    def _choose_trained(self, model: LogMelCtc) -> list[dict[str, Any]]:
        """Parameter groups: upper layers, head; the rest is frozen."""
        for parameter in model.parameters():
            parameter.requires_grad = False
        upper = [*model.layers[self.options.n_frozen :], model.layer_norm]
        rates = (self.options.learning_rate, self.options.head_learning_rate)
        groups = []
        for modules, rate in zip((upper, [model.head]), rates, strict=True):
            parameters = [parameter for module in modules for parameter in module.parameters()]
            groups.append({"params": [p.requires_grad_() for p in parameters], "lr": rate, "base": rate})
        return groups

    def _load_anchors(self, model: LogMelCtc) -> list[Tensor]:
        whisper = LogMelCtc(dataclasses.replace(model.config, head="lstm"))
        load_whisper_encoder(whisper, self.options.whisper)
        upper = [*whisper.layers[self.options.n_frozen :], whisper.layer_norm]
        return [p.detach().to(self.device) for module in upper for p in module.parameters()]

    def _features(self, sample: Sample) -> tuple[Tensor, int]:
        waveform = torch.from_numpy(load_waveform(sample))
        tail = int(self.options.tail_silence_s * 16_000) + (-waveform.numel()) % 320
        features = compute_log_mel(functional.pad(waveform, (0, tail)), self.model.config.n_mels)
        return features.to(self.device), waveform.numel() // 320

    @property
    def limits(self) -> Limits:
        """See Trainable."""
        options = self.options
        return Limits(options.steps, options.max_minutes, save_minutes=options.save_minutes)

    def groups(self) -> Iterator[tuple[int, int, list[int]]]:
        """See Trainable: indices of clips of similar length."""
        return self.sampler.batches_from(self.position.epoch, self.position.batch)

    def _set_rates(self) -> None:
        factor = self.position.rate * rise(self.position.step, WARMUP) * cosine(self.progress(), 0.03)
        for group in self.optimizers[0].param_groups:
            group["lr"] = group["base"] * factor

    def compute(self, data: Sequence[int]) -> Figures:
        """See Trainable; all random choices depend on (seed, step) only."""
        self.rng = np.random.default_rng((self.options.seed, self.position.step))
        chosen = [self.clips[index] for index in data if name_clip(index) not in self.excluded]
        clips = self._join(chosen)
        n_labels = max(sum(len(clip.labels) for clip in clips), 1)
        found = [self._backward(group, n_labels) for group in group_by_length(clips)]
        frames = sum(len(clip.states) for clip in clips)
        return Figures(
            sum(loss for loss, _ in found), n_infinite=sum(count for _, count in found), audio_s=frames / 50.0
        )

    def after_update(self) -> None:
        """See Trainable."""
        self.slow.update(self.position.step)

    def after_step(self, report: StepReport) -> None:
        """See Trainable."""
        self._losses += [] if report.skipped else [report.loss]
        if report.step % self.options.eval_every == 0:
            self._evaluate(report.step)

    def find_bad(self, data: Sequence[int]) -> list[str]:
        """See Trainable: each clip separately."""
        names = []
        for index in data:
            for parameter in self.trained():
                parameter.grad = None
            loss, _ = self._backward([self.clips[index]], 1)
            gradients = [("", p.grad) for p in self.trained() if p.grad is not None]
            if not math.isfinite(loss) or find_nonfinite(gradients):
                names.append(name_clip(index))
        return names

    def extra_state(self) -> State:
        """See Trainable."""
        return {"average": self.slow.average.state_dict(), "best_cer": self.best_cer}

    def load_extra(self, state: State) -> None:
        """See Trainable."""
        self.slow.average.load_state_dict(state["average"])
        self.best_cer = state["best_cer"]

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        found = {name: getattr(self.options, name) for name in IDENTITY}
        return {**found, "the number of clips": len(self.clips)}

    def conditions(self) -> dict[str, Any]:
        """See Trainable."""
        found = {name: getattr(self.options, name) for name in CONDITIONS}
        return {**found, "the text normaliser": NORMALIZER}

    def finish(self) -> None:
        """See Trainable; output_dir/best is the checkpoint with the lowest CER on the evaluation set."""
        if self._losses:
            self._evaluate(self.position.step)

    def _backward(self, clips: Sequence[Clip], n_labels: int) -> tuple[float, int]:
        """Add the gradient of some of a step's clips, over the labels of the whole step."""
        states = self._pad(clips).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            logits = self.model.classify(self.model.run_layers(states, self.options.n_frozen))
        frames = torch.tensor([len(clip.states) for clip in clips])
        total, infinite = compute_ctc(logits, frames, [clip.labels for clip in clips])
        self.backward(total / n_labels)
        return float(total.detach()) / n_labels, infinite

    def _join(self, clips: Sequence[Clip]) -> list[Clip]:
        """Join some clips with a pause between, since speech continues after a sentence."""
        joined: list[Clip] = []
        for place in self.rng.permutation(len(clips)):
            clip = clips[place]
            room = len(joined[-1].states) + len(clip.states) < 1000 if joined else False
            if room and self.rng.random() < self.options.join:
                first = joined.pop()
                pause = first.states[-8:].repeat(int(self.rng.integers(0, 4)), 1)
                end = max(
                    len(first.states) - int(self.rng.integers(1, SPARE_FRAMES)), min_frames(first.labels) + 1
                )
                labels = [*first.labels, VOCABULARY.index(WORD_DELIMITER), *clip.labels]
                clip = Clip(torch.cat([first.states[:end], pause, clip.states]), labels)
            joined.append(clip)
        return joined

    def _pad(self, clips: Sequence[Clip]) -> Tensor:
        """Stack states, float32 [batch, n_frames, hidden], spans masked, ends filled with the tail's mean."""
        longest = max(len(clip.states) for clip in clips)
        rows = []
        for clip in clips:
            states = clip.states.float()
            filling = states[-10:].mean(0).expand(longest - len(states), -1)
            hidden = torch.from_numpy(mask_spans(len(states), self.options.mask, 10, self.rng))
            states = torch.where(hidden[:, None], states.mean(0) * float(self.rng.random() < 0.5), states)
            rows.append(torch.cat([states, filling]))
        return torch.stack(rows)

    @torch.inference_mode()
    def _evaluate(self, step: int) -> None:
        loss = float(np.mean(self._losses)) if self._losses else math.nan
        self._losses = []
        hypotheses, average = [], self.slow.average
        for features, n_frames in self.features:
            best = average(features[None])[0, :n_frames].argmax(-1)
            hypotheses.append(collapse(best.tolist(), VOCABULARY))
        rates = compute_spoken_error_rates(self.references, hypotheses)
        LOGGER.info(
            "step %d: loss %.3f, real speech: CER %.2f %%, WER %.2f %%", step, loss, rates.cer, rates.wer
        )
        figures: dict[str, Any] = {"step": step, "loss": loss, "cer": rates.cer, "wer": rates.wer}
        with (self.options.output_dir / "evaluations.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
        if rates.cer < self.best_cer and not find_nonfinite(average.named_parameters()):
            self.best_cer = rates.cer
            kept = copy.deepcopy(average)
            with torch.no_grad():
                kept.head.output.bias[kept.config.blank_id] -= self.options.blank_bias
            folder = Path(self.options.output_dir) / "best"
            replace_folder(folder, lambda part: save_checkpoint(kept, part, figures))


def name_clip(index: int) -> str:
    """The name of a clip of the stored states in messages and checkpoints."""
    return f"clip {index} of the states"


def group_by_length(clips: Sequence[Clip], max_padding: float = 1.15) -> list[list[Clip]]:
    """Split clips into groups whose padded length is at most `max_padding` times their length.

    Joined clips are up to three times as long as their neighbours in a batch, which would all be padded.
    """
    groups: list[list[Clip]] = []
    n_frames = 0
    for clip in sorted(clips, key=lambda clip: len(clip.states)):
        size = len(clip.states)
        if groups and size * (len(groups[-1]) + 1) <= max_padding * (n_frames + size):
            groups[-1].append(clip)
            n_frames += size
        else:
            groups.append([clip])
            n_frames = size
    return groups
