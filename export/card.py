"""Model cards: what a bundle is, where it comes from, its measured accuracy and speed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.bundle.schema import AcousticConfig
from export.verification.trials import trial_table
from export.verification.verify import Report


def render_acoustic_card(
    name: str,
    licence: str,
    about: Sequence[str],
    config: AcousticConfig,
    report: Report,
    kept: Sequence[str],
) -> str:
    """The card of an acoustic model: what it takes, and the comparison with its checkpoint."""
    features = config.features
    fed = (
        "waveform"
        if features.kind == "waveform"
        else f"{features.n_mels} log-mel bands ({features.convention})"
    )
    facts = [
        f"input: {fed}, {features.sample_rate} Hz, at most {config.max_window_s:g} s at once",
        f"output: CTC emissions, one row for every {config.samples_per_frame} samples",
        f"precision: {config.precision}; opset {config.opset}",
        "exported with " + ", ".join(f"{key} {value}" for key, value in config.exporter.items()),
    ]
    if config.precision != "fp32" and kept:
        facts.append("float32 arithmetic in: " + ", ".join(kept))
    if config.mask:
        facts.append("an input attention_mask: one call may take utterances of different lengths")
    lines = [f"# {name}", "", f"Licence: {licence}", "", *about, "", *(f"- {fact}" for fact in facts), ""]
    return "\n".join([*lines, "## The graph against its checkpoint", "", *parity_table(report), ""])


def parity_table(report: Report) -> list[str]:
    """The comparison, as lines of Markdown."""
    lines = [
        "| length | noise | frames | logits, relative L2 error | same argmax |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row.bucket} | {row.noise} | {row.n_frames} | {row.error:.2g} | {100 * row.agreement:.2f} % |"
        for row in report.rows
    ]
    lines.append("")
    if report.wer_reference is not None and report.wer_export is not None:
        lines.append(
            f"Word error rate, greedy, {report.n_words} words: "
            f"checkpoint {100 * report.wer_reference:.2f} %, graph {100 * report.wer_export:.2f} %."
        )
    lines.append(_speed_line(report))
    if report.exact_on:
        lines.append(f"Integer products are exact on: {report.exact_on}.")
    if report.kernels:
        lines += ["", _kernel_line(report)]
    return [*lines, "", *trial_table(report.trials), *_batch_table(report), *_sensitivity_table(report)]


def _speed_line(report: Report) -> str:
    if report.speedup is None:
        return "Not timed against the float32 graph."
    where = "one thread" if report.device == "cpu" else report.device
    return f"Speed against the float32 graph, {where}, 6 s, interleaved: {report.speedup:.2f} times."


def _kernel_line(report: Report) -> str:
    found = report.kernels
    words = f", word error rate {100 * found['wer']:.2f} %" if "wer" in found else ""
    return (
        f"With the engine's own kernels: same argmax {100 * found['agreement']:.2f} %, relative L2 error "
        f"{found['error']:.2g} in the worst row{words}; {found['speedup']:.2f} times as fast as float32."
    )


def _batch_table(report: Report) -> list[str]:
    """One utterance of each bucket, alone and among others."""
    sizes = sorted({row.batch for row in report.batches})
    if not sizes:
        return []
    shown = {(row.bucket, row.noise, row.batch): row for row in report.batches}
    titles = " | ".join(f"batch {size}: error, as alone" for size in sizes)
    lines = [f"| length | noise | {titles} |", "|---|---|" + "---:|" * len(sizes)]
    for bucket, noise in dict.fromkeys((row.bucket, row.noise) for row in report.batches):
        found = [shown[bucket, noise, size] for size in sizes]
        cells = " | ".join(f"{row.error:.2g}, {100 * row.alone:.2f} %" for row in found)
        lines.append(f"| {bucket} | {noise} | {cells} |")
    note = (
        "The graph takes a mask: padding and other utterances of the batch change only the rounding."
        if report.masked
        else "The engine runs one utterance per call, so its transcripts do not depend on a batch."
    )
    return [*lines, "", note]


def _sensitivity_table(report: Report) -> list[str]:
    if not report.sensitivity:
        return []
    ordered = sorted(report.sensitivity.items(), key=lambda pair: -pair[1])
    lines = ["", "Relative L2 error of the logits when only one block computes in int8, over 3 s:", ""]
    lines += ["| block | error |", "|---|---:|"]
    return [
        *lines,
        *(f"| {block} | {error:.2g} |" for block, error in ordered),
    ]


def render_bundle_card(
    name: str, licence: str, parts: Mapping[str, str], figures: Mapping[str, Any], about: str = ""
) -> str:
    """The card of a whole bundle: a section for each part's card, and the figures of the whole bundle."""
    lines = [f"# {name}", "", f"Licence: {licence}", ""]
    if about:
        lines += [about.strip(), ""]
    lines += ["## Measured", ""]
    lines += figures_table(figures) if figures else ["Nothing was measured for this bundle as a whole.", ""]
    for title, card in parts.items():
        lines += [f"## {title}", "", deepen(card), ""]
    return "\n".join(lines)


def figures_table(figures: Mapping[str, Any]) -> list[str]:
    """Figures as a table of two columns; nested ones as JSON."""
    lines = ["| figure | value |", "|---|---|"]
    for key, value in figures.items():
        shown = value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
        lines.append(f"| {key} | {str(shown).replace('|', ' &#124; ')} |")
    return [*lines, ""]


def deepen(card: str) -> str:
    """A card as a section of another: its headings two levels lower."""
    return "\n".join(f"##{line}" if line.startswith("#") else line for line in card.strip().splitlines())
