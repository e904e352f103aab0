"""Plots of a result, as PNG bytes."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.extras import load_extra
from benchmarks.measures.metrics import length_bucket
from benchmarks.reports.summary import LENGTH

SIZE_IN = (6.4, 3.2)
DPI = 110
BLUE, ORANGE = "#1f5fa8", "#d9822b"
MANY_GROUPS = 7  # more labels next to each other would overlap
Result = Mapping[str, Any]


def render(draw: Callable[[Any], object]) -> bytes:
    """Draw on new axes, without a display and without pyplot's global state."""
    figure = load_extra("matplotlib.figure").Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _headroom(axes: Any, share: float = 0.12) -> None:
    """From zero to a little above what was drawn."""
    axes.set_ylim(0, (1 + share) * axes.dataLim.y1 or 1)


def plot_rtfx_by_length(result: Result) -> bytes:
    """Every utterance: its length against audio seconds per second; and each length bucket as a whole."""

    def draw(axes: Any) -> None:
        rows = [row for row in result["utterances"] if row["audio_s"]]
        rates = [row["audio_s"] / statistics.median(row["wall_s"]) for row in rows]
        axes.scatter([row["audio_s"] for row in rows], rates, s=12, alpha=0.6, color=BLUE)
        for group in result["by"][LENGTH]:
            inside = [row["audio_s"] for row in rows if length_bucket(row["audio_s"]) == group["value"]]
            if inside and group["rtfx"]:
                axes.hlines(group["rtfx"], min(inside), max(inside), color=ORANGE, linewidth=2)
        axes.plot([], [], color=ORANGE, linewidth=2, label=f"by bucket; all: {result['rtfx']:.1f}")
        axes.set(xlabel="audio, s", ylabel="RTFx")
        _headroom(axes)
        axes.legend(frameon=False, loc="lower right")

    return render(draw)


def plot_wer_by(result: Result, name: str = LENGTH) -> bytes:
    """WER of each group, with its 95 % interval."""

    def draw(axes: Any) -> None:
        groups = [group for group in result["by"][name] if group["wer"] is not None]
        values = [100 * group["wer"] for group in groups]
        ends = [[100 * edge for edge in group["wer_interval"]] for group in groups]
        low = [max(0.0, value - end[0]) for value, end in zip(values, ends, strict=True)]
        high = [max(0.0, end[1] - value) for value, end in zip(values, ends, strict=True)]
        labels = [f"{group['value']}\nn={group['n']}" for group in groups]
        axes.bar(range(len(groups)), values, color=BLUE, width=0.6)
        axes.errorbar(range(len(groups)), values, yerr=[low, high], fmt="none", ecolor="black", capsize=4)
        many = len(groups) > MANY_GROUPS
        axes.set_xticks(range(len(groups)), labels, rotation=90 if many else 0, fontsize=8 if many else 10)
        axes.set(ylabel="WER, %", xlabel=name)
        _headroom(axes)

    return render(draw)


def plot_stages(result: Result) -> bytes:
    """How the time divides between the stages."""

    def draw(axes: Any) -> None:
        stages = result["stages_s"]
        total = sum(stages.values()) or 1.0
        names = list(reversed(stages))
        shares = [100 * stages[name] / total for name in names]
        bars = axes.barh(names, shares, color=BLUE, height=0.6)
        axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3)
        axes.set(xlabel="share of the time, %", xlim=(0, 1.15 * max(shares) or 1))

    return render(draw)


def plot_latency(result: Result) -> bytes:
    """The distribution of latencies, with its percentiles."""

    def draw(axes: Any) -> None:
        values = [1000 * value for row in result["utterances"] for value in row["wall_s"]]
        axes.hist(values, bins=min(60, max(10, len(values) // 4)), color=BLUE)
        for style, (key, value) in zip(("-", "--", ":"), result["latency_ms"].items(), strict=True):
            axes.axvline(value, color=ORANGE, linestyle=style, label=f"{key} {value:.0f} ms")
        axes.set(xlabel="latency, ms", ylabel="runs", xlim=(0, None))
        axes.yaxis.get_major_locator().set_params(integer=True)
        _headroom(axes)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return render(draw)


def plot_history(results: Sequence[Result]) -> bytes:
    """WER with its interval, and speed, over result files on the same data; the oldest first."""

    def draw(axes: Any) -> None:
        measured = [result for result in results if result["wer"] is not None]
        ordered = sorted(measured, key=lambda result: result["environment"]["time"])
        positions = range(len(ordered))
        values = [100 * result["wer"] for result in ordered]
        ends = [[100 * edge for edge in result["wer_interval"]] for result in ordered]
        low = [max(0.0, value - end[0]) for value, end in zip(values, ends, strict=True)]
        high = [max(0.0, end[1] - value) for value, end in zip(values, ends, strict=True)]
        wer = axes.errorbar(positions, values, yerr=[low, high], fmt="o-", color=BLUE, capsize=4)
        axes.set(ylabel="WER, %")
        axes.set_ylim(0, 1.1 * max((end[1] for end in ends), default=0) or 1)
        axes.set_xticks(positions, [_moment(result) for result in ordered], fontsize=8)
        right = axes.twinx()
        right.spines["top"].set_visible(False)
        rates = [result["rtfx_cpu"] or 0.0 for result in ordered]
        (rtfx,) = right.plot(positions, rates, "s--", color=ORANGE)
        right.set(ylabel="RTFx per CPU second")
        right.set_ylim(0, 1.1 * max(rates, default=0) or 1)
        names = ["WER, 95 % interval", "RTFx per CPU second"]
        axes.legend([wer, rtfx], names, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    return render(draw)


def _moment(result: Result) -> str:
    """Date and commit under a point."""
    parts = dict(part.partition(":")[::2] for part in result["signature"].split("|"))
    return f"{result['environment']['time'][:10]}\n{parts.get('commit', '')[:8]}"
