"""Translation of text alone: BLEU, chrF, names and numbers of a bundle's translator, from three kinds of it.

`written` is the unchanged text; `recogniser` has no case, punctuation and digits, like the output of a
recogniser without errors; `restored` is the same after the bundle's punctuation model, which is what the
translator gets in the engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.errors import ManifestError
from benchmarks.extras import SCORING, check_extras
from benchmarks.measures.faithfulness import count_faithfulness
from benchmarks.measures.metrics import TranslationScorer, normalizer_signature
from benchmarks.measures.text_system import TextSystem, open_text_system
from benchmarks.options import Progress, natural, positive
from benchmarks.reports.provenance import provenance
from benchmarks.reports.table import align, number, percent
from benchmarks.run import write_json
from benchmarks.studies.text_against import OfBundle, compare_text, open_other
from engine.manifests.text_file import read_lines
from engine.text import normalize_text
from engine.types import DecodingOptions

BEAMS = (1, 4)
COUNTED = ("invented_numbers", "empty", "untranslated", "repeated", "too_short", "too_long")  # lines
Pairs = list[tuple[str, str]]


def read_pairs(path: Path) -> Pairs:
    """German and English of a text set: lines of id, German, English, separated by tabs.

    Raises:
        TextFileError: unreadable. ManifestError: empty, or lines of another form, all of which it names.
    """
    rows = [line.split("\t") for line in read_lines(path)]
    problems = [
        f"{path}:{number}: not id<TAB>German<TAB>English"
        for number, row in enumerate(rows, 1)
        if len(row) != 3 or not row[1].strip()
    ]
    if problems or not rows:
        raise ManifestError(path, problems or ["it is empty"])
    return [(german, english) for _, german, english in rows]


def sources_of(translator: TextSystem, pairs: Pairs) -> dict[str, list[str]]:
    """The German sides by kind; `restored` only where the bundle has a punctuation model."""
    plain = [normalize_text(german) for german, _ in pairs]
    found = {"written": [german for german, _ in pairs], "recogniser": plain}
    if translator.bundle.has("punctuation"):
        found["restored"] = [translator.punctuate(text) for text in plain]
    return found


def score_text(
    translator: TextSystem,
    sets: dict[str, Pairs],
    beams: Sequence[int] = BEAMS,
    progress: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Score every set from every kind of German with every beam size.

    Yields:
        set, source, beam_size, sentences, bleu, chrf, signatures, and the counts of Faithfulness.
    """
    for name, pairs in sets.items():
        references, written = [english for _, english in pairs], [german for german, _ in pairs]
        for source, texts in sources_of(translator, pairs).items():
            for beam_size in beams:
                scorer = TranslationScorer()
                english = translator.translate_text(texts, DecodingOptions(translation_beam_size=beam_size))
                yield {
                    "set": name, "source": source, "beam_size": beam_size, "sentences": len(pairs),
                    "bleu": round(scorer.bleu(english, references), 2),
                    "chrf": round(scorer.chrf(english, references), 2),
                    **count_faithfulness(written, english, references).as_row(),
                    "sacrebleu": scorer.signatures,
                }  # fmt: skip
                progress()


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `text`."""
    parser.add_argument("data", nargs="+", type=Path, metavar="TSV", help="id<TAB>German<TAB>English lines")
    parser.add_argument("--model", metavar="PATH", help="bundle folder (the embedded bundle)")
    parser.add_argument("--threads", type=natural, default=0, metavar="N", help="0: all available cores (0)")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER",
        help="also score another bundle, or a Marian checkpoint such as opus-mt-de-en, in turn",
    )  # fmt: skip
    parser.add_argument(
        "--peer_python", default=sys.executable, metavar="PATH", help="interpreter that has transformers"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only N sentences of each, evenly spread")
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    """Score the sets and print a table."""
    check_extras(*SCORING)
    sets = {path.stem: _spread(read_pairs(path), options.limit) for path in options.data}
    translator = open_text_system(options.model, options.threads)
    result: dict[str, Any] = {**provenance("engine-bench")}
    result["signature"] = f"{translator.signature}|{normalizer_signature()}"
    score = _score_both if options.against else _score_one
    rows, more = score(options, translator, sets)
    result |= {**more, "rows": rows}
    if options.json:
        write_json(result, Path(options.json))
    print(_table(rows))
    return 0


Scored = tuple[list[dict[str, Any]], dict[str, Any]]  # rows, and what else the result holds


def _score_one(options: argparse.Namespace, translator: TextSystem, sets: dict[str, Pairs]) -> Scored:
    n_kinds = 3 if translator.bundle.has("punctuation") else 2
    with closing(Progress(options.quiet)) as bars:
        tick = bars(len(sets) * n_kinds * len(BEAMS), "text")
        return list(score_text(translator, sets, progress=tick)), {}


def _score_both(options: argparse.Namespace, translator: TextSystem, sets: dict[str, Pairs]) -> Scored:
    texts = {
        name: ([english for _, english in pairs], sources_of(translator, pairs))
        for name, pairs in sets.items()
    }
    n_rows = 2 * sum(len(sources) for _, sources in texts.values())
    with (
        closing(open_other(options.against, options.threads, options.peer_python)) as other,
        closing(Progress(options.quiet)) as bars,
    ):
        rows = compare_text(OfBundle(translator), other, texts, BEAMS[-1], bars(n_rows, "text"))
        return list(rows), {"against": other.signature}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    cells, both = [], any("system" in row for row in rows)
    for row in rows:
        cells.append(
            [row["set"], row["source"], str(row["beam_size"]), str(row["sentences"]), number(row["bleu"]),
             number(row["chrf"]), percent(row["numbers_kept"]), percent(row["names_kept"]),
             *(str(row[key]) for key in COUNTED)]
        )  # fmt: skip
        if both:
            change = row.get("bleu_difference")
            said = f"{change[0]:+.2f} [{change[1]:+.2f}, {change[2]:+.2f}]" if change else ""
            cells[-1] = [row["system"], *cells[-1], number(row["cpu_ms"]), said]
    header = ["set", "source", "beam", "sentences", "BLEU", "chrF", "numbers %", "names %"]
    header += [key.replace("_", " ") for key in COUNTED]
    return align(cells, ["system", *header, "CPU ms", "BLEU, minus engine's"] if both else header)


def _spread(pairs: Pairs, limit: int | None) -> Pairs:
    return pairs[:: max(1, len(pairs) // limit)][:limit] if limit else pairs
