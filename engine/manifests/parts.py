"""Offsets and durations held against the audio files that they are parts of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from engine.audio.parts import SLACK_S, Length, read_length
from engine.manifests.rows import ManifestRow


def check_parts(rows: Sequence[ManifestRow]) -> tuple[list[ManifestRow], list[str]]:
    """Compare every part with its file's length, from the header.

    Args:
        rows: those without offset and duration are left alone, and so are files that are missing or whose
            header does not say: they are found out when they are loaded.
    Returns:
        The rows, where the duration of a whole file is None, and one problem for each part that does not
        lie inside its file.
    """
    lengths: dict[Path, Length | None] = {}
    checked, problems = [], []
    for row in rows:
        if row.is_part:
            if row.path not in lengths:
                lengths[row.path] = read_length(row.path)
            row, problem = _check(row, lengths[row.path])
            if problem:
                problems.append(f"{row.place}: {problem}")
                continue
        checked.append(row)
    return checked, problems


def _check(row: ManifestRow, length: Length | None) -> tuple[ManifestRow, str]:
    if length is None:
        return row, ""
    end_s = row.offset_s + (row.duration_s or 0.0)
    if row.offset_s >= length.seconds or end_s > length.seconds + length.slack_s:
        said = f"offset {row.offset_s:.10g}"
        said += f" + duration {row.duration_s:.10g}" if row.duration_s is not None else ""
        return row, f"{said} is beyond the end of {row.path} ({length.seconds:.3f} s)"
    if not row.offset_s and abs(end_s - length.seconds) <= SLACK_S:
        return dataclasses.replace(row, duration_s=None), ""
    return row, ""
