"""Model cards: what a bundle is, where it comes from, how good and how fast it was measured to be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.manifest import AcousticConfig
from export.verify import Report


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
    if config.precision == "int8" and kept:
        facts.append("float32 arithmetic in: " + ", ".join(kept))
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
    if report.speedup is not None:
        lines.append(
            f"Speed against the float32 graph, one thread, 6 s, interleaved: {report.speedup:.2f} times."
        )
    batches = ", ".join(f"{size}: {100 * share:.2f} %" for size, share in report.batch_agreement.items())
    lines.append(
        f"Argmax agreement of an utterance alone and in a batch of {batches}. "
        "The engine runs one utterance a call, so its transcripts do not depend on a batch."
    )
    return lines


def render_bundle_card(
    name: str, licence: str, parts: Mapping[str, str], figures: Mapping[str, Any], about: str = ""
) -> str:
    """The card of a whole bundle: a section for each part's own card, and the figures of the whole."""
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
    """A card as a part of another: its headings two levels down."""
    return "\n".join(f"##{line}" if line.startswith("#") else line for line in card.strip().splitlines())
