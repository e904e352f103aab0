"""`training asr`: fine-tune a wav2vec2 checkpoint, or train one from random weights."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.output.targets import check_apart
from engine.text import VOCABULARY
from training.asr.config import AsrConfig, load_config
from training.asr.doctor import SampleLimits, describe_problems, examine
from training.asr.memory import MemoryEstimate, Shape, count_parameters, estimate_memory
from training.asr.model import build_model, outline_model, plain_model
from training.asr.networks import ConformerNetwork, network_of
from training.asr.trainer import AsrTrainer, TrainingStopped, describe_model
from training.common.config import ConfigError
from training.common.data import (
    ManifestError,
    Sample,
    build_vocabulary,
    load_waveform,
    probe_samples,
    read_manifest,
)

LOGGER = logging.getLogger("training.asr.command")
WRITTEN = ("model", "checkpoint", "overfit", "table.tsv")  # what a run replaces in its output_dir
OVERFIT_CER = 10.0  # per cent; below it the clips count as memorised


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `training asr`."""
    parser.add_argument("--config", type=Path, required=True, help="YAML, see training/configs/asr_*.yaml")
    parser.add_argument("--model", help="hub name or folder, instead of the configuration's")
    parser.add_argument("--train", nargs="+", type=Path, help="manifests, instead of the configuration's")
    parser.add_argument("--eval", nargs="+", type=Path, help="manifests, instead of the configuration's")
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--max_steps", type=int)
    parser.add_argument("--max_minutes", type=float)
    parser.add_argument(
        "--estimate", action="store_true", help="print how much memory the run would take, and exit"
    )
    parser.add_argument("--doctor", action="store_true", help="check the samples, and exit")
    parser.add_argument("--overfit", type=int, metavar="CLIPS", default=0,
                        help="memorise a few clips, to check that data and model fit")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the command; returns 0 when done, 1 when stopped by the doctor, 2 for a bad configuration."""
    try:
        names = ("model", "train", "eval", "output_dir", "max_steps", "max_minutes")
        config = load_config(options.config, **{name: getattr(options, name) for name in names})
        torch.set_num_threads(config.threads)
        if options.estimate:
            return estimate(config)
        samples = [sample for source in config.train for sample in read_manifest(source)]
        evaluation = [sample for source in config.eval for sample in read_manifest(source)]
        read = [*config.train, *config.eval, *(one.path for one in (*samples, *evaluation))]
        read += [Path(config.model)] if config.model else []
        check_apart([config.output_dir / name for name in WRITTEN], read)
    except (ConfigError, ManifestError) as error:
        LOGGER.error("%s", error)
        return 2
    vocabulary = build_vocabulary([sample.text for sample in samples], config.german)
    model = build_model(config, vocabulary)
    LOGGER.info("%s; %s", describe_model(model), estimate_run(config, model))
    network = network_of(model)
    train, n_bad = examine_samples(config, samples, vocabulary, "training", network.samples_per_frame)
    evaluation, _ = examine_samples(config, evaluation, vocabulary, "evaluation", network.samples_per_frame)
    if options.doctor:
        return 1 if n_bad else 0
    if obstacle := find_obstacle(config, len(train), n_bad):
        LOGGER.error("not started: %s", obstacle)
        return 1
    if isinstance(network, ConformerNetwork):
        network.set_feature_scale(model, [load_waveform(sample) for sample in train[:200]])
    try:
        if options.overfit:
            return overfit(config, model, vocabulary, train[: options.overfit])
        AsrTrainer(config, model, vocabulary, train, evaluation).run()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except TrainingStopped as error:
        LOGGER.error("training stopped. %s", error)
        return 1
    except OSError as error:
        LOGGER.error(
            "%s: the last complete checkpoint is in %s; free some space and start again",
            error,
            config.output_dir,
        )
        return 1
    return 0


def find_obstacle(config: AsrConfig, n_sound: int, n_bad: int) -> str:
    """Why a run cannot start with these clips; empty where it can."""
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if not n_sound:
        return "no sound sample"
    if n_bad and config.on_bad_sample == "stop":
        return "on_bad_sample is stop"
    if n_sound < n_processes:
        return f"{n_sound} sound clips for {n_processes} processes; start fewer processes"
    return ""


def estimate(config: AsrConfig) -> int:
    """Print how much memory a run would take, by its configuration; returns the exit code."""
    model = outline_model(config, len(VOCABULARY))
    LOGGER.info("%s; %s", describe_model(model), estimate_run(config, model))
    if config.optimizer_8bit and importlib.util.find_spec("bitsandbytes") is None:
        plain = estimate_run(dataclasses.replace(config, optimizer_8bit=False), model)
        LOGGER.warning(
            "optimizer_8bit needs bitsandbytes, which is not installed: pip install bitsandbytes. "
            "Without 8-bit states: %s", plain,
        )  # fmt: skip
    return 0


def examine_samples(
    config: AsrConfig, samples: Sequence[Sample], vocabulary: dict[str, int], purpose: str,
    samples_per_frame: int = 320,
) -> tuple[list[Sample], int]:  # fmt: skip
    """Return the good samples and the number of bad ones; also writes output_dir/doctor_*.txt."""
    if not samples:
        return [], 0
    limits = SampleLimits(samples_per_frame, min_s=config.min_s, max_s=config.max_s)
    good, bad = examine(probe_samples(samples), vocabulary, limits, config.listen)
    report = describe_problems(bad, len(samples))
    LOGGER.info("%s data: %s", purpose, report)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    lines = [f"{sample.path}\t{problem}" for sample, problem in bad]
    (config.output_dir / f"doctor_{purpose}.txt").write_text(
        "\n".join([report, *lines]) + "\n", encoding="utf-8"
    )
    return good, len(bad)


def estimate_run(config: AsrConfig, model: Any, frozen_front_end: bool | None = None) -> MemoryEstimate:
    """Estimate the memory of a configured run; frozen_front_end: instead of the configuration's value."""
    frozen = config.freeze_front_end and bool(config.model) if frozen_front_end is None else frozen_front_end
    n_parameters, n_trained = count_parameters(model)
    return estimate_memory(
        n_parameters, n_trained, Shape.of(plain_model(model).config), config.batch_s,
        bf16=config.bf16 or config.fp16,
        gradient_checkpointing=config.gradient_checkpointing, longest_s=config.max_s,
        frozen_front_end=frozen, optimizer_8bit=config.optimizer_8bit,
    )  # fmt: skip


def overfit(config: AsrConfig, model: Any, vocabulary: dict[str, int], samples: Sequence[Sample]) -> int:
    """Memorise a few clips, without masks and augmentation; returns 0 if their CER falls below 10 %."""
    plain = dataclasses.replace(
        config, mask_time=0.0, augment=0.0, epochs=10_000, max_steps=config.max_steps or 300, warmup_steps=20,
        eval_every=25, save_every=10**9, output_dir=config.output_dir / "overfit", accumulate=1,
    )  # fmt: skip
    shutil.rmtree(plain.output_dir, ignore_errors=True)  # an earlier check must not be resumed
    began = time.monotonic()
    trainer = AsrTrainer(plain, model, vocabulary, samples, samples)
    trainer.enough_cer = OVERFIT_CER / 2.0
    trainer.run()
    cer = float(trainer.log.rows[-1]["cer"])
    verdict = "data, labels and model fit together" if cer < OVERFIT_CER else (
        "something does not fit: check the learning rate, the labels and the frozen parts"
    )  # fmt: skip
    took_s, step = time.monotonic() - began, trainer.position.step
    LOGGER.info(
        "%d clips memorised in %d steps, %.0f s: CER %.1f %%: %s", len(samples), step, took_s, cer, verdict
    )
    return 0 if cer < OVERFIT_CER else 1
