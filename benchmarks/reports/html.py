"""One HTML page about a result: figures, plots inside the page, worst utterances; no scripts, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measures.journal import write_text
from benchmarks.reports import plots
from benchmarks.reports.table import (
    CASCADE_COLUMNS,
    cascade_rows,
    disagreements,
    noise_cells,
    number,
    percent,
    points,
    span,
)

MAX_TRANSCRIPTS = 50
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .2rem .7rem; text-align: left;
border-bottom: 1px solid #ddd } td.number, th.number { text-align: right } img { max-width: 100% }
code { font-size: 85%; overflow-wrap: anywhere } figure { display: inline-block; margin: .5rem }
figcaption { color: #555 }
"""


def write_report(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the page about the last result; the others are its history.

    Raises:
        BenchmarkError: the file cannot be written. DependencyError: matplotlib is missing.
    """
    write_text(path, render_report(results))


def render_report(results: Sequence[Mapping[str, Any]]) -> str:
    """The page as text."""
    result = results[-1]
    parts = [
        "<h1>Speech benchmark</h1>",
        f"<p><code>{_text(result['signature'].replace('|', ' | '))}</code></p>",
        *(f"<p>{_text(note)}</p>" for note in result.get("notes", ())),
        _figures(result),
        *_plots(results),
        *_comparison(result.get("comparison")),
        *_cascade(result.get("cascade")),
        _worst(result),
        *_failures(result),
        f"<p>Measured {_text(result['environment']['time'])}</p>",
        f"<p><code>{_text(result.get('command', ''))}</code></p>",
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Speech benchmark</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: bool = True) -> str:
    def line(tag: str, cells: Sequence[object]) -> str:
        marks = [' class="number"' if numbers and i else "" for i in range(len(cells))]
        inner = "".join(f"<{tag}{m}>{_text(c)}</{tag}>" for m, c in zip(marks, cells, strict=True))
        return f"<tr>{inner}</tr>"

    return "<table>" + line("th", header) + "".join(line("td", row) for row in rows) + "</table>"


def _figures(result: Mapping[str, Any]) -> str:
    latency = result["latency_ms"]
    rows = [
        ("utterances", result["n_utterances"], ""),
        ("audio", number(result["audio_s"], 1, " s"), ""),
        ("WER", percent(result["wer"]), span(result["wer_interval"])),
        ("CER", percent(result["cer"]), span(result["cer_interval"])),
        ("BLEU", number(result["bleu"]), span(result["bleu_interval"], 1)),
        ("chrF", number(result["chrf"]), ""),
        ("RTFx", number(result["rtfx"]), f"{number(result['rtfx_cpu'])} per CPU second"),
        ("latency p50 / p95 / p99, ms", " / ".join(number(latency[k], 0) for k in ("p50", "p95", "p99")), ""),
        ("model load", number(result["load_time_s"], 2, " s"), ""),
        ("first result", number(result["first_result_s"], 2, " s"), f"warm-up: {result['warmup']} in all"),
        ("peak memory", number(result["peak_rss_mb"], 0, " MiB"), ""),
        ("GPU memory", number(result["gpu_memory_mb"], 0, " MiB"), result.get("gpu_memory_note") or ""),
        ("noise floor", *noise_cells(result)),
    ]
    cold = result.get("cold_start")
    if cold:
        seconds = " + ".join(f"{cold[key]:.2f}" for key in ("import_s", "load_s", "first_s"))
        rows.append(("new process: import + load + first", f"{seconds} s", ""))
    return _table(("", "value", "95 % interval, or more"), rows)


def _plots(results: Sequence[Mapping[str, Any]]) -> list[str]:
    result = results[-1]
    images = [
        ("RTFx by length", plots.plot_rtfx_by_length(result)),
        ("Stages", plots.plot_stages(result)),
        ("Latency", plots.plot_latency(result)),
        *((f"WER by {name}", plots.plot_wer_by(result, name)) for name in result["by"]),
    ]
    earlier = [other for other in results[:-1] if _is_comparable(other, result)]
    if earlier:
        images.append(("History", plots.plot_history([*earlier, result])))
    left_out = len(results) - 1 - len(earlier)
    note = [f"<p>{left_out} earlier results have other data or another task.</p>"] if left_out else []
    return [_image(*image) for image in images] + note


def _is_comparable(other: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    return bool(other["data"]["digest"] == result["data"]["digest"] and other["task"] == result["task"])


def _image(caption: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    name = _text(caption)
    image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{name}</figcaption></figure>"


def _comparison(comparison: Mapping[str, Any] | None) -> list[str]:
    if comparison is None:
        return []
    ratio = comparison["time_ratio"]["cpu"]
    rows = [
        (row["id"], row["text_de"], row["first"], row["second"])
        for row in disagreements(comparison)[:MAX_TRANSCRIPTS]
    ]
    return [
        f"<h2>Against</h2><p><code>{_text(comparison['signature'].replace('|', ' | '))}</code></p>",
        f"<p>WER {percent(comparison['wer'])}, {points(comparison['wer_difference'])}; "
        f"RTFx {number(comparison['rtfx'])}; "
        f"CPU time {number(ratio['value'], 2)} times as long {_range(ratio['interval'])}</p>",
        _table(("utterance", "reference", "first", "second"), rows, numbers=False),
    ]


def _range(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def _cascade(cascade: Mapping[str, Any] | None) -> list[str]:
    if cascade is None:
        return []
    cost = cascade["cost_of_recognition"]
    return [
        "<h2>Cascade</h2>",
        _table(("variant", *CASCADE_COLUMNS), cascade_rows(cascade)),
        f"<p>Recognition costs {number(cost['value'])} BLEU {span(cost['interval'], 1)}.</p>",
    ]


def _worst(result: Mapping[str, Any]) -> str:
    by_id = {row["id"]: row for row in result["utterances"]}
    rows = [(name, by_id[name]["text_de"], by_id[name]["hypothesis_de"]) for name in result["worst"]]
    if not rows:
        return "<p>No recognition errors.</p>"
    return "<h2>Worst utterances</h2>" + _table(("utterance", "reference", "recognised"), rows, numbers=False)


def _failures(result: Mapping[str, Any]) -> list[str]:
    if not result["failures"]:
        return []
    rows = [(item["id"], item["error"]) for item in result["failures"]]
    return ["<h2>Failed</h2>", _table(("utterance", "error"), rows, numbers=False)]
