"""`engine-train from-whisper`: a CTC recogniser on Whisper's encoder, from speech that no person spoke.

Two forms: the log-mel form, here, and the Wav2Vec2 form, in distil.py. In the log-mel form the lower
layers stay as Whisper left them and run once per clip; the upper layers and a new head are trained on
their states. Real speech, never trained on, says which checkpoint is kept.
"""

from __future__ import annotations

import argparse
import copy
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
from torch.nn import functional

from engine.text import VOCABULARY, WORD_DELIMITER, normalize_text
from training.asr.doctor import min_frames
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig, load_checkpoint, save_checkpoint
from training.asr.model import compute_ctc
from training.asr.trainer import choose_device
from training.common.augment import AugmentConfig, Augmenter, mask_spans
from training.common.data import (
    BucketSampler,
    ManifestError,
    Sample,
    build_vocabulary,
    load_waveform,
    read_manifest,
)
from training.common.mel import compute_log_mel
from training.common.metrics import collapse, compute_error_rates
from training.whisper import train as two_pass
from training.whisper.states import SPARE_FRAMES, Clip, StatesConfig, read_shard, write_shards
from training.whisper.weights import WeightsError, load_whisper_encoder, set_sinks, whisper_sizes

LOGGER = logging.getLogger("training.whisper.command")
SLOW_EVERY = 4  # steps between two passes over all weights for what changes slowly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `engine-train from-whisper`."""
    parser.add_argument(
        "--whisper", type=Path, required=True,
        help="folder of Whisper: CTranslate2's (float16 or float32) or transformers'",
    )  # fmt: skip
    parser.add_argument(
        "--form", choices=("two-pass", "log-mel", "wav2vec2"), default="log-mel",
        help="two-pass: encoder, CTC head and attention decoder, for short windows. log-mel: Whisper's stem "
        "and positions, a CTC head. wav2vec2: a Wav2Vec2ForCTC whose front end "
        "and positions are distilled from Whisper without labels, to go on with in `engine-train asr`",
    )  # fmt: skip
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument(
        "--eval", type=Path, help="manifest of REAL speech: chooses, is never trained on (log-mel: required)"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="go on from this LogMelCTC checkpoint")
    parser.add_argument("--n_frozen", type=int, default=4, help="layers that stay as they are")
    parser.add_argument("--passes", type=int, default=1, help="how often every clip is bent anew")
    parser.add_argument("--noise_dir", type=Path)
    parser.add_argument("--n_sinks", type=int, default=23)
    parser.add_argument("--tail_silence_s", type=float, default=0.5)
    parser.add_argument("--head", choices=("lstm", "transformer"), default="lstm")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--max_minutes", type=float, default=math.inf)
    parser.add_argument("--batch_s", type=float, default=30.0, help="seconds of speech a step")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="for the upper layers")
    parser.add_argument("--head_learning_rate", type=float, default=8e-4)
    parser.add_argument(
        "--pull", type=float, default=1e-3, help="share of the way back to Whisper at each step"
    )
    parser.add_argument(
        "--blank_bias", type=float, default=0.0, help="taken from the blank's logit in the end"
    )
    parser.add_argument("--join", type=float, default=0.3, help="share of clips put behind another")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--mask", type=float, default=0.08, help="fraction of states hidden")
    parser.add_argument("--eval_every", type=int, default=100)
    parser.add_argument("--stem_steps", type=int, default=1000, help="wav2vec2: steps for the front end")
    parser.add_argument(
        "--position_steps", type=int, default=4000, help="wav2vec2: steps in which Whisper's positions fade"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16, CTC in float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    two_pass.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.form == "log-mel" and options.eval is None:
        LOGGER.error("--eval is missing: the log-mel form needs real speech to choose a checkpoint by")
        return 2
    try:
        if options.form == "two-pass":
            return two_pass.run(options)
        if options.form == "wav2vec2":
            from training.whisper.wav2vec2_distillation import run_distillation

            return run_distillation(options, build_encoder(options))
        samples = [sample for source in options.train for sample in read_manifest(source)]
        evaluation = read_manifest(options.eval)
        model = build_model(options, samples)
    except (ManifestError, WeightsError) as error:
        LOGGER.error("%s", error)
        return 2
    vocabulary = build_vocabulary([])
    augmenter = Augmenter(
        AugmentConfig(noise_dir=options.noise_dir, speed=0.3, snr_db=(6.0, 38.0), noise=0.45)
    )
    states = StatesConfig(options.n_frozen)
    shards = []
    for number in range(options.passes):
        folder = options.output_dir / "states"
        shards += write_shards(model, samples, vocabulary, augmenter, states, folder, options.seed + number)
    clips = [clip for shard in shards for clip in read_shard(shard)]
    WhisperTrainer(options, model, clips, evaluation).run()
    return 0


def build_model(options: argparse.Namespace, samples: Sequence[Sample]) -> LogMelCtc:
    """Return a checkpoint's model, or Whisper's encoder with sinks and a head from random weights."""
    if options.init:
        return load_checkpoint(options.init, options.dropout).to(choose_device(options.device))
    return build_encoder(options, samples)


def build_encoder(options: argparse.Namespace, samples: Sequence[Sample] | None = None) -> LogMelCtc:
    """Return Whisper's encoder with sinks and a head from random weights, on the device asked for."""
    sizes = {"n_sinks": options.n_sinks, "tail_silence_s": options.tail_silence_s, "head": options.head}
    model = LogMelCtc(LogMelCtcConfig(**whisper_sizes(options.whisper), **sizes), options.dropout)
    load_whisper_encoder(model, options.whisper)
    if options.n_sinks:
        samples = samples or [sample for source in options.train for sample in read_manifest(source)]
        waveforms = (torch.from_numpy(load_waveform(sample.path)) for sample in samples[:30])
        set_sinks(model, [waveform for waveform in waveforms if waveform.numel() < 110_000][:12])
    return model.to(choose_device(options.device))


class WhisperTrainer:
    """Trains the layers above the frozen ones, and the head, on stored states."""

    def __init__(
        self,
        options: argparse.Namespace,
        model: LogMelCtc,
        clips: Sequence[Clip],
        evaluation: Sequence[Sample],
    ) -> None:
        self.options, self.model, self.clips = options, model, clips
        self.device = next(model.parameters()).device
        self.references = [normalize_text(sample.text) for sample in evaluation]
        self.features = [self._features(sample) for sample in evaluation]
        for parameter in model.parameters():
            parameter.requires_grad = False
        upper = [*model.layers[options.n_frozen :], model.layer_norm]
        groups = []
        for modules, rate in ((upper, options.learning_rate), ([model.head], options.head_learning_rate)):
            parameters = [parameter for module in modules for parameter in module.parameters()]
            groups.append({"params": [p.requires_grad_() for p in parameters], "lr": rate, "base": rate})
        whisper = LogMelCtc(dataclasses.replace(model.config, head="lstm"))
        load_whisper_encoder(whisper, options.whisper)
        upper = [*whisper.layers[options.n_frozen :], whisper.layer_norm]
        self.anchors = [p.detach().to(self.device) for module in upper for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.average = copy.deepcopy(model).eval()
        self.rng = np.random.default_rng(options.seed)
        self.best_cer = math.inf

    def _features(self, sample: Sample) -> tuple[Tensor, int]:
        waveform = torch.from_numpy(load_waveform(sample.path))
        tail = int(self.options.tail_silence_s * 16_000) + (-waveform.numel()) % 320
        features = compute_log_mel(functional.pad(waveform, (0, tail)))
        return features.to(self.device), waveform.numel() // 320

    def run(self) -> None:
        """Train; output_dir/best holds the checkpoint with the lowest CER on the evaluation set."""
        began, losses = time.monotonic(), []
        for step, indices in enumerate(self._batches(), 1):
            passed = (time.monotonic() - began) / 60.0 / self.options.max_minutes
            progress = min(1.0, max(step / self.options.steps, passed))
            self._set_rates(step, progress)
            losses.append(self._step(self._join([self.clips[index] for index in indices]), step))
            if step % self.options.eval_every == 0 or progress >= 1.0:
                self._evaluate(step, float(np.mean(losses)))
                losses = []
            if progress >= 1.0:
                break

    def _batches(self) -> Iterator[list[int]]:
        durations = [len(clip.states) / 50.0 for clip in self.clips]
        sampler = BucketSampler(durations, self.options.batch_s, self.options.seed)
        return (indices for _, _, indices in sampler.batches_from(0, 0))

    def _set_rates(self, step: int, progress: float) -> None:
        factor = min(1.0, step / 100) * (0.03 + 0.97 * 0.5 * (1.0 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor

    def _step(self, clips: Sequence[Clip], step: int) -> float:
        self.model.train()
        n_labels = sum(len(clip.labels) for clip in clips)
        loss = sum(self._backward(group, n_labels) for group in group_by_length(clips))
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if step % SLOW_EVERY == 0:
            self._pull_and_average(step)
        return loss

    @torch.no_grad()
    def _pull_and_average(self, step: int) -> None:
        """Do SLOW_EVERY steps' worth of pulling back to Whisper and of averaging at once."""
        keep = min(0.99, step / (step + 20)) ** SLOW_EVERY
        pull = 1.0 - (1.0 - self.options.pull) ** SLOW_EVERY
        trained = self.optimizer.param_groups[0]["params"]
        for anchor, parameter in zip(self.anchors, trained, strict=True):
            parameter.lerp_(anchor, pull)
        for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            if parameter.requires_grad:
                mean.lerp_(parameter, 1.0 - keep)

    def _backward(self, clips: Sequence[Clip], n_labels: int) -> float:
        """Add the gradient of some of a step's clips, over the labels of the whole step."""
        states = self._pad(clips).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            logits = self.model.classify(self.model.run_layers(states, self.options.n_frozen))
        frames = torch.tensor([len(clip.states) for clip in clips])
        total, _ = compute_ctc(logits, frames, [clip.labels for clip in clips])
        (total / n_labels).backward()
        return float(total.detach()) / n_labels

    def _join(self, clips: Sequence[Clip]) -> list[Clip]:
        """Put some clips behind others with a pause between, since speech goes on after a sentence."""
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
    def _evaluate(self, step: int, loss: float) -> None:
        hypotheses = []
        for features, n_frames in self.features:
            best = self.average(features[None])[0, :n_frames].argmax(-1)
            hypotheses.append(collapse(best.tolist(), VOCABULARY))
        rates = compute_error_rates(self.references, hypotheses)
        LOGGER.info(
            "step %d: loss %.3f, real speech: CER %.2f %%, WER %.2f %%", step, loss, rates.cer, rates.wer
        )
        figures: dict[str, Any] = {"step": step, "loss": loss, "cer": rates.cer, "wer": rates.wer}
        with (self.options.output_dir / "evaluations.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
        if rates.cer < self.best_cer:
            self.best_cer = rates.cer
            kept = copy.deepcopy(self.average)
            with torch.no_grad():
                head: Any = kept.head
                head.output.bias[kept.config.blank_id] -= self.options.blank_bias
            save_checkpoint(kept, self.options.output_dir / "best", figures)


def group_by_length(clips: Sequence[Clip], max_padding: float = 1.15) -> list[list[Clip]]:
    """Part clips so that none of the groups is more than `max_padding` times as long padded as it is.

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
