"""Phrases that small translators get wrong, each with what is accepted: times, numbers, names, idioms."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.errors import ManifestError
from benchmarks.measures.text_system import TextSystem, open_text_system
from benchmarks.options import natural, positive
from benchmarks.reports.provenance import provenance
from benchmarks.reports.table import align
from benchmarks.run import write_json
from engine.manifests.text_file import read_lines
from engine.types import DecodingOptions

PHRASES: Final = Path(__file__).parents[1] / "data" / "phrases.tsv"
COLUMNS: Final = ("category", "german", "accepted", "refused")


@dataclass(frozen=True, slots=True)
class Phrase:
    """One German phrase.

    Attributes:
        category: what it tests.
        german: the phrase.
        accepted: found in every right translation.
        refused: found in wrong ones; None where nothing is.
    """

    category: str
    german: str
    accepted: re.Pattern[str]
    refused: re.Pattern[str] | None

    def judge(self, english: str) -> bool:
        """Whether a translation is right."""
        text = english.replace("’", "'")
        refused = self.refused is not None and self.refused.search(text) is not None
        return self.accepted.search(text) is not None and not refused


def read_phrases(path: Path = PHRASES) -> list[Phrase]:
    """Read a list: a header, then category, German, accepted and refused patterns, separated by tabs.

    Raises:
        TextFileError: unreadable. ManifestError: other columns, or no patterns; it names the lines.
    """
    lines = read_lines(path)
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise ManifestError(path, [f"{path}:1: not the columns {', '.join(COLUMNS)}"])
    phrases, problems = [], []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        try:
            category, german, accepted, refused = cells
            if not (category and german and accepted):
                raise ValueError("an empty cell")
            never = _pattern(refused) if refused else None
            phrases.append(Phrase(category, german, _pattern(accepted), never))
        except (ValueError, re.error) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems or not phrases:
        raise ManifestError(path, problems or [f"{path}: no phrases"])
    return phrases


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def score_phrases(
    translator: TextSystem, phrases: Sequence[Phrase], beam_size: int | None = None
) -> list[dict[str, Any]]:
    """Translate and judge.

    Returns:
        For each phrase category, german, english and right.
    """
    options = DecodingOptions(translation_beam_size=beam_size)
    english = translator.translate_text([phrase.german for phrase in phrases], options)
    return [
        {"category": phrase.category, "german": phrase.german, "english": text, "right": phrase.judge(text)}
        for phrase, text in zip(phrases, english, strict=True)
    ]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `phrases`."""
    parser.add_argument("--data", type=Path, default=PHRASES, metavar="TSV", help="another list of phrases")
    parser.add_argument("--model", metavar="PATH", help="bundle folder (the embedded bundle)")
    parser.add_argument("--threads", type=natural, default=0, metavar="N", help="0: all available cores (0)")
    parser.add_argument("--beam_size", type=positive, metavar="N", help="of the search (the bundle's)")
    parser.add_argument("--wrong", action="store_true", help="list what is wrong")
    parser.add_argument("--json", metavar="OUT", help="write the result")


def run(options: argparse.Namespace) -> int:
    """Score the list and print a table by category."""
    phrases = read_phrases(options.data)
    translator = open_text_system(options.model, options.threads)
    rows = score_phrases(translator, phrases, options.beam_size)
    result = {
        **provenance("engine-bench"), "signature": translator.signature,
        "right": sum(row["right"] for row in rows), "phrases": len(rows), "rows": rows,
    }  # fmt: skip
    if options.json:
        write_json(result, Path(options.json))
    if options.wrong:
        wrong = [[row["category"], row["german"], row["english"]] for row in rows if not row["right"]]
        print(align(wrong, ["category", "German", "English"]), end="\n\n")
    categories = list(dict.fromkeys(row["category"] for row in rows))
    cells = [[name, *_count([row for row in rows if row["category"] == name])] for name in categories]
    print(align([*cells, ["all", *_count(rows)]], ["category", "right", "of"]))
    return 0


def _count(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [str(sum(row["right"] for row in rows)), str(len(rows))]
