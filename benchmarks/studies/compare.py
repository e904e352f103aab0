"""Two systems on the same utterances: how they differ, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.errors import MeasurementError
from benchmarks.measures.bootstrap import Interval, rate_difference, statistic_difference
from benchmarks.measures.metrics import bleu_from_counts
from benchmarks.measures.speed import CLOCKS, compare_speed


def compare_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a second system's result with the first one's.

    Args:
        first, second: results over the same utterances, measured in turn in one run.
    Returns:
        A JSON object: the second one's figures, paired differences (second minus first) and time
        ratios (second over first) with their intervals, and both transcripts.
    Raises:
        MeasurementError: no utterance succeeded in both.
    """
    rows = _shared(first, second)
    mine, theirs = [a for a, _ in rows], [b for _, b in rows]
    kept = (
        "signature",
        "wer",
        "cer",
        "bleu",
        "chrf",
        "rtfx",
        "rtfx_cpu",
        "latency_ms",
        "stages_s",
        "load_time_s",
        "first_result_s",
        "peak_rss_mb",
        "gpu_memory_mb",
        "gpu_memory_note",
        "noise_floor",
        "failures",
    )
    return {
        **{key: second[key] for key in kept},
        "n_shared": len(rows),
        "wer_difference": _as_json(_wer_difference(theirs, mine)),
        "bleu_difference": _as_json(_bleu_difference(theirs, mine)),
        "time_ratio": {clock: _as_json(compare_speed(theirs, mine, clock).ratio) for clock in CLOCKS},
        "utterances": [_side_by_side(a, b) for a, b in rows],
    }


def _shared(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    other = {row["id"]: row for row in second["utterances"]}
    rows = [(row, other[row["id"]]) for row in first["utterances"] if row["id"] in other]
    if not rows:
        raise MeasurementError("no utterance was measured with both systems")
    return rows


def _wer_difference(rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> Interval | None:
    now = np.array([row["word_errors"] for row in rows], dtype=np.int64)
    then = np.array([row["word_errors"] for row in base], dtype=np.int64)
    return rate_difference(now[:, :3].sum(axis=1), then[:, :3].sum(axis=1), then[:, 3])


def _bleu_difference(rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> Interval | None:
    scored = [(a, b) for a, b in zip(rows, base, strict=True) if "bleu_counts" in a and "bleu_counts" in b]
    if not scored:
        return None
    now = np.array([a["bleu_counts"] for a, _ in scored], dtype=np.int64)
    then = np.array([b["bleu_counts"] for _, b in scored], dtype=np.int64)
    return statistic_difference(now, then, bleu_from_counts)


def _as_json(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"value": interval.value, "interval": interval.as_list()}


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": a["id"],
        "text_de": a["text_de"],
        "first": a["hypothesis_de"],
        "second": b["hypothesis_de"],
        "first_errors": sum(a["word_errors"][:3]),
        "second_errors": sum(b["word_errors"][:3]),
        **({"first_en": a["hypothesis_en"], "second_en": b["hypothesis_en"]} if "hypothesis_en" in a else {}),
    }
