"""One line of a manifest, and the names that its columns may have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PATH_COLUMNS: Final = ("path", "audio_filepath", "audio", "file_name")
TEXT_COLUMNS: Final = ("text_de", "text", "sentence", "transcription")
TRANSLATION_COLUMNS: Final = ("text_en", "translation")
SPEAKER_COLUMNS: Final = ("speaker", "client_id", "voice")
OFFSET, DURATION, ID = "offset", "duration", "id"
WANTED: Final = f"one of {', '.join(PATH_COLUMNS)} and one of {', '.join(TEXT_COLUMNS)}"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One utterance, as a manifest describes it.

    Attributes:
        path: the audio file; whether it exists is for the reader's caller to check.
        text: what is said, as written; empty means that nothing is said.
        offset_s: where the utterance begins in the file, in seconds.
        duration_s: its length in seconds; None is the rest of the file.
        translation: in English; None without one.
        speaker: as the manifest names them; empty where it does not.
        id: of an `id` column, else the path as written, with the part's place where it is a part.
        columns: every column that is not one of path, text, translation, offset, duration and id.
        place: file and line (or row), as errors name it.
    """

    path: Path
    text: str
    offset_s: float = 0.0
    duration_s: float | None = None
    translation: str | None = None
    speaker: str = ""
    id: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    place: str = field(default="", compare=False)

    @property
    def is_part(self) -> bool:
        """Whether only a part of the file belongs to the utterance."""
        return self.offset_s > 0 or self.duration_s is not None


@dataclass(frozen=True, slots=True)
class Cells:
    """One line before it is understood: where it stands, and its values by column."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found in a manifest.

    Attributes:
        path: the file or folder that was read.
        rows: the lines without a problem.
        problems: one for each thing that is wrong, with file and line.
    """

    path: Path
    rows: Sequence[ManifestRow]
    problems: Sequence[str]


def first_of(names: Sequence[str], present: Iterable[str]) -> str | None:
    """The first of some column names that a line or header has."""
    known = set(present)
    return next((name for name in names if name in known), None)


def to_row(cells: Cells, folder: Path) -> tuple[ManifestRow | None, list[str]]:
    """Understand one line.

    Args:
        cells: strings, or whatever JSON and Arrow have.
        folder: where paths begin.
    Returns:
        The row, or None and what is wrong with the line.
    """
    values, place = cells.values, cells.place
    path_column, text_column = first_of(PATH_COLUMNS, values), first_of(TEXT_COLUMNS, values)
    if path_column is None or text_column is None:
        return None, [f"{place}: got {', '.join(map(str, values)) or 'nothing'}; want {WANTED}"]
    translation_column = first_of(TRANSLATION_COLUMNS, values)
    problems: list[str] = []
    path = _text_of(values, path_column, problems).strip()
    text = _text_of(values, text_column, problems)
    translation = None
    if translation_column is not None and values[translation_column] is not None:
        translation = _text_of(values, translation_column, problems)
    offset_s = _seconds_of(values, OFFSET, problems) or 0.0
    duration_s = _seconds_of(values, DURATION, problems)
    if not problems:
        problems += _check_path(path, path_column)
    if problems:
        return None, [f"{place}: {problem}" for problem in problems]
    used = {path_column, text_column, translation_column, OFFSET, DURATION, ID}
    return ManifestRow(
        path=folder / path,
        text=text,
        offset_s=offset_s,
        duration_s=duration_s,
        translation=translation,
        speaker=as_text(values.get(first_of(SPEAKER_COLUMNS, values) or "")),
        id=as_text(values.get(ID)).strip() or name_part(path, offset_s, duration_s),
        columns={str(name): as_text(value) for name, value in values.items() if name not in used},
        place=place,
    ), []


def as_text(value: object) -> str:
    """A cell as text: nothing is empty, and what is no string is written as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def name_part(path: str, offset_s: float, duration_s: float | None) -> str:
    """What a line without an id is called: the path, and the place in the file where it is a part."""
    if not offset_s:
        return path
    return f"{path}@{offset_s:.10g}" + (f"+{duration_s:.10g}" if duration_s is not None else "")


def _text_of(values: Mapping[str, Any], column: str, problems: list[str]) -> str:
    value = values[column]
    if not isinstance(value, str):
        problems.append(f"{column!r} is {_kind(value)}, want a string")
        return ""
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        problems.append(f"{column!r} holds half of a surrogate pair, want whole characters")
    return value


def _check_path(path: str, column: str) -> list[str]:
    if not path:
        return [f"{column!r} is empty, want the path of an audio file"]
    return [f"{column!r} holds a zero byte, want the path of an audio file"] if "\0" in path else []


def _seconds_of(values: Mapping[str, Any], column: str, problems: list[str]) -> float | None:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    lowest = "at least 0" if column == OFFSET else "more than 0"
    if not math.isfinite(seconds) or seconds < 0 or (column == DURATION and seconds == 0):
        problems.append(f"{column!r} is {as_text(value)[:40]}, want seconds, {lowest}")
        return None
    return seconds


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    shown = json.dumps(value, default=str)[:40]
    return f"{shown} ({kinds[type(value)]})" if type(value) in kinds else "null" if value is None else shown
