"""Error rates, greedy text, and the table, curves and TensorBoard log of a run."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer

from engine.text import WORD_DELIMITER
from engine.text.nearest import choose_readings

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "eval_loss",
    "wer",
    "cer",
    "blank_ratio",
    "grad_norm",
    "audio_per_s",
    "wait_share",
)
CURVES = ("train_loss", "eval_loss", "wer", "cer", "blank_ratio", "grad_norm")


@dataclasses.dataclass(frozen=True)
class ErrorRates:
    """Word and character error rates in per cent, over all references together."""

    wer: float
    cer: float


def compute_error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Compare texts that are normalised already; empty references are skipped."""
    pairs = [(r, h) for r, h in zip(references, hypotheses, strict=True) if r]
    if not pairs:
        return ErrorRates(float("nan"), float("nan"))
    left, right = [r for r, _ in pairs], [h for _, h in pairs]
    return ErrorRates(100.0 * float(jiwer.wer(left, right)), 100.0 * float(jiwer.cer(left, right)))


def compute_spoken_error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Compare German texts as engine-bench does: every usual way to say a number is right.

    Args:
        references: as written; those without words are skipped. hypotheses: one each.
    """
    chosen = [choose_readings(*pair) for pair in zip(references, hypotheses, strict=True)]
    chosen = [pair for pair in chosen if pair.usual]
    if not chosen:
        return ErrorRates(float("nan"), float("nan"))
    said, heard = [pair.said for pair in chosen], [pair.heard for pair in chosen]
    words, characters = jiwer.process_words(said, heard), jiwer.process_characters(said, heard)
    return ErrorRates(
        _per_cent(words, sum(len(pair.usual.split()) for pair in chosen)),
        _per_cent(characters, sum(len(pair.usual) for pair in chosen)),
    )


def _per_cent(found: Any, n_units: int) -> float:
    return 100.0 * (found.substitutions + found.deletions + found.insertions) / n_units


def collapse(indices: Sequence[int], symbols: Sequence[str], blank_id: int = 0) -> str:
    """Turn the best symbol of every frame into text: repeats merged, blanks dropped, words separated."""
    kept = [
        index
        for at, index in enumerate(indices)
        if index != blank_id and (at == 0 or index != indices[at - 1])
    ]
    return " ".join("".join(symbols[index] for index in kept).replace(WORD_DELIMITER, " ").split())


class RunLog:
    """One row per evaluation: table.tsv, TensorBoard events, curves.png."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._table = folder / "table.tsv"
        self.rows: list[dict[str, Any]] = self._read()
        self._writer: Any = None

    def _read(self) -> list[dict[str, Any]]:
        if not self._table.exists():
            return []
        with self._table.open(encoding="utf-8", newline="") as file:
            return [
                {key: float(value) for key, value in row.items()}
                for row in csv.DictReader(file, delimiter="\t")
            ]

    def add(self, row: dict[str, Any]) -> None:
        """Append a row with the keys of COLUMNS, replacing rows of later or equal steps (after a resume)."""
        self.rows = [old for old in self.rows if old["step"] < row["step"]] + [row]
        with self._table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {key: _plain(entry.get(key, math.nan)) for key in COLUMNS} for entry in self.rows
            )
        if self._writer is None:
            self._writer = _open_tensorboard(self.folder)
        if self._writer is not None:
            for key in CURVES:
                self._writer.add_scalar(key, row[key], int(row["step"]))
            self._writer.flush()

    def render(self) -> str:
        """Return the table as text, one line per evaluation."""
        lines = [" ".join(f"{column:>11}" for column in COLUMNS)]
        lines += [
            " ".join(f"{_plain(row.get(column, math.nan)):>11}" for column in COLUMNS) for row in self.rows
        ]
        return "\n".join(lines)

    def draw(self) -> None:
        """Draw curves.png, if matplotlib is installed and there is anything to draw."""
        try:
            import matplotlib

            matplotlib.use("Agg")
            from matplotlib import pyplot
        except ImportError:
            return
        figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
        for axis, key in zip(axes.flat, CURVES, strict=True):
            axis.plot([row["step"] for row in self.rows], [row[key] for row in self.rows], marker=".")
            axis.set_title(key)
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
        figure.savefig(self.folder / "curves.png", dpi=100)
        pyplot.close(figure)


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # optional; the table has the same figures
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int) else f"{value:.4g}"
