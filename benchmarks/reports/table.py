"""Results as aligned plain text: the same in a terminal, a CI log and a pasted issue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.reports.summary import LENGTH
from engine.text import normalize_text

if TYPE_CHECKING:
    from benchmarks.gate import Finding

TEXT_WIDTH = 200


def align(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns of equal width under underlined titles.

    The first column, and those without a title, are words and aligned left; the others are aligned right.

    Args:
        rows: cells; all rows as long as the header.
        header: column titles.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    words = [not index or not title for index, title in enumerate(header)]
    return "\n".join("  ".join(map(_pad, line, widths, words)).rstrip() for line in lines)


def _pad(cell: str, width: int, is_words: bool) -> str:
    return cell.ljust(width) if is_words else cell.rjust(width)


def percent(value: float | None) -> str:
    """A fraction as a percentage."""
    return "-" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number with a unit, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def span(interval: Sequence[float] | None, scale: float = 100) -> str:
    """A confidence interval."""
    return "" if interval is None else f"[{scale * interval[0]:.1f}, {scale * interval[1]:.1f}]"


def change(difference: Mapping[str, Any] | None) -> str:
    """A paired difference with its interval; earlier results have none."""
    return "" if difference is None else f"{difference['value']:+.1f} {span(difference['interval'], 1)}"


def points(difference: Mapping[str, Any] | None) -> str:
    """A difference of two rates; none where no reference has a word."""
    if difference is None:
        return "no words in the references"
    return f"{100 * difference['value']:+.2f} points {span(difference['interval'])}"


def clip(text: str) -> str:
    """Text shortened to TEXT_WIDTH, with an ellipsis."""
    return text if len(text) <= TEXT_WIDTH else f"{text[: TEXT_WIDTH - 1]}…"


def render_result(result: Mapping[str, Any]) -> str:
    """The whole result, as `engine-bench` prints it."""
    parts = [
        result["signature"].replace("|", " | "),
        "",
        _quality(result),
        "",
        _speed(result),
        "",
        _stages(result),
    ]
    for name, groups in result["by"].items():
        if name != LENGTH or len(groups) > 1:
            parts += ["", _groups(name, groups)]
    if result["worst"]:
        parts += ["", _worst(result)]
    if result["failures"]:
        parts += ["", *(f"failed: {item['id']}: {item['error']}" for item in result["failures"])]
    return "\n".join(parts)


def _quality(result: Mapping[str, Any]) -> str:
    rows = []
    for label, key, errors in (("WER", "wer", "word_errors"), ("CER", "cer", "character_errors")):
        n = result[errors]
        detail = f"{n['substitutions']} sub, {n['deletions']} del, {n['insertions']} ins of {n['reference']}"
        rows.append([label, percent(result[key]), span(result[f"{key}_interval"]), detail])
    empty = result.get("empty_references")  # earlier results had none
    if empty and empty["clips"]:
        detail = f"in {empty['clips_with_words']} of {empty['clips']} clips without speech"
        rows.append(["invented words", str(empty["words"]), "", detail])
    if result["bleu"] is not None:
        rows.append(["BLEU", number(result["bleu"]), span(result["bleu_interval"], 1), ""])
        rows.append(["chrF", number(result["chrf"]), "", ""])
    elif result["task"] == "translate":
        rows.append(["BLEU", "-", "", "no text_en in the data"])
    return align(rows, ["quality", "value", "95 % interval", ""])


def _speed(result: Mapping[str, Any]) -> str:
    latency = result["latency_ms"]
    rows = [
        ["audio", number(result["audio_s"], 1, " s"), f"{result['n_utterances']} utterances"],
        ["RTFx", number(result["rtfx"]), f"{number(result['rtfx_cpu'])} per CPU second"],
        [
            "latency p50 / p95 / p99",
            " / ".join(number(latency[key], 0) for key in ("p50", "p95", "p99")),
            "ms",
        ],
        ["model load", number(result["load_time_s"], 2, " s"), ""],
        [
            "first result",
            number(result["first_result_s"], 2, " s"),
            f"then warm-up, {result['warmup']} in all",
        ],
        ["peak memory", number(result["peak_rss_mb"], 0, " MiB"), ""],
    ]
    rows.append(["GPU memory", number(result["gpu_memory_mb"], 0, " MiB"), result["gpu_memory_note"] or ""])
    rows.append(["noise floor", *noise_cells(result)])
    return align(rows, ["speed", "value", ""])


def noise_cells(result: Mapping[str, Any]) -> tuple[str, str]:
    """By how much passes with the same code differ, and the number of passes."""
    noise = result["noise_floor"]
    if not noise or noise["wall"] is None:
        return "-", "unknown from one pass; --repeats 2 or more measures it"
    return percent(noise["wall"]), f"{result['repeats']} passes, CPU time {percent(noise['cpu'])}"


def _stages(result: Mapping[str, Any]) -> str:
    stages = result["stages_s"]
    total = sum(stages.values()) or 1.0
    rows = [[name, f"{value:.3f}", percent(value / total)] for name, value in stages.items()]
    return align(rows, ["stage", "seconds", "share"])


def _groups(name: str, groups: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            g["value"] or "(empty)",
            str(g["n"]),
            number(g["audio_s"]),
            percent(g["wer"]),
            span(g["wer_interval"]),
            number(g["rtfx"]),
        ]
        for g in groups
    ]
    return align(rows, [f"by {name}", "n", "audio s", "WER", "95 % interval", "RTFx"])


def _worst(result: Mapping[str, Any]) -> str:
    rows = {row["id"]: row for row in result["utterances"]}
    lines = ["worst utterances"]
    for name in result["worst"][:5]:
        row = rows[name]
        substitutions, deletions, insertions, reference = row["word_errors"]
        lines += [
            f"  {name}: {substitutions} sub, {deletions} del, {insertions} ins of {reference}",
            f"    ref: {clip(row['text_de'])}",
            f"    hyp: {clip(row['hypothesis_de'])}",
        ]
    return "\n".join(lines)


def disagreements(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The utterances with different transcripts, the largest differences in errors first.

    Differences in case, punctuation and the writing of numbers do not count, as in WER.
    """
    differing = [
        row
        for row in comparison["utterances"]
        if normalize_text(row["first"]) != normalize_text(row["second"])
    ]
    return sorted(differing, key=lambda row: (-abs(row["first_errors"] - row["second_errors"]), row["id"]))


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """A second system's figures, the differences, and where the two disagree."""
    bleu = comparison["bleu_difference"]
    rows = [["WER", percent(comparison["wer"]), points(comparison["wer_difference"])]]
    if bleu is not None:
        rows.append(["BLEU", number(comparison["bleu"]), f"{bleu['value']:+.2f} {span(bleu['interval'], 1)}"])
    for clock, ratio in comparison["time_ratio"].items():
        low, high = ratio["interval"]
        key = "rtfx" if clock == "wall" else "rtfx_cpu"
        label = "RTFx" if clock == "wall" else "RTFx per CPU second"
        words = f"{ratio['value']:.2f} times as long [{low:.2f}, {high:.2f}]"
        rows.append([label, number(comparison[key]), words])
    latency = comparison["latency_ms"]
    rows += [
        ["latency p50 / p95 / p99", " / ".join(number(latency[k], 0) for k in ("p50", "p95", "p99")), "ms"],
        ["model load", number(comparison["load_time_s"], 2, " s"), ""],
        ["first result", number(comparison["first_result_s"], 2, " s"), ""],
        ["peak memory", number(comparison["peak_rss_mb"], 0, " MiB"), ""],
    ]
    parts = [
        f"against {comparison['signature'].replace('|', ' | ')}",
        align(rows, ["second", "value", ""]),
    ]
    differing = disagreements(comparison)
    parts.append(f"{len(differing)} of {comparison['n_shared']} transcripts differ")
    for row in differing[:5]:
        parts += [
            f"  {row['id']}",
            f"    ref: {clip(row['text_de'])}",
            f"    1st: {clip(row['first'])}  ({row['first_errors']} errors)",
            f"    2nd: {clip(row['second'])}  ({row['second_errors']} errors)",
        ]
    return "\n".join(parts)


CASCADE_COLUMNS = ("WER", "BLEU", "95 % interval", "chrF", "BLEU against as_tuned")


def cascade_rows(cascade: Mapping[str, Any]) -> list[list[str]]:
    """The name of every variant of a cascade, and its figures in CASCADE_COLUMNS."""
    return [
        [
            row["name"],
            percent(row["wer"]),
            number(row["bleu"]),
            span(row["bleu_interval"], 1),
            number(row["chrf"]),
            change(row.get("bleu_difference")),
        ]
        for row in cascade["variants"]
    ]


def render_cascade(cascade: Mapping[str, Any]) -> str:
    """BLEU of every variant, and what recognition costs."""
    cost = cascade["cost_of_recognition"]
    table = align(cascade_rows(cascade), ["cascade", *CASCADE_COLUMNS])
    return f"{table}\nrecognition costs {cost['value']:.1f} BLEU {span(cost['interval'], 1)}"


def render_cold_start(seconds: Mapping[str, float]) -> str:
    """A new process, step by step."""
    names = {
        "import_s": "import engine",
        "load_s": "load",
        "first_s": "first result",
        "second_s": "second result",
    }
    rows = [[label, f"{seconds[key]:.2f}"] for key, label in names.items()]
    return align(rows, ["new process", "seconds"])


def render_sweep(result: Mapping[str, Any]) -> str:
    """A line for each combination; latency is that of a call, that is, of a whole batch."""
    cells = [
        [
            str(row["threads"]),
            str(row["batch_size"]),
            str(row["concurrency"]),
            "-" if row["length_s"] is None else f"{row['length_s']:g} s",
            str(row["n"]),
            number(row["rtfx"]),
            number(row["rtfx_cpu"]),
            *(number(row["latency_ms"][key], 0) for key in ("p50", "p95", "p99")),
            percent(row["noise_floor"]),
        ]
        for row in result["rows"]
    ]
    names = ["threads", "batch", "callers", "length", "n", "RTFx", "per CPU s", "p50 ms", "p95 ms", "p99 ms"]
    signatures = [name.replace("|", " | ") for name in result["signatures"]]
    return "\n".join([*signatures, "", align(cells, [*names, "noise"])])


def render_findings(
    findings: Sequence[Finding], verdict: str, current: Mapping[str, Any], baseline: Mapping[str, Any]
) -> str:
    """The gate's findings and its decision."""
    rows = [[item.name, item.change, item.allowed, item.verdict] for item in findings]
    words = {
        "pass": "PASSED",
        "regression": "REGRESSION",
        "undecided": "COULD NOT TELL, for the reasons above; against noise, use more --repeats",
    }
    return "\n".join(
        [
            f"baseline {baseline['signature'].replace('|', ' | ')}",
            f"current  {current['signature'].replace('|', ' | ')}",
            "",
            align(rows, ["gate", "change, 95 % interval", "allowed", ""]),
            "",
            words[verdict],
        ]
    )
