"""`training punctuation`: a tagger that gives a recogniser's words their capitals and marks back.

It learns from ordinary text: the words as a recogniser would write them, and what was taken from them.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.output.punctuation import MARKS
from training.punctuation.data import IGNORED, TaggedText, batches, read_tagged, split_dev
from training.punctuation.model import Tagger, TaggerConfig, save_tagger

logger = logging.getLogger("training")


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    defaults = TrainingConfig()
    parser.add_argument("text", nargs="+", type=Path, help="one written sentence a line, plain or .zst")
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
    """Train, or go on from the checkpoint in --out; write the model and its figures."""
    config = TrainingConfig(
        minutes=options.minutes, max_steps=options.max_steps, lr=options.lr,
        batch_words=options.batch_words, seed=options.seed,
    )  # fmt: skip
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
    """Train until config says stop; a checkpoint in folder is gone on from.

    Args:
        text: tagged sentences. folder: of checkpoint.pt.
    Returns:
        The model, in evaluation mode.
    """
    from tqdm import tqdm

    torch.manual_seed(config.seed)
    model = Tagger(TaggerConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    state = _Progress()
    path = folder / "checkpoint.pt"
    if path.exists():
        state = _restore(path, model, optimizer)
    bar = tqdm(total=100.0, unit="%", bar_format="{l_bar}{bar}| {elapsed} {postfix}", mininterval=5)
    clock, saved = time.monotonic(), state.minutes
    while state.share(config) < 1:
        order = np.random.default_rng((config.seed, state.epoch))
        for index, batch in enumerate(batches(text, config.batch_words, config.misspelled, order)):
            if index < state.batch:
                continue
            loss = _step(model, optimizer, batch, config, state)
            now = time.monotonic()
            state.minutes += (now - clock) / 60
            clock, state.step, state.batch = now, state.step + 1, index + 1
            bar.n = round(100 * state.share(config), 1)
            bar.set_postfix(step=state.step, epoch=state.epoch, loss=round(loss, 4), refresh=False)
            bar.update(0)
            if state.minutes - saved >= config.checkpoint_minutes:
                saved = state.minutes
                _save(path, model, optimizer, state)
            if state.share(config) >= 1:
                break
        else:
            state.epoch, state.batch = state.epoch + 1, 0
    bar.close()
    _save(path, model, optimizer, state)
    return model.eval()


@dataclass
class _Progress:
    step: int = 0
    epoch: int = 0
    batch: int = 0
    minutes: float = 0.0

    def share(self, config: TrainingConfig) -> float:
        """How much of the run is over, 0 to 1."""
        by_steps = self.step / config.max_steps if config.max_steps else 0.0
        return min(1.0, max(by_steps, self.minutes / config.minutes))


def _step(
    model: Tagger, optimizer: torch.optim.Optimizer, batch: Any, config: TrainingConfig, state: _Progress
) -> float:
    warm = min(1.0, (state.step + 1) / config.warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * warm * (1 - state.share(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        case_logits, mark_logits = model(batch.pieces, batch.mask)
    loss = tagging_loss(case_logits.float(), mark_logits.float(), batch.cases, batch.marks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def tagging_loss(case_logits: Tensor, mark_logits: Tensor, cases: Tensor, marks: Tensor) -> Tensor:
    """Mean cross-entropy of case plus that of mark; labels int64 [batch, n_words], IGNORED on padding."""
    return F.cross_entropy(
        case_logits.flatten(0, 1), cases.flatten(), ignore_index=IGNORED
    ) + F.cross_entropy(mark_logits.flatten(0, 1), marks.flatten(), ignore_index=IGNORED)


def _save(path: Path, model: Tagger, optimizer: torch.optim.Optimizer, state: _Progress) -> None:
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": asdict(state)}
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def _restore(path: Path, model: Tagger, optimizer: torch.optim.Optimizer) -> _Progress:
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    logger.info("resumed from %s", path)
    return _Progress(**content["progress"])


@torch.inference_mode()
def evaluate(model: Tagger, text: TaggedText, batch_words: int = 4096) -> dict[str, Any]:
    """How right the tags are on text whose sentences follow each other in small groups.

    Returns:
        Accuracy of the case, and precision, recall and F1 of every mark, as shares.
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
    """Precision, recall and F1 by mark; counts int64 [true, found]."""
    scores = {}
    for index, mark in enumerate(MARKS):
        hits = counts[index, index]
        precision, recall = hits / max(1, counts[:, index].sum()), hits / max(1, counts[index].sum())
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        named = {"precision": precision, "recall": recall, "f1": f1}
        scores[mark or "none"] = {name: round(float(value), 4) for name, value in named.items()}
    return scores
