"""`engine-train from-whisper --form wav2vec2`: a Wav2Vec2's front end and positions, learned from Whisper."""

from __future__ import annotations

import argparse
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

from training.asr.log_mel_ctc import LogMelCtc
from training.asr.model import save_pretrained
from training.common.checkpoint import LastCheckpoints, State, replace_folder
from training.common.data import (
    BucketSampler,
    Sample,
    build_vocabulary,
    load_waveform,
    probe_samples,
    read_manifest,
)
from training.common.loop import TrainingLoop
from training.common.ranks import Ranks, choose_device
from training.common.schedule import cosine, rise
from training.common.trainable import Figures, Limits
from training.common.watchdog import StepReport, Watchdog
from training.whisper.wav2vec2 import Teacher, build_wav2vec2, compute_stem, distil_step

LOGGER = logging.getLogger("training.whisper.command")
WARMUP = 50  # steps of each stage
SAVE_MINUTES = 5.0


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """How long and how fast.

    Attributes:
        stem_steps: steps in which the front end alone learns Whisper's stem.
        position_steps: steps in which Whisper's positions fade out, every weight learning.
        batch_s: seconds of audio per step.
        learning_rate: of the front end; encoder_rate: of the layers while positions fade.
    """

    stem_steps: int = 1000
    position_steps: int = 4000
    batch_s: float = 30.0
    learning_rate: float = 2e-3
    encoder_rate: float = 1e-4
    max_minutes: float = math.inf
    bf16: bool = False
    log_every: int = 50
    seed: int = 0


class Distiller(TrainingLoop):
    """Trains a student on waveforms only, without texts.

    Args:
        path: where the state is saved, to resume from; None saves none.
    """

    def __init__(
        self, config: DistilConfig, whisper: LogMelCtc, samples: Sequence[Sample], device: torch.device,
        path: Path | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        torch.manual_seed(config.seed)
        self.student = build_wav2vec2(whisper).to(device)
        self.teacher = Teacher.of(whisper.to(device))
        self.samples = [s for s in probe_samples(samples) if not s.problem and 0.5 <= s.duration_s <= 28.0]
        if not self.samples:
            raise ValueError("no clip of 0.5 to 28 s to learn from: check the manifest's paths")
        durations = [sample.duration_s for sample in self.samples]
        self.sampler = BucketSampler(durations, config.batch_s, config.seed)
        super().__init__(
            self.student, [self._build_optimizer(self.student)], LastCheckpoints(path) if path else None,
            Watchdog(warmup=WARMUP, zero=0.0), Ranks(device),
        )  # fmt: skip
        self.history: list[dict[str, float]] = []
        self._losses: list[float] = []

    @property
    def limits(self) -> Limits:
        """See Trainable."""
        config = self.config
        n_steps = config.stem_steps + config.position_steps
        return Limits(n_steps, config.max_minutes, save_minutes=SAVE_MINUTES)

    def groups(self) -> Iterator[tuple[int, int, list[int]]]:
        """See Trainable."""
        return self.sampler.batches_from(self.position.epoch, self.position.batch)

    def compute(self, data: Sequence[int]) -> Figures:
        """See Trainable."""
        kept = [index for index in data if str(self.samples[index].path) not in self.excluded]
        if not kept:
            return Figures(0.0)
        waveforms = self._read(kept).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            loss = distil_step(self.student, self.teacher, waveforms, self.fade(self.position.step))
        self.backward(loss)
        return Figures(float(loss.detach()))

    def find_bad(self, data: Sequence[int]) -> list[str]:
        """See Trainable."""
        return [
            str(self.samples[index].path) for index in data if not math.isfinite(self.compute([index]).loss)
        ]

    def after_step(self, report: StepReport) -> None:
        """See Trainable."""
        self._losses += [] if report.skipped else [report.loss]
        if self._losses and (report.step % self.config.log_every == 0 or self.progress() >= 1.0):
            self._log(report.step, self._losses)
            self._losses = []

    def extra_state(self) -> State:
        """See Trainable."""
        return {"history": self.history}

    def load_extra(self, state: State) -> None:
        """See Trainable."""
        self.history = list(state["history"])

    def identity(self) -> dict[str, Any]:
        """See Trainable."""
        config = self.config
        return {
            "seed": config.seed, "batch_s": config.batch_s, "stem_steps": config.stem_steps,
            "position_steps": config.position_steps, "the number of clips": len(self.samples),
        }  # fmt: skip

    def finish(self) -> None:
        """See Trainable."""
        step, n_steps = self.position.step, self.limits.max_steps
        if step < n_steps:
            LOGGER.warning("out of time at step %d of %d: positions have not faded completely", step, n_steps)

    def fade(self, step: int) -> float | None:
        """Return the share of Whisper's positions at a step; None while only the stem learns."""
        if step < self.config.stem_steps:
            return None
        passed = (step + 1 - self.config.stem_steps) / max(self.config.position_steps, 1)
        return max(0.0, 1.0 - passed / 0.8)  # the last fifth runs without them

    def _build_optimizer(self, student: Any) -> torch.optim.Optimizer:
        network = student.wav2vec2
        front = [*network.feature_extractor.parameters(), *network.feature_projection.parameters()]
        groups = [
            {"params": front, "base": self.config.learning_rate},
            {"params": list(network.encoder.parameters()), "base": self.config.encoder_rate},
        ]
        for group in groups:
            group["lr"] = group["base"]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def _set_rates(self) -> None:
        step = self.position.step
        stem, total = self.config.stem_steps, self.config.stem_steps + self.config.position_steps
        first, length = (0, stem) if step < stem else (stem, total - stem)
        progress = (step - first) / max(length, 1)
        factor = self.position.rate * rise(step - first, WARMUP) * cosine(progress, 0.03)
        scales = (factor, 0.0) if step < stem else (0.25 * factor, factor)
        for group, scale in zip(self.optimizers[0].param_groups, scales, strict=True):
            group["lr"] = group["base"] * scale

    def _read(self, indices: Sequence[int]) -> Tensor:
        """Return clips cut to the shortest one's length and normalised, float32 [batch, n_samples]."""
        waveforms = [load_waveform(self.samples[index]) for index in indices]
        length = min(waveform.size for waveform in waveforms)
        stacked = np.stack([waveform[:length] for waveform in waveforms])
        stacked = stacked - stacked.mean(1, keepdims=True)
        return torch.from_numpy(stacked / np.sqrt(np.square(stacked).mean(1, keepdims=True) + 1e-7))

    def _log(self, step: int, losses: Sequence[float]) -> None:
        fade = self.fade(step - 1)
        figures = {"step": step, "loss": float(np.mean(losses)), "fade": -1.0 if fade is None else fade}
        self.history.append(figures)
        LOGGER.info("step %d: squared relative error %.4f, positions left %s", step, figures["loss"],
                    "all (stem only)" if fade is None else f"{fade:.0%}")  # fmt: skip

    @torch.no_grad()
    def measure(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return the relative errors of stem and of final states, without Whisper's positions."""
        stems, states = [], []
        for sample in samples:
            waveforms = self._read_one(sample).to(self.device)
            found = compute_stem(self.student, waveforms)
            stem, _, wanted = self.teacher(waveforms, found.shape[1])
            end = self.student.wav2vec2(waveforms).last_hidden_state
            stems.append(float((found - stem).norm() / stem.norm()))
            states.append(float((end - wanted).norm() / wanted.norm()))
        return {"stem": float(np.mean(stems)), "states": float(np.mean(states))}

    def _read_one(self, sample: Sample) -> Tensor:
        waveform = load_waveform(sample)
        centred = waveform - waveform.mean()
        return torch.from_numpy(centred / np.sqrt(np.square(centred).mean() + 1e-7))[None]


def run_distillation(options: argparse.Namespace, whisper: LogMelCtc) -> int:
    """Distil, measure on --eval and save output_dir/model for `engine-train asr`; returns the exit code."""
    samples = [sample for source in options.train for sample in read_manifest(source)]
    config = DistilConfig(
        options.stem_steps, options.position_steps, options.batch_s, max_minutes=options.max_minutes,
        bf16=options.bf16, seed=options.seed,
    )  # fmt: skip
    device, state = choose_device(options.device), options.output_dir / "state.pt"
    distiller = Distiller(config, whisper, samples, device, state)
    distiller.run()
    student = distiller.student.eval()
    figures: dict[str, Any] = {"history": distiller.history}
    if options.eval:
        figures["relative_error"] = distiller.measure(read_manifest(options.eval)[:50])
        LOGGER.info("relative error on %s: %s", options.eval, figures["relative_error"])
    folder: Path = options.output_dir / "model"
    student = student.cpu()
    replace_folder(folder, lambda part: save_pretrained(student, build_vocabulary([]), part))
    (options.output_dir / "distillation.json").write_text(
        json.dumps(figures, indent=1) + "\n", encoding="utf-8"
    )
    LOGGER.info("%s: continue with `engine-train asr`, model: %s", folder, folder)
    return 0
