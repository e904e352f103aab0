"""From records to the result: one JSON object for tables, plots and gates."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.data.manifest import Utterance
from benchmarks.measures.bootstrap import rate_interval, statistic_interval
from benchmarks.measures.journal import Record
from benchmarks.measures.metrics import (
    Errors,
    Integers,
    TranslationScorer,
    add_errors,
    bleu_from_counts,
    bucket_names,
    count_character_errors,
    count_word_errors,
    length_bucket,
)
from benchmarks.measures.reference import PARTS
from benchmarks.measures.speed import run_noise
from benchmarks.measures.stages import latest_good
from benchmarks.measures.systems import STAGES

SCHEMA_VERSION = 1
WORST = 10
LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The description of a run, besides its records.

    Attributes:
        signature: of benchmarks.reports.signature.sign.
        task: transcribe or translate.
        load_time_s: seconds of loading the model in this process.
        first_result_s: seconds of the very first utterance after loading; None without a warm-up.
        peak_rss_mb: most memory of the process, in MiB, before anything was scored; None where a peer
            does not report it.
        gpu_memory_mb: most GPU memory of the process, in MiB; None where unknown.
        gpu_memory_note: why it is None.
        extra: further keys of the result.
    """

    signature: str
    task: str
    load_time_s: float
    first_result_s: float | None
    peak_rss_mb: float | None
    gpu_memory_mb: float | None
    gpu_memory_note: str | None
    extra: Mapping[str, Any]


def summarize(
    utterances: Sequence[Utterance],
    records: Sequence[Record],
    about: Circumstances,
    group_by: Iterable[str] = (),
) -> dict[str, Any]:
    """Score and add up one run.

    Args:
        utterances: what was to be measured.
        records: of every pass.
        about: the other parts of a result.
        group_by: manifest columns to break the errors down by; length always is.
    Raises:
        MeasurementError: no utterance succeeded.
    """
    good = latest_good(records)
    kept = [item for item in utterances if item.id in good]
    rows = [_utterance_row(item, good[item.id], about.task) for item in kept]
    errors = {record.id: record.error for record in records if record.error is not None}
    failures = [{"id": name, "error": error} for name, error in errors.items()]
    return {
        "schema_version": SCHEMA_VERSION,
        "signature": about.signature,
        "task": about.task,
        "n_utterances": len(rows),
        "n_failed": len(failures),
        **_quality(rows),
        **_translation_quality(rows),
        **_speed(rows),
        "load_time_s": about.load_time_s,
        "first_result_s": about.first_result_s,
        "peak_rss_mb": about.peak_rss_mb,
        "gpu_memory_mb": about.gpu_memory_mb,
        "gpu_memory_note": about.gpu_memory_note,
        "noise_floor": _noise(rows),
        "by": {name: _break_down(rows, name) for name in (LENGTH, *group_by)},
        "worst": [
            row["id"] for row in sorted(rows, key=_badness)[:WORST] if row["word_errors"][:3] != [0, 0, 0]
        ],
        "failures": failures,
        **about.extra,
        "utterances": rows,
    }


def _badness(row: Mapping[str, Any]) -> tuple[float, str]:
    errors = _words(row)
    return (-errors.total / max(errors.reference, 1), row["id"])


def _utterance_row(item: Utterance, runs: Sequence[Record], task: str) -> dict[str, Any]:
    last = runs[-1]
    words = count_word_errors(item.text_de, last.text_de)
    characters = count_character_errors(item.text_de, last.text_de)
    row: dict[str, Any] = {
        "id": item.id,
        "audio_s": last.audio_s,
        "text_de": item.text_de,
        "hypothesis_de": last.text_de,
        "word_errors": _as_list(words),
        "character_errors": _as_list(characters),
        "wall_s": [run.wall_s for run in runs],
        "cpu_s": [run.cpu_s for run in runs],
        "reference_wall_s": _by_part([run.reference_wall_s for run in runs]),
        "reference_cpu_s": _by_part([run.reference_cpu_s for run in runs]),
        "stages_s": _mean_stages(runs),
        "columns": dict(item.columns),
    }
    if task == "translate":
        row |= {"text_en": item.text_en, "hypothesis_en": last.text_en or ""}
    return row


def _by_part(runs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [run[name] for run in runs] for name in PARTS}


def _mean_stages(runs: Sequence[Record]) -> dict[str, float]:
    """Seconds by stage: those of STAGES, and others that a system names."""
    names = dict.fromkeys((*STAGES, *(stage for run in runs for stage in run.stages_s)))
    return {stage: statistics.fmean(run.stages_s.get(stage, 0.0) for run in runs) for stage in names}


def _as_list(errors: Errors) -> list[int]:
    return [errors.substitutions, errors.deletions, errors.insertions, errors.reference]


def _words(row: Mapping[str, Any]) -> Errors:
    return Errors(*row["word_errors"])


def _quality(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"audio_s": sum(row["audio_s"] for row in rows)}
    for name, key in (("wer", "word_errors"), ("cer", "character_errors")):
        counts = np.array([row[key] for row in rows], dtype=np.int64)
        result |= _rate(counts, name)
        total = add_errors([Errors(*row[key]) for row in rows])
        result[key] = dict(
            zip(("substitutions", "deletions", "insertions", "reference"), _as_list(total), strict=True)
        )
    return {**result, "empty_references": _count_inventions(rows)}


def _rate(counts: Integers, name: str) -> dict[str, Any]:
    """A rate and its interval; both None where no reference has a word."""
    interval = rate_interval(counts[:, :3].sum(axis=1), counts[:, 3])
    if interval is None:
        return {name: None, f"{name}_interval": None}
    return {name: interval.value, f"{name}_interval": interval.as_list()}


def _count_inventions(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Clips without speech: how many, in how many words were invented, and how many words.

    These words are also insertions in the totals; such a clip has no error rate.
    """
    invented = [row["word_errors"][2] for row in rows if not row["word_errors"][3]]
    return {
        "clips": len(invented), "clips_with_words": sum(map(bool, invented)), "words": sum(invented),
    }  # fmt: skip


def _translation_quality(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """BLEU and chrF, and each row's counts for later comparisons; null without English references."""
    scored = [row for row in rows if row.get("text_en")]
    if not scored:
        return {"bleu": None, "bleu_interval": None, "chrf": None, "sacrebleu": None}
    scorer = TranslationScorer()
    hypotheses = [row["hypothesis_en"] for row in scored]
    references = [row["text_en"] for row in scored]
    for row in scored:
        row["bleu_counts"] = scorer.count(row["hypothesis_en"], row["text_en"]).as_row()
    counts = np.array([row["bleu_counts"] for row in scored], dtype=np.int64)
    result = {
        "bleu": scorer.bleu(hypotheses, references),
        "bleu_interval": statistic_interval(counts, bleu_from_counts).as_list(),
        "chrf": scorer.chrf(hypotheses, references),
    }
    return {**result, "sacrebleu": scorer.signatures}


def _speed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    audio_s = sum(row["audio_s"] for row in rows)
    wall_s = sum(statistics.median(row["wall_s"]) for row in rows)
    cpu_s = sum(statistics.median(row["cpu_s"]) for row in rows)
    every = [1000 * value for row in rows for value in row["wall_s"]]
    p50, p95, p99 = np.percentile(every, [50, 95, 99]).tolist()
    return {
        "rtfx": audio_s / wall_s if wall_s else None,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "rtfx_cpu": audio_s / cpu_s if cpu_s else None,
        "stages_s": _total_stages(rows),
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
    }


def _total_stages(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(stage for row in rows for stage in row["stages_s"])
    return {stage: sum(row["stages_s"].get(stage, 0.0) for row in rows) for stage in names}


def _noise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    passes = {len(row["wall_s"]) for row in rows}
    return run_noise(rows) if len(passes) == 1 else None


def _break_down(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Errors and speed by the values of a column, or by length bucket."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        value = length_bucket(row["audio_s"]) if name == LENGTH else row["columns"].get(name, "")
        groups.setdefault(value, []).append(row)
    ordered = [n for n in bucket_names() if n in groups] if name == LENGTH else sorted(groups)
    return [{"value": value, **_group(groups[value])} for value in ordered]


def _group(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = np.array([row["word_errors"] for row in rows], dtype=np.int64)
    audio_s = sum(row["audio_s"] for row in rows)
    wall_s = sum(statistics.median(row["wall_s"]) for row in rows)
    return {
        "n": len(rows),
        "audio_s": audio_s,
        **_rate(counts, "wer"),
        "rtfx": audio_s / wall_s if wall_s else None,
    }
