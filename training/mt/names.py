"""`engine-train mt-names`: which German words English writes the same, learnt from parallel text."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from engine.output.targets import check_apart
from engine.translation.names import BITS, WORD, NameFinder, features, is_candidate
from training.mt.data import Pair, read_dev_set, read_pairs

logger = logging.getLogger("training")
BATCH, EPOCHS, LR, DECAY = 2048, 4, 0.01, 1e-3
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `training mt-names`."""
    parser.add_argument("--data", required=True, type=Path, help="German<TAB>English lines, of `mt-data`")
    parser.add_argument("--out", required=True, type=Path, help="the file of the model")
    parser.add_argument("--dev", type=Path, help="id<TAB>German<TAB>English lines to score")
    parser.add_argument("--seed", type=int, default=17, help="of the order (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Train; 0, or 1 with a message in the log."""
    try:
        check_apart([args.out], [path for path in (args.data, args.dev) if path])
        finder = train(read_pairs(args.data), args.seed)
        dev = [Pair(german, english, "dev") for german, english in read_dev_set(args.dev)] if args.dev else []
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    beside = args.out.with_name(f".{args.out.name}.part")
    beside.write_bytes(finder.write())
    beside.replace(args.out)
    for threshold in THRESHOLDS if dev else ():
        precision, recall = score(finder, dev, threshold)
        logger.info("from %.1f: precision %.3f, recall %.3f", threshold, precision, recall)
    return 0


def examples(pairs: Iterable[Pair]) -> tuple[list[NDArray[np.int64]], NDArray[np.float32]]:
    """Features of every capitalised word, and 1 where the English holds the same word, else 0."""
    found, kept = [], []
    for pair in pairs:
        words = list(WORD.finditer(pair.source))
        english = set(WORD.findall(pair.target))
        for index, match in enumerate(words):
            if is_candidate(match[0]):
                found.append(np.fromiter(features(pair.source, words, index), np.int64))
                kept.append(match[0] in english)
    return found, np.array(kept, np.float32)


def train(pairs: Sequence[Pair], seed: int = 17) -> NameFinder:
    """Fit a logistic regression, its weights rounded to eight bits.

    Raises:
        ValueError: no capitalised word in the text.
    """
    numbers, kept = examples(pairs)
    if not numbers:
        raise ValueError("no capitalised word of three letters or more; pass written German")
    torch.manual_seed(seed)
    weights = torch.nn.EmbeddingBag(1 << BITS, 1, mode="sum", sparse=False)
    torch.nn.init.zeros_(weights.weight)
    share = float(kept.mean().clip(1e-3, 1 - 1e-3))
    bias = torch.nn.Parameter(torch.tensor(math.log(share / (1 - share))))
    optimizer = torch.optim.AdamW([weights.weight, bias], lr=LR, weight_decay=DECAY)
    steps = EPOCHS * -(-len(numbers) // BATCH)
    order = np.random.default_rng(seed)
    bar = tqdm(total=steps, desc="names", mininterval=5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(EPOCHS):
        shuffled = order.permutation(len(numbers))
        for start in range(0, len(shuffled), BATCH):
            rows = shuffled[start : start + BATCH]
            lengths = np.array([0, *(len(numbers[row]) for row in rows[:-1])]).cumsum()
            flat = torch.from_numpy(np.concatenate([numbers[row] for row in rows]))
            odds = weights(flat, torch.from_numpy(lengths))[:, 0] + bias
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, torch.from_numpy(kept[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=round(loss.item(), 4), refresh=False)
    bar.close()
    learnt = weights.weight.detach()[:, 0].numpy()
    scale = float(np.abs(learnt).max()) / 127 or 1.0
    return NameFinder(np.rint(learnt / scale).astype(np.int8), scale, float(bias.detach()))


def score(finder: NameFinder, pairs: Sequence[Pair], threshold: float) -> tuple[float, float]:
    """Precision and recall of words that the English holds too."""
    right = taken = wanted = 0
    for pair in pairs:
        english = set(WORD.findall(pair.target))
        named = {pair.source[name.start : name.end] for name in finder.find(pair.source, threshold)}
        there = {word for word in WORD.findall(pair.source) if is_candidate(word) and word in english}
        right, taken, wanted = right + len(named & there), taken + len(named), wanted + len(there)
    return right / max(1, taken), right / max(1, wanted)
