"""`training punctuation`: a tagger that restores capitals and punctuation in a recogniser's words.

It learns from ordinary text: the words as a recogniser writes them, and what was removed.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.output.punctuation import MARKS
from engine.output.targets import check_apart
from training.punctuation.data import IGNORED, TaggedText, batches, read_tagged, split_dev
from training.punctuation.model import Tagger, save_tagger
from training.punctuation.trainer import TaggerTrainer, TrainingConfig

logger = logging.getLogger("training")

WRITTEN = ("config.json", "model.safetensors", "checkpoint.pt")  # in the output folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    defaults = TrainingConfig()
    parser.add_argument("text", nargs="+", type=Path, help="one written sentence per line, plain or .zst")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="(%(default)s)")
    parser.add_argument("--max-steps", type=int, default=defaults.max_steps, help="0: no limit (%(default)s)")
    parser.add_argument("--lr", type=float, default=defaults.lr, help="(%(default)s)")
    parser.add_argument("--batch-words", type=int, default=defaults.batch_words, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    parser.add_argument(
        "--test", type=Path, nargs="*", default=[], help="more text to score: sentences, or id<TAB>German"
    )


def run(options: argparse.Namespace) -> int:
    """Train, or continue from the checkpoint in --out; write the model and its figures."""
    config = TrainingConfig(
        minutes=options.minutes, max_steps=options.max_steps, lr=options.lr,
        batch_words=options.batch_words, seed=options.seed,
    )  # fmt: skip
    check_apart([options.out / name for name in WRITTEN], [*options.text, *options.test])
    try:
        text = read_tagged(options.text)
        train, dev = split_dev(text)
        tests = {path.name: read_tagged([path], column=1) for path in options.test}
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    logger.info("%d sentences to train on, %d to develop on", len(train), len(dev))
    options.out.mkdir(parents=True, exist_ok=True)
    model = fit(train, config, options.out)
    figures = {name: evaluate(model, each) for name, each in {"dev": dev, **tests}.items()}
    save_tagger(model, options.out, {"training": asdict(config), "figures": figures})
    logger.info("%s", json.dumps(figures))
    return 0


def fit(text: TaggedText, config: TrainingConfig, folder: Path) -> Tagger:
    """Train to the limits of config; resumes from a checkpoint in folder.

    Args:
        text: tagged sentences. folder: of checkpoint.pt.
    Returns:
        The model, in evaluation mode.
    Raises:
        TrainingStopped: the watchdog ended the run.
    """
    trainer = TaggerTrainer(text, config, folder)
    with trainer.bar:
        trainer.run()
    return trainer.model.eval()


@torch.inference_mode()
def evaluate(model: Tagger, text: TaggedText, batch_words: int = 4096) -> dict[str, Any]:
    """The accuracy of the tags on text whose sentences follow each other in small groups.

    Returns:
        Accuracy of the case, and precision, recall and F1 of every punctuation mark, as shares.
    """
    counts = np.zeros((len(MARKS), len(MARKS)), np.int64)
    right = total = 0
    for batch in batches(text, batch_words, 0.0, np.random.default_rng(0)):
        case_logits, mark_logits = model(batch.pieces, batch.mask)
        real = batch.marks != IGNORED
        right += int((case_logits.argmax(-1) == batch.cases)[real].sum())
        total += int(real.sum())
        pairs = batch.marks[real] * len(MARKS) + mark_logits.argmax(-1)[real]
        counts += np.bincount(pairs.numpy(), minlength=counts.size).reshape(counts.shape)
    return {"words": total, "case_accuracy": right / max(1, total), "marks": mark_scores(counts)}


def mark_scores(counts: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 by punctuation mark; counts int64 [true, found]."""
    scores = {}
    for index, mark in enumerate(MARKS):
        hits = counts[index, index]
        precision, recall = hits / max(1, counts[:, index].sum()), hits / max(1, counts[index].sum())
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        named = {"precision": precision, "recall": recall, "f1": f1}
        scores[mark or "none"] = {name: round(float(value), 4) for name, value in named.items()}
    return scores
