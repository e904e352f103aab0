"""A manifest as a list of recordings that are to be recognised: no text is wanted, no file is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import ManifestError, TextFileError
from engine.manifests.rows import DURATION, ID, OFFSET, PATH_COLUMNS, Cells, first_of, to_row
from engine.manifests.tables import parse_file
from engine.manifests.text_file import read_text

UNIQUE: Final = "give every line another id, or leave the column id out"


class Recording(NamedTuple):
    """A file, or a part of one.

    Attributes:
        id: of the column id, else the path as written, with the part's place where it is a part; unique.
        path: as written in the manifest.
        offset_s: where it begins in the file. duration_s: its length; None is not stated, or to the end.
    """

    id: str
    path: str
    offset_s: float = 0.0
    duration_s: float | None = None


def read_recordings(manifest: Path) -> list[Recording]:
    """Read a manifest of recordings.

    Args:
        manifest: JSONL in the manner of NeMo and lhotse, TSV or CSV, by its suffix.
    Returns:
        The lines in order, at least one. Paths are as written: relative to the manifest's folder.
    Raises:
        ManifestError: lists every problem, with file and line; an id that two lines have is one.
    """
    try:
        lines, problems = parse_file(manifest, read_text(manifest), (PATH_COLUMNS,))
    except TextFileError as error:
        raise ManifestError(manifest, [f"{error.got}; want {error.want}; {error.fix}"]) from error
    found: dict[str, tuple[Recording, str]] = {}
    for line in lines:
        recording, wrong = _read_line(line)
        problems += wrong
        if recording is None:
            continue
        earlier = found.setdefault(recording.id, (recording, line.place))[1]
        if earlier != line.place:
            problems.append(f"{line.place}: id {recording.id!r} is also that of {earlier}; {UNIQUE}")
    if not found and not problems:
        problems.append(f"{manifest}: no lines")
    if problems:
        raise ManifestError(manifest, problems)
    return [recording for recording, _ in found.values()]


def _read_line(line: Cells) -> tuple[Recording | None, list[str]]:
    column = first_of(PATH_COLUMNS, line.values)
    if column is None:
        names = ", ".join(map(str, line.values)) or "nothing"
        return None, [f"{line.place}: got {names}; want one of {', '.join(PATH_COLUMNS)}"]
    kept = {name: line.values[name] for name in (column, OFFSET, DURATION, ID) if name in line.values}
    row, problems = to_row(Cells(line.place, {**kept, "text": ""}), Path())
    if row is None:
        return None, problems
    return Recording(row.id, str(line.values[column]).strip(), row.offset_s, row.duration_s), []


def lines_of(recordings: Sequence[Recording]) -> Iterator[str]:
    """What makes a list of recordings this list: a line for each, the same on every machine."""
    for each in recordings:
        yield "\t".join([each.id, each.path, repr(each.offset_s), repr(each.duration_s)])
