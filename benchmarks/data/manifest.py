"""What to measure on: audio files with their German, and perhaps English, references.

A manifest is a TSV with a header (`path text_de [text_en]`) or JSONL (`audio_filepath text
[translation]`). Further columns are kept and can be grouped by. Paths are relative to the manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.errors import ManifestError
from engine.text import normalize_text

TSV_COLUMNS = {"path": "path", "text_de": "text_de", "text_en": "text_en", "id": "id"}
JSONL_COLUMNS = {"audio_filepath": "path", "text": "text_de", "translation": "text_en", "id": "id"}
REQUIRED = ("path", "text_de")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One audio file and what is said in it.

    Attributes:
        id: unique in the manifest; the path as written there unless an `id` column says else.
        path: the audio file.
        text_de: the German reference, as written.
        text_en: the English reference; None without one.
        columns: every other column of the manifest.
    """

    id: str
    path: Path
    text_de: str
    text_en: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table before it is checked: where it stands, and its cells by column."""

    line: int
    cells: Mapping[str, str]


def read_manifest(path: str | Path, limit: int | None = None) -> list[Utterance]:
    """Read and check a manifest.

    Args:
        path: TSV with a header, or JSONL (by the suffix .jsonl, .json or .ndjson).
        limit: keep the first so many utterances; the rest is still checked.
    Raises:
        ManifestError: with every problem of every line, before anything is measured.
    """
    path = Path(path)
    rows, problems = read_rows(path)
    return check_rows(path, rows, problems, limit)


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The lines of a manifest under the names of TSV_COLUMNS, and what is wrong with its form."""
    text = read_text(path)
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        return _parse_jsonl(text)
    return parse_tsv(text)


def check_rows(
    path: Path, rows: Sequence[Row], problems: Iterable[str], limit: int | None = None
) -> list[Utterance]:
    """Turn rows into utterances, or raise one ManifestError that lists all that is wrong."""
    found = list(problems)
    utterances = [_to_utterance(path.parent, row) for row in rows]
    present = set().union(*(row.cells for row in rows))
    for row, utterance in zip(rows, utterances, strict=True):
        found += [f"line {row.line}: {problem}" for problem in _check(row, utterance, present)]
    if "path" in present:
        again = _duplicates("id", rows, [u.id for u in utterances])
        found += again or _duplicates("path", rows, [str(u.path) for u in utterances])
    found += _partly_translated(rows)
    if not rows and not found:
        found.append("no utterances")
    if found:
        readable = [u.path for u in utterances if u.path.is_file()]
        raise ManifestError(path, found, readable, present - set(TSV_COLUMNS))
    return utterances[:limit] if limit is not None else utterances


def parse_tsv(text: str, names: Mapping[str, str] = TSV_COLUMNS) -> tuple[list[Row], list[str]]:
    """Split tab-separated text with a header; quotes are ordinary characters.

    Args:
        text: the whole file.
        names: column names that are renamed; others stay.
    Returns:
        The rows, and one problem for each line of a wrong width and each missing column.
    """
    lines = split_lines(text)
    header = [names.get(name.strip(), name.strip()) for name in lines[0].split("\t")] if lines else []
    problems = _header_problems(header, names)
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            problems.append(f"line {number}: {len(cells)} columns, the header has {len(header)}")
            continue
        rows.append(Row(number, dict(zip(header, cells, strict=True))))
    return rows, problems


def split_lines(text: str) -> list[str]:
    """Lines ended by \\n or \\r\\n only: str.splitlines would also cut at U+2028 inside a sentence."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _header_problems(header: Sequence[str], names: Mapping[str, str]) -> list[str]:
    written = {own: theirs for theirs, own in reversed(list(names.items()))}
    problems = [
        f"no column {written.get(name, name)!r} in the header ({', '.join(header) or 'empty'})"
        for name in REQUIRED
        if name not in header
    ]
    problems += [f"column {name!r} twice" for name, n in Counter(header).items() if n > 1]
    return problems


def _parse_jsonl(text: str) -> tuple[list[Row], list[str]]:
    rows, problems = [], []
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            problems.append(f"line {number}: not JSON ({error})")
            continue
        if not isinstance(cells, dict):
            problems.append(f"line {number}: {type(cells).__name__}, expected an object")
            continue
        missing = [name for name, own in JSONL_COLUMNS.items() if own in REQUIRED and name not in cells]
        problems += [f"line {number}: no key {name!r}" for name in missing]
        row = {JSONL_COLUMNS.get(str(name), str(name)): _as_text(value) for name, value in cells.items()}
        rows.append(Row(number, row))
    return rows, problems


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_text(path: Path) -> str:
    """The text of a manifest; raises ManifestError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(path, ["no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(path, [f"cannot be read as UTF-8 text ({error})"]) from error


def _to_utterance(folder: Path, row: Row) -> Utterance:
    cells = row.cells
    path = cells.get("path", "").strip()
    text_en = cells.get("text_en", "").strip()
    return Utterance(
        id=cells.get("id", "").strip() or path,
        path=folder / path,
        text_de=cells.get("text_de", "").strip(),
        text_en=text_en or None,
        columns={name: value for name, value in cells.items() if name not in TSV_COLUMNS},
    )


def _check(row: Row, utterance: Utterance, present: Collection[str]) -> list[str]:
    """What is wrong with a row, but for columns that no row has: those are named once."""
    problems = []
    if "path" not in present:
        pass
    elif not row.cells.get("path", "").strip():
        problems.append("empty path")
    elif not utterance.path.is_file():
        problems.append(f"no audio file {utterance.path}")
    elif not utterance.path.stat().st_size:
        problems.append(f"empty audio file {utterance.path}")
    if "text_de" in present and not normalize_text(utterance.text_de):
        problems.append(f"empty German reference ({utterance.text_de!r} holds no words)")
    return problems


def _duplicates(what: str, rows: Sequence[Row], values: Sequence[str]) -> list[str]:
    first: dict[str, int] = {}
    problems = []
    for row, value in zip(rows, values, strict=True):
        if value in first:
            problems.append(f"line {row.line}: {what} {value!r} again (first in line {first[value]})")
        first.setdefault(value, row.line)
    return problems


def _partly_translated(rows: Sequence[Row]) -> list[str]:
    """An English column is all or nothing: an empty reference would count as a wrong translation."""
    empty = [row for row in rows if not row.cells.get("text_en", "").strip()]
    if len(empty) == len(rows):
        return []
    return [f"line {row.line}: empty English reference" for row in empty]
