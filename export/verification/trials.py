"""What an export with `--precision auto` tried, and which of it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SAME_SPEED = 1.05  # times as fast: timing does not tell such graphs apart, so the more exact one is taken


@dataclass(frozen=True)
class Trial:
    """One candidate and its comparison with the checkpoint.

    Attributes:
        name: in words. precision: as the manifest says it.
        computed_by: "kernels" or "onnxruntime" on this processor; the figures are of that one.
        agreement: share of frames with the checkpoint's argmax. error: relative L2, in the worst row.
        wer: word error rate of greedy decoding. speed: times as fast as float32 by onnxruntime, one thread.
            Each is None where it was not measured.
        refused: why it did not pass; "" where it did. taken: it is in the bundle.
    """

    name: str
    precision: str
    computed_by: str = "onnxruntime"
    agreement: float | None = None
    error: float | None = None
    wer: float | None = None
    speed: float | None = None
    refused: str = ""
    taken: bool = False


def find_fastest(trials: Sequence[Trial]) -> int | None:
    """The index of the fastest that passed; of several that are as fast, the one with the least error.

    Returns:
        None where none passed.
    """
    passed = [(trial.speed or 0.0, index) for index, trial in enumerate(trials) if not trial.refused]
    if not passed:
        return None
    fastest = max(passed)[0]
    near = [index for speed, index in passed if speed * SAME_SPEED >= fastest]
    return min(near, key=lambda index: trials[index].error or 0.0)


def explain_refusals(trials: Sequence[Trial]) -> str:
    """All candidates with the reason against each, in one line."""
    return "; ".join(f"{trial.name}: {trial.refused}" for trial in trials)


def trial_table(trials: Sequence[Trial]) -> list[str]:
    """The trials as lines of Markdown; none where nothing was tried."""
    if not trials:
        return []
    lines = [
        "Tried by `--precision auto` on this processor, one thread; the fastest that passed is taken:",
        "",
        "| graph | computed by | same argmax | error | word errors | speed | result |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for trial in trials:
        result = "taken" if trial.taken else trial.refused or "passed, not the fastest"
        cells = [
            trial.name,
            trial.computed_by,
            _shown(trial.agreement, 100, ".2f", " %"),
            _shown(trial.error, 1, ".2g"),
            _shown(trial.wer, 100, ".2f", " %"),
            _shown(trial.speed, 1, ".2f"),
            result.replace("|", "/"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _shown(value: float | None, factor: float, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{factor * value:{form}}{unit}"
