"""Interpolating n-gram models: p(word | words before) = sum of weight x p of each model, as one ARPA file.

Every n-gram of any of the models gets the mixed probability, and backoffs are computed again so that each
context sums to 1: static interpolation as in SRILM's `ngram -mix-lm`. The best weights for a development
text are found by expectation maximisation, whose steps never make the result worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.decoding.ngram import NgramModel
from engine.errors import EngineError

NO_BACKOFF = 0.0
NEVER = -99.0  # log10, what ARPA files write for <s>
SMALLEST = 1e-12  # of a probability mass that rounding may have made zero
UNPREDICTED = "<s>"
EM_STEPS, EM_CHANGE = 200, 1e-6

Grams = dict[str, tuple[float, float]]  # words joined by spaces: log10 probability and backoff


class MixingError(EngineError, ValueError):
    """Models that cannot be mixed."""


class Arpa:
    """An ARPA file in memory.

    Args:
        path: written by lmplz.
    Attributes:
        orders: for each order from 1 the n-grams of that order.
    """

    def __init__(self, path: Path) -> None:
        self.orders: list[Grams] = []
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                fields = line.rstrip("\n").split("\t")
                if len(fields) >= 2 and self.orders:
                    backoff = float(fields[2]) if len(fields) > 2 else NO_BACKOFF
                    self.orders[-1][fields[1]] = float(fields[0]), backoff
                elif line.startswith("\\") and line.rstrip().endswith("-grams:"):
                    self.orders.append({})
        if not self.orders:
            raise MixingError(f"{path}: got no n-grams, want an ARPA file")

    def compute_probability(self, gram: str) -> float:
        """Probability of the last word after the others; 0 for a word outside the model's vocabulary."""
        backoff = 0.0
        while True:
            order = gram.count(" ") + 1
            if order <= len(self.orders):
                found = self.orders[order - 1].get(gram)
                if found is not None:
                    return 10.0 ** (found[0] + backoff) if found[0] > NEVER else 0.0
            if order == 1:
                return 0.0
            context, gram = gram.rpartition(" ")[0], gram.partition(" ")[2]
            if order - 1 <= len(self.orders):
                backoff += self.orders[order - 2].get(context, (0.0, NO_BACKOFF))[1]


def tune_weights(models: Sequence[NgramModel], sentences: Sequence[str]) -> list[float]:
    """Weights of a mixture under which a development text is most likely.

    Args:
        models: of the corpora, in their order.
        sentences: normalised; held out from all corpora.
    Returns:
        One weight for each, 0 to 1, with a sum of 1. A word that a model lacks has probability 0 in it; words
        that all models lack do not count.
    Raises:
        MixingError: no word of the text is known to any model.
    """
    probs = np.stack([_predict(model, sentences) for model in models])
    probs = probs[:, probs.sum(axis=0) > 0.0]
    if not probs.size:
        raise MixingError("a development text without one known word; want a text of the same language")
    weights = np.full(len(models), 1.0 / len(models))
    for _ in range(EM_STEPS):
        shares = weights[:, None] * probs
        updated = (shares / shares.sum(axis=0)).mean(axis=1)
        change, weights = float(np.abs(updated - weights).max()), updated
        if change < EM_CHANGE:
            break
    return [float(weight) for weight in weights]


def _predict(model: NgramModel, sentences: Sequence[str]) -> NDArray[np.float64]:
    """Probability of every word and end of sentence, 0 where the model lacks the word."""
    parts = [np.zeros(0)]
    for sentence in sentences:
        words = sentence.split()
        known = np.append(model.find_words(words) != 0, True)
        parts.append(np.where(known, np.power(10.0, model.score_words(words)), 0.0))
    return np.concatenate(parts)


def mix(sources: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """Interpolate ARPA files.

    Args:
        sources: ARPA files of one order.
        weights: one each, 0 or more; only their ratios count.
        target: the ARPA file to write.
    Raises:
        MixingError: orders or weights that do not fit.
    """
    total = sum(weights)
    if len(sources) != len(weights) or min(weights) < 0 or not total > 0:
        raise MixingError(f"weights {list(weights)} for {len(sources)} models; want one for each, 0 or more")
    pairs = [(Arpa(s), w / total) for s, w in zip(sources, weights, strict=True) if w > 0]
    if len({len(arpa.orders) for arpa, _ in pairs}) != 1:
        raise MixingError(f"models of orders {[len(arpa.orders) for arpa, _ in pairs]}; want one order")
    mixed = [_mix_order(pairs, order) for order in range(len(pairs[0][0].orders))]
    _write_arpa(mixed, _compute_backoffs(mixed), target)


def _mix_order(pairs: Sequence[tuple[Arpa, float]], order: int) -> dict[str, float]:
    """The mixed probability of every n-gram of one order, in the order in which they first occur."""
    grams = dict.fromkeys(gram for arpa, _ in pairs for gram in arpa.orders[order])
    return {gram: sum(w * arpa.compute_probability(gram) for arpa, w in pairs) for gram in grams}


def _compute_backoffs(mixed: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The backoff of every context: the mass left for other words, divided by the shorter context's."""
    found: list[dict[str, float]] = []
    for shorter, grams in enumerate(mixed[1:]):
        held: dict[str, float] = {}
        lower: dict[str, float] = {}
        for gram, prob in grams.items():
            context, _, _ = gram.rpartition(" ")
            held[context] = held.get(context, 0.0) + prob
            lower[context] = lower.get(context, 0.0) + _back_off(gram.partition(" ")[2], mixed, found)
        backoffs = {}
        for context, mass in held.items():
            left, rest = max(1.0 - mass, SMALLEST), max(1.0 - lower[context], SMALLEST)
            if context in mixed[shorter]:
                backoffs[context] = left / rest
        found.append(backoffs)
    return found


def _back_off(gram: str, mixed: Sequence[dict[str, float]], backoffs: Sequence[dict[str, float]]) -> float:
    """Probability in the mixed model, of which the backoffs of shorter contexts are known."""
    factor = 1.0
    while True:
        order = gram.count(" ")
        prob = mixed[order].get(gram)
        if prob is not None:
            return factor * prob
        if order == 0:
            return 0.0
        factor *= backoffs[order - 1].get(gram.rpartition(" ")[0], 1.0)
        gram = gram.partition(" ")[2]


def _write_arpa(
    mixed: Sequence[dict[str, float]], backoffs: Sequence[dict[str, float]], target: Path
) -> None:
    with target.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={len(grams)}\n" for order, grams in enumerate(mixed, 1))
        for order, grams in enumerate(mixed, 1):
            file.write(f"\n\\{order}-grams:\n")
            file.writelines(_format(grams, backoffs[order - 1] if order < len(mixed) else None))
        file.write("\n\\end\\\n")


def _format(grams: dict[str, float], backoffs: dict[str, float] | None) -> Iterator[str]:
    for gram, prob in grams.items():
        log10_prob = math.log10(prob) if prob > 0.0 and gram != UNPREDICTED else NEVER
        tail = "" if backoffs is None else f"\t{math.log10(backoffs.get(gram, 1.0)):.7g}"
        yield f"{log10_prob:.7g}\t{gram}{tail}\n"


def name_weights(names: Iterable[str], weights: Iterable[float]) -> str:
    """The weights for a log line."""
    return ", ".join(f"{name} {weight:.3f}" for name, weight in zip(names, weights, strict=True))
