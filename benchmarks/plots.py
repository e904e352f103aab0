"""Plots of a result, as PNG bytes."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.extras import load_extra
from benchmarks.summary import LENGTH

SIZE_IN = (6.4, 3.2)
DPI = 110
BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#888888"
Result = Mapping[str, Any]


def _render(draw: Callable[[Any], object]) -> bytes:
    """Draw on fresh axes, without a display and without pyplot's global state."""
    figure = load_extra("matplotlib.figure").Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def plot_rtfx_by_length(result: Result) -> bytes:
    """Every utterance: its length against audio seconds per second."""

    def draw(axes: Any) -> None:
        rows = [row for row in result["utterances"] if row["audio_s"]]
        lengths = [row["audio_s"] for row in rows]
        axes.scatter(
            lengths, [row["audio_s"] / statistics.median(row["wall_s"]) for row in rows], s=12, color=BLUE
        )
        axes.axhline(result["rtfx"], color=ORANGE, linewidth=1, label=f"all: {result['rtfx']:.1f}")
        axes.set(xlabel="audio, s", ylabel="RTFx", ylim=(0, None))
        axes.legend(frameon=False)

    return _render(draw)


def plot_wer_by(result: Result, name: str = LENGTH) -> bytes:
    """WER of each group, with its 95 % interval."""

    def draw(axes: Any) -> None:
        groups = result["by"][name]
        values = [100 * group["wer"] for group in groups]
        low = [
            max(0.0, value - 100 * group["wer_interval"][0])
            for value, group in zip(values, groups, strict=True)
        ]
        high = [
            max(0.0, 100 * group["wer_interval"][1] - value)
            for value, group in zip(values, groups, strict=True)
        ]
        labels = [f"{group['value']}\nn={group['n']}" for group in groups]
        axes.bar(range(len(groups)), values, yerr=[low, high], color=BLUE, ecolor=GREY, capsize=4, width=0.6)
        axes.set_xticks(range(len(groups)), labels)
        axes.set(ylabel="WER, %", ylim=(0, None), xlabel=name)

    return _render(draw)


def plot_stages(result: Result) -> bytes:
    """How the time divides between the stages."""

    def draw(axes: Any) -> None:
        stages = result["stages_s"]
        total = sum(stages.values()) or 1.0
        names = list(reversed(stages))
        shares = [100 * stages[name] / total for name in names]
        bars = axes.barh(names, shares, color=BLUE, height=0.6)
        axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3)
        axes.set(xlabel="share of the time, %", xlim=(0, 112))

    return _render(draw)


def plot_latency(result: Result) -> bytes:
    """The distribution of latencies, with its percentiles."""

    def draw(axes: Any) -> None:
        values = [1000 * value for row in result["utterances"] for value in row["wall_s"]]
        axes.hist(values, bins=min(60, max(10, len(values) // 4)), color=BLUE)
        for key, value in result["latency_ms"].items():
            axes.axvline(value, color=ORANGE, linewidth=1)
            axes.annotate(
                key, (value, 1), xycoords=("data", "axes fraction"), fontsize=8, va="top", rotation=90
            )
        axes.set(xlabel="latency, ms", ylabel="utterances", xlim=(0, None))

    return _render(draw)


def plot_history(results: Sequence[Result]) -> bytes:
    """WER and speed over result files, the oldest first."""

    def draw(axes: Any) -> None:
        ordered = sorted(results, key=lambda result: result["environment"]["time"])
        labels = [result["environment"]["time"][:10] for result in ordered]
        positions = range(len(ordered))
        wer = axes.plot(positions, [100 * r["wer"] for r in ordered], "o-", color=BLUE, label="WER, %")
        axes.set(ylabel="WER, %", ylim=(0, None))
        axes.set_xticks(positions, labels, rotation=30, ha="right")
        right = axes.twinx()
        rtfx = right.plot(
            positions, [r["rtfx_cpu"] for r in ordered], "s--", color=ORANGE, label="RTFx per CPU s"
        )
        right.set(ylabel="RTFx per CPU second", ylim=(0, None))
        axes.legend(handles=[*wer, *rtfx], frameon=False)

    return _render(draw)
