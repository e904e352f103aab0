"""Text of TSV, CSV and JSONL manifests to lines of cells."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from engine.manifests.rows import PATH_COLUMNS, TEXT_COLUMNS, Cells, first_of
from engine.manifests.text_file import split_lines

JSON_SUFFIXES: Final = (".jsonl", ".json", ".ndjson")
Found = tuple[list[Cells], list[str]]  # lines, problems


def parse_file(
    path: Path, text: str, needed: Sequence[Sequence[str]] = (PATH_COLUMNS, TEXT_COLUMNS)
) -> Found:
    """Take a manifest's text apart; the suffix of its name says how: .jsonl, .json, .ndjson, .csv, or TSV.

    Args:
        path: names the file in problems.
        needed: groups of column names; of each a table's header must have one.
    Returns:
        The lines, and one problem for each that has the wrong form.
    """
    if path.suffix.lower() in JSON_SUFFIXES:
        return _parse_jsonl(path, text)
    rows = _csv_rows(text) if path.suffix.lower() == ".csv" else _tsv_rows(text)
    return _parse_rows(path, rows, needed)


def header_of(text: str) -> list[str]:
    """Column names of tab-separated text."""
    lines = split_lines(text[: text.find("\n") + 1] or text)
    return [name.strip() for name in lines[0].split("\t")] if lines else []


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Line numbers and cells; quotes are ordinary characters."""
    for number, line in enumerate(split_lines(text), 1):
        yield number, line.split("\t") if line.strip() else []


def _csv_rows(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Numbers of first lines and cells, quotes as in RFC 4180; a problem as a string ends the table."""
    reader = csv.reader((line + "\n" for line in text.removesuffix("\n").split("\n")), strict=True)
    first = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield first, f"not CSV ({error})"
            return
        if row is None:
            return
        yield first, row
        first = reader.line_num + 1


def _parse_rows(
    path: Path, rows: Iterator[tuple[int, list[str] | str]], needed: Sequence[Sequence[str]]
) -> Found:
    lines: list[Cells] = []
    number, names = next(rows, (1, []))
    if isinstance(names, str):
        return lines, [f"{path}:{number}: {names}"]
    header = [name.strip() for name in names]
    problems = _header_problems(f"{path}:{number}", header, needed)
    if problems:
        return lines, problems
    for number, row in rows:
        if isinstance(row, str):
            problems.append(f"{path}:{number}: {row}")
        elif row and len(row) != len(header):
            problems.append(f"{path}:{number}: {len(row)} columns, the header has {len(header)}")
        elif row:
            lines.append(Cells(f"{path}:{number}", dict(zip(header, row, strict=True))))
    return lines, problems


def _header_problems(place: str, header: Sequence[str], needed: Sequence[Sequence[str]]) -> list[str]:
    wanted = " and ".join(f"one of {', '.join(names)}" for names in needed)
    if not any(header):
        return [f"{place}: no header; want {wanted}"]
    problems = [f"{place}: column {name!r} twice" for name, count in Counter(header).items() if count > 1]
    if any(first_of(names, header) is None for names in needed):
        problems.append(f"{place}: got columns {', '.join(header)}; want {wanted}")
    return problems


def _parse_jsonl(path: Path, text: str) -> Found:
    lines, problems = [], []
    for number, line in enumerate(split_lines(text), 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{place}: not JSON ({error})")
            continue
        if isinstance(values, dict):
            lines.append(Cells(place, values))
        else:
            problems.append(f"{place}: got {type(values).__name__}, want a JSON object on each line")
    return lines, problems
