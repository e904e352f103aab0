"""The configuration of `training asr`, read from YAML; unknown keys are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from training.common.config import (
    build_config,
    check_choice,
    check_not_negative,
    check_positive,
    check_share,
    raise_problems,
    read_tree,
)

POSITIVE = (
    "batch_s", "max_batch", "accumulate", "epochs", "mask_span", "save_every", "workers", "prefetch",
    "threads", "patience", "max_grad_norm", "loss_scale", "learning_rate", "head_learning_rate",
)  # fmt: skip
NOT_NEGATIVE = (
    "min_s", "max_steps", "max_minutes", "warmup_steps", "eval_every", "freeze_encoder_steps", "lora_rank",
    "mask_bands", "mask_from", "watch_warmup", "weight_decay", "sorted_epochs", "seed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AsrConfig:
    """One run of `training asr`.

    Attributes:
        model: hub name or folder of a wav2vec2 checkpoint; empty trains from random weights.
        scratch: keys of transformers' Wav2Vec2Config for a model from random weights.
        conformer: keys of conformer.ConformerConfig, and "dropout", for a log-mel model from random weights.
        train, eval: manifests or folders, see data.read_manifest.
        output_dir: checkpoints, logs and the finished model.
        german: spell in the runtime's German vocabulary; false: in every letter that the texts have.
        min_s, max_s: clips outside are left out (named in the doctor's report).
        on_bad_sample: "skip" leaves bad samples out, "stop" ends the run before it starts.
        listen: let the doctor read every waveform (silence, clipping), not only headers.
        batch_s: padded seconds of audio in a micro batch; max_batch: most clips in one.
        sorted_epochs: epochs that go from short clips to long ones.
        accumulate: micro batches per optimiser step; the gradient equals that of one large batch.
        epochs, max_steps: whichever ends first; max_steps 0 is no limit.
        learning_rate, head_learning_rate: for the encoder and the CTC head.
        warmup_steps: linear rise; then cosine decay to 3 %.
        freeze_front_end: keep the convolutional front end fixed.
        freeze_encoder_steps: first train only the head, for so many steps.
        gradient_checkpointing: recompute activations; a third slower, far less memory.
        bf16: run the network in bfloat16; CTC always runs in float32.
        fp16: float16 instead, for GPUs without bfloat16; the loss is scaled up, and its scale watched.
        loss_scale: at the start, only with fp16.
        lora_rank: rank of LoRA adapters on the attention projections; 0 trains the weights themselves.
        optimizer_8bit: 8-bit optimiser states, where bitsandbytes is installed.
        mask_time: expected fraction of frames hidden by SpecAugment; mask_span: frames (20 ms) per span.
        mask_bands: widest band of mel channels hidden (log-mel models only).
        mask_from: optimiser step at which masking begins.
        augment: fraction of clips whose waveform is changed (rooms, noise, colour, level, speed, coding).
        noise_dir: recordings to cut noise from.
        save_every, eval_every: optimiser steps; eval_every 0 is once per epoch.
        patience, watch_warmup: see watchdog.Watchdog.
        device: "auto" takes a GPU where there is one; else a torch device such as cpu or cuda:1.
        threads: of torch's operators; workers: threads that read audio; prefetch: steps read in advance.
    """

    output_dir: Path
    train: tuple[Path, ...]
    eval: tuple[Path, ...] = ()
    model: str = ""
    scratch: dict[str, Any] = dataclasses.field(default_factory=dict)
    conformer: dict[str, Any] = dataclasses.field(default_factory=dict)
    german: bool = True
    min_s: float = 0.3
    max_s: float = 20.0
    on_bad_sample: str = "skip"
    listen: bool = True
    batch_s: float = 60.0
    max_batch: int = 64
    sorted_epochs: int = 0
    accumulate: int = 1
    epochs: int = 10
    max_steps: int = 0
    max_minutes: float = 0.0
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    warmup_steps: int = 200
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01
    freeze_front_end: bool = True
    freeze_encoder_steps: int = 0
    gradient_checkpointing: bool = False
    bf16: bool = True
    fp16: bool = False
    loss_scale: float = 65536.0
    lora_rank: int = 0
    optimizer_8bit: bool = False
    mask_time: float = 0.06
    mask_span: int = 10
    mask_bands: int = 0
    mask_from: int = 0
    augment: float = 0.5
    noise_dir: Path | None = None
    save_every: int = 200
    eval_every: int = 0
    patience: int = 50
    watch_warmup: int = 1000
    device: str = "auto"
    threads: int = 1
    workers: int = 1
    prefetch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        problems = self._check_networks() + check_choice(
            "on_bad_sample", self.on_bad_sample, ("skip", "stop")
        )
        if not self.train:
            problems.append("train: no manifest given")
        if self.min_s >= self.max_s:
            problems.append(f"min_s: got {self.min_s}, want less than max_s, {self.max_s}")
        problems += check_positive(self, POSITIVE) + check_not_negative(self, NOT_NEGATIVE)
        raise_problems(problems + check_share(self, ("mask_time", "augment")))

    def _check_networks(self) -> list[str]:
        problems = []
        if sum(map(bool, (self.model, self.scratch, self.conformer))) != 1:
            problems.append(
                "give one of `model` (a checkpoint), `scratch` (sizes of a Wav2Vec2) and `conformer` (sizes)"
            )
        if self.conformer and (self.lora_rank or self.gradient_checkpointing or not self.german):
            problems.append("lora_rank, gradient_checkpointing and german: false are not for `conformer`")
        return problems


def load_config(path: Path, **changes: Any) -> AsrConfig:
    """Read a YAML file.

    Args:
        path: the file; relative paths in it are relative to the working folder.
        changes: values from the command line; None leaves the file's.
    Raises:
        ConfigError: unknown keys, wrong types or impossible values, all of them at once.
    """
    tree = read_tree(path) | {key: value for key, value in changes.items() if value is not None}
    return build_config(AsrConfig, tree, str(path), "training/configs/asr_xlsr_300m.yaml and AsrConfig")
