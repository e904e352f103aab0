"""`engine-train from-whisper --form wav2vec2`: a Wav2Vec2's front end and positions, learned from Whisper."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.asr.log_mel_ctc import LogMelCtc
from training.asr.model import save_pretrained
from training.asr.trainer import choose_device
from training.common.data import (
    BucketSampler,
    Sample,
    build_vocabulary,
    load_waveform,
    probe_samples,
    read_manifest,
)
from training.whisper.wav2vec2 import Teacher, build_wav2vec2, compute_stem, distil_step

LOGGER = logging.getLogger("training.whisper.command")


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """How long and how fast.

    Attributes:
        stem_steps: steps in which the front end alone learns Whisper's stem.
        position_steps: steps in which Whisper's positions fade out, every weight learning.
        batch_s: seconds of audio a step.
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


class Distiller:
    """Trains a student on waveforms alone; texts are not looked at."""

    def __init__(
        self, config: DistilConfig, whisper: LogMelCtc, samples: Sequence[Sample], device: torch.device
    ) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        self.student = build_wav2vec2(whisper).to(device)
        self.teacher = Teacher.of(whisper.to(device))
        self.samples = [s for s in probe_samples(samples) if not s.problem and 0.5 <= s.duration_s <= 28.0]
        if not self.samples:
            raise ValueError("no clip of 0.5 to 28 s to learn from: check the manifest's paths")
        self.history: list[dict[str, float]] = []

    def run(self) -> Any:
        """Train; returns the student."""
        began, config = time.monotonic(), self.config
        batches, optimizer = self._batches(), self._build_optimizer()
        n_steps, recent = config.stem_steps + config.position_steps, []
        for step in range(n_steps):
            if time.monotonic() - began > 60.0 * config.max_minutes:
                LOGGER.warning("out of time at step %d of %d: positions have not faded whole", step, n_steps)
                break
            waveforms = self._read(next(batches)).to(self.device)
            self._set_rates(optimizer, step)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
                loss = distil_step(self.student, self.teacher, waveforms, self.fade(step))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent.append(float(loss.detach()))
            if (step + 1) % config.log_every == 0 or step + 1 == n_steps:
                self._log(step + 1, recent)
                recent = []
        return self.student

    def fade(self, step: int) -> float | None:
        """Return the share of Whisper's positions at a step; None while only the stem learns."""
        if step < self.config.stem_steps:
            return None
        passed = (step + 1 - self.config.stem_steps) / max(self.config.position_steps, 1)
        return max(0.0, 1.0 - passed / 0.8)  # the last fifth runs without them

    def _build_optimizer(self) -> torch.optim.Optimizer:
        network = self.student.wav2vec2
        front = [*network.feature_extractor.parameters(), *network.feature_projection.parameters()]
        groups = [
            {"params": front, "base": self.config.learning_rate},
            {"params": list(network.encoder.parameters()), "base": self.config.encoder_rate},
        ]
        for group in groups:
            group["lr"] = group["base"]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def _set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        stem, total = self.config.stem_steps, self.config.stem_steps + self.config.position_steps
        first, length = (0, stem) if step < stem else (stem, total - stem)
        progress = (step - first) / max(length, 1)
        factor = min(1.0, (step - first + 1) / 50) * (
            0.03 + 0.97 * 0.5 * (1.0 + math.cos(math.pi * progress))
        )
        scales = (factor, 0.0) if step < stem else (0.25 * factor, factor)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = group["base"] * scale

    def _batches(self) -> Iterator[list[int]]:
        durations = [sample.duration_s for sample in self.samples]
        sampler = BucketSampler(durations, self.config.batch_s, self.config.seed)
        return (indices for _, _, indices in sampler.batches_from(0, 0))

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
    distiller = Distiller(config, whisper, samples, choose_device(options.device))
    student = distiller.run().eval()
    figures: dict[str, Any] = {"history": distiller.history}
    if options.eval:
        figures["relative_error"] = distiller.measure(read_manifest(options.eval)[:50])
        LOGGER.info("relative error on %s: %s", options.eval, figures["relative_error"])
    folder: Path = options.output_dir / "model"
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(student.cpu(), build_vocabulary([]), folder)
    (options.output_dir / "distillation.json").write_text(
        json.dumps(figures, indent=1) + "\n", encoding="utf-8"
    )
    LOGGER.info("%s: go on with `engine-train asr`, model: %s", folder, folder)
    return 0
