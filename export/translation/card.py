"""The model card of an exported translator: BLEU and chrF from written and from recogniser-style sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.bundle.folder import open_bundle, write_bundle
from engine.bundle.schema import TranslationConfig
from engine.text import normalize_text
from engine.translation.translator import Translator
from engine.types import RuntimeOptions

STYLES = ("written", "recogniser")
BEAMS = (1, 4)
Rows = Sequence[tuple[str, str]]


def score_sets(translator: Translator, sets: Mapping[str, Rows]) -> Iterator[dict[str, Any]]:
    """Score every set in every style and with every beam size.

    Args:
        translator: the exported model.
        sets: (German, English) sentences by name.
    Yields:
        set, style, beam_size, sentences, bleu, chrf and the metrics' signatures.
    """
    import sacrebleu

    for name, rows in sets.items():
        references = [[english for _, english in rows]]
        for style in STYLES:
            sources = [german if style == "written" else normalize_text(german) for german, _ in rows]
            for beam_size in BEAMS:
                results = translator.translate_paragraphs(sources, beam_size=beam_size)
                outputs = [result.text for result in results]
                bleu, chrf = sacrebleu.metrics.BLEU(), sacrebleu.metrics.CHRF()
                yield {
                    "set": name, "style": style, "beam_size": beam_size, "sentences": len(rows),
                    "bleu": round(bleu.corpus_score(outputs, references).score, 2),
                    "chrf": round(chrf.corpus_score(outputs, references).score, 2),
                    "signature": f"{bleu.get_signature()} ; {chrf.get_signature()}",
                }  # fmt: skip


def open_export(folder: Path, scratch: Path, threads: int = 1) -> Translator:
    """A translator from an export; a bundle made from it is written to `scratch`."""
    import msgspec

    from export.translation.runners import FILES

    config = msgspec.json.decode((folder / "translation.json").read_bytes(), type=TranslationConfig)
    files = {role: folder / name for role, name in FILES.items()}
    write_bundle(scratch, name=folder.name, licence="unknown", files=files, translation=config, card="")
    return Translator(open_bundle(scratch), RuntimeOptions(device="cpu", threads=threads))


def write_card(folder: Path, scores: Sequence[Mapping[str, Any]], about: str) -> Path:
    """Write README.md into an export's folder.

    Args:
        folder: what `export marian` wrote.
        scores: of score_sets.
        about: what the model is, its data and its limits; Markdown.
    """
    config = json.loads((folder / "translation.json").read_text(encoding="utf-8"))
    size_mb = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".md") / 1e6
    lines = [about.strip(), "", "## Quality", "", "| set | source | beam | sentences | BLEU | chrF |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [
        f"| {s['set']} | {s['style']} | {s['beam_size']} | {s['sentences']} | {s['bleu']} | {s['chrf']} |"
        for s in scores
    ]
    signature = scores[0]["signature"] if scores else "not measured"
    lines += [
        "", "Recogniser-style: lower case, no punctuation, numbers spelled out, no recognition errors.",
        f"Metrics: {signature}. Precision {config['precision']}, {size_mb:.1f} MB.",
        "", "## Export", "", "```json", json.dumps(config["figures"], indent=1, ensure_ascii=False), "```",
    ]  # fmt: skip
    path = folder / "README.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
