"""`engine-bench confidence`: is a word of confidence .8 right eight times in ten?

Recognised words are compared with the references. A table says how often words of each confidence are
right, and Platt's scaling (a logistic regression on the log-odds of the confidence) corrects it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import MeasurementError
from benchmarks.extras import SCORING, check_extras
from benchmarks.measures.metrics import scorer_signature
from benchmarks.options import Progress, add_data_options, add_engine_options, settings_of
from benchmarks.reports.table import align, number
from benchmarks.run import load_data, load_engine, write_json
from engine.text import normalize_text
from engine.text.nearest import choose_readings
from engine.two_pass.confidence import read_calibration
from engine.types import Word

N_BINS = 10
ROUNDS = 50  # of Newton's method; it ends in five
LEAST = 1e-4


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_data_options(parser)
    add_engine_options(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    """Recognise, compare, print; returns the exit code."""
    check_extras(*SCORING)
    settings = settings_of(options, task="transcribe")
    data = load_data(settings)
    system = load_engine(settings, data.utterances)
    progress = Progress(options.quiet)
    tick, pairs = progress(len(data.utterances), "confidence"), []
    try:
        for item in data.utterances:
            found = system.translator.transcribe(str(item.path), options=system.options)
            pairs += judge_words(found.words, item.text_de)
            tick()
    finally:
        progress.close()
    second = system.translator.bundle.manifest.second_pass
    result = summarise(pairs, second.confidence if second else {})
    signature = f"{system.signature}|{scorer_signature()}"
    result = {"signature": signature, "data": str(options.data), **result, **options.provenance}
    if options.json:
        write_json(result, options.json)
    print(render(result))
    return 0


def judge_words(words: Sequence[Word], reference: str) -> list[tuple[float, bool]]:
    """Confidence of each recognised word, and whether it is right by the reference."""
    import jiwer

    spoken = [(word.confidence, part) for word in words for part in normalize_text(word.text).split()]
    pair = choose_readings(reference, " ".join(part for _, part in spoken))
    if not spoken or not pair.said:
        return [(confidence, False) for confidence, _ in spoken]
    aligned = jiwer.process_words(pair.said, pair.heard).alignments[0]
    right = np.zeros(len(spoken), np.bool_)
    for chunk in aligned:
        if chunk.type == "equal":
            right[chunk.hyp_start_idx : chunk.hyp_end_idx] = True
    return [(confidence, bool(hit)) for (confidence, _), hit in zip(spoken, right, strict=True)]


def summarise(pairs: Sequence[tuple[float, bool]], current: Mapping[str, float]) -> dict[str, Any]:
    """Reliability table, expected calibration error before and after scaling, and the scaled weights.

    Args:
        current: the manifest's confidence, of engine.two_pass.confidence.Calibration.
    Raises:
        MeasurementError: no words, or all of them right or all wrong.
    """
    if len({hit for _, hit in pairs}) < 2:
        raise MeasurementError("words that are all right or all wrong", "some of both", "use more data")
    confidences = np.array([confidence for confidence, _ in pairs])
    right = np.array([hit for _, hit in pairs], np.float64)
    offset, slope = fit_platt(confidences, right)
    scaled = 1.0 / (1.0 + np.exp(-(offset + slope * to_log_odds(confidences))))
    known = read_calibration(current)
    return {
        "n_words": len(pairs), "right": float(right.mean()), "table": reliability(confidences, right),
        "calibration_error": calibration_error(confidences, right),
        "calibration_error_scaled": calibration_error(scaled, right),
        "scaled": {
            "bias": offset + slope * known.bias, "attention": slope * known.attention,
            "ctc": slope * known.ctc,
        },
    }  # fmt: skip


def to_log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)), within bounds."""
    clipped = np.clip(probabilities, LEAST, 1.0 - LEAST)
    return np.log(clipped / (1.0 - clipped))


def fit_platt(confidences: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[float, float]:
    """Offset and slope of the log-odds with the highest likelihood of the words, by Newton's method.

    Source: Platt 1999, with its targets, which make the slope finite.
    """
    n_right = float(right.sum())
    high, low = (n_right + 1.0) / (n_right + 2.0), 1.0 / (len(right) - n_right + 2.0)
    targets = np.where(right > 0, high, low)
    features = np.stack([np.ones(len(right)), to_log_odds(confidences)], axis=1)
    weights = np.array([0.0, 1.0])
    for _ in range(ROUNDS):
        predicted = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -50.0, 50.0)))
        gradient = features.T @ (predicted - targets)
        hessian = (features * (predicted * (1.0 - predicted))[:, None]).T @ features + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if float(np.abs(step).max()) < 1e-8:
            break
    return float(weights[0]), float(weights[1])


def reliability(confidences: NDArray[np.float64], right: NDArray[np.float64]) -> list[dict[str, float]]:
    """For each tenth of the confidences: words, their mean confidence, the share that is right."""
    rows = []
    for low in range(N_BINS):
        inside = np.minimum((confidences * N_BINS).astype(int), N_BINS - 1) == low
        if inside.any():
            rows.append({
                "from": low / N_BINS, "words": int(inside.sum()),
                "confidence": float(confidences[inside].mean()), "right": float(right[inside].mean()),
            })  # fmt: skip
    return rows


def calibration_error(confidences: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Mean distance of confidence and share right over the tenths, weighted by words (ECE)."""
    rows = reliability(confidences, right)
    total = sum(row["words"] for row in rows)
    return math.fsum(row["words"] * abs(row["confidence"] - row["right"]) for row in rows) / total


def render(result: Mapping[str, Any]) -> str:
    """The table, the error, and the weights for the bundle."""
    rows = [
        [f"{row['from']:.1f}", str(row["words"]), number(row["confidence"], 2), number(row["right"], 2)]
        for row in result["table"]
    ]
    weights = ", ".join(f"{name} {value:.3f}" for name, value in result["scaled"].items())
    return "\n".join([
        result["signature"].replace("|", " | "),
        align(rows, ["confidence from", "words", "mean", "right"]),
        f"{result['n_words']} words, {100 * result['right']:.1f} % right; "
        f"calibration error {result['calibration_error']:.3f}, "
        f"scaled {result['calibration_error_scaled']:.3f}",
        f"scaled weights: {weights}",
    ])  # fmt: skip
