"""What to measure on: audio files with their German, and perhaps English, references.

engine.manifests reads. A measurement also needs audio files that exist, each clip once, and English for all
clips or for none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.errors import BenchmarkError, ManifestError
from engine.audio.limits import SAMPLE_RATE
from engine.audio.parts import load_part
from engine.manifests import ManifestRow, scan_manifest
from engine.manifests.datasets import cache_folder
from engine.text import normalize_text


@dataclass(frozen=True, slots=True)
class Utterance:
    """One clip and what is said in it.

    Attributes:
        id: unique in the manifest; the path as written there unless an `id` column says else.
        path: the audio file.
        text_de: the German reference, as written; empty for a clip without speech.
        text_en: the English reference; None without one.
        columns: every other column of the manifest.
        offset_s: where the clip begins in the file.
        duration_s: its length in seconds; None is the rest of the file.
    """

    id: str
    path: Path
    text_de: str
    text_en: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    offset_s: float = 0.0
    duration_s: float | None = None

    @property
    def is_part(self) -> bool:
        """Whether only a part of the file belongs to the clip."""
        return self.offset_s > 0 or self.duration_s is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found.

    Attributes:
        utterances: all clips of lines that could be read.
        problems: everything that is wrong, each with file and line.
    """

    utterances: Sequence[Utterance]
    problems: Sequence[str]


def read_data(
    data: Path, clips: Path | None = None, split: str = "test", limit: int | None = None
) -> list[Utterance]:
    """Read and check the data of `--data`.

    Args:
        data, clips, split: as source, clips and split of engine.manifests.read_manifest.
        limit: return only the first utterances, so many; the rest is still checked.
    Raises:
        ManifestError: with every problem of every line, before anything is measured.
        DependencyError: a dataset's file, and pyarrow is missing.
    """
    reading = scan_data(data, clips, split)
    if reading.problems:
        raise ManifestError(data, reading.problems)
    return list(reading.utterances)[:limit]


def read_manifest(path: str | Path, limit: int | None = None) -> list[Utterance]:
    """Read and check a manifest, like read_data."""
    return read_data(Path(path), limit=limit)


def scan_data(data: Path, clips: Path | None = None, split: str = "test") -> Reading:
    """Read as read_data does, but return the problems with the utterances.

    Raises:
        DependencyError: a dataset's file, and pyarrow is missing.
    """
    scan = scan_manifest(data, clips=clips, split=split)
    utterances = [_to_utterance(row) for row in scan.rows]
    problems = list(scan.problems)
    for row in scan.rows:
        problems += [f"{row.place}: {problem}" for problem in _check_audio(row.path)]
    # Parts of one file, and files with equal names, may have different ids.
    problems += _duplicates("id", scan.rows, [item.id for item in utterances]) or _duplicates(
        "clip", scan.rows, [f"{row.path}@{row.offset_s:g}+{row.duration_s}" for row in scan.rows]
    )
    problems += _partly_translated(scan.rows)
    return Reading(utterances, problems)


def _to_utterance(row: ManifestRow) -> Utterance:
    return Utterance(
        id=row.id,
        path=row.path,
        text_de=row.text.strip(),
        text_en=(row.translation or "").strip() or None,
        columns=row.columns,
        offset_s=row.offset_s,
        duration_s=row.duration_s,
    )


def _check_audio(path: Path) -> list[str]:
    try:
        if not path.is_file():
            return [f"no audio file {path}"]
        return [] if path.stat().st_size else [f"empty audio file {path}"]
    except OSError as error:
        return [f"no audio file {path} ({error.strerror})"]


def _duplicates(what: str, rows: Sequence[ManifestRow], values: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    problems = []
    for row, value in zip(rows, values, strict=True):
        if value in first:
            problems.append(f"{row.place}: {what} {value!r} again (first in {first[value]})")
        first.setdefault(value, row.place)
    return problems


def _partly_translated(rows: Sequence[ManifestRow]) -> list[str]:
    """English for all clips with speech or for none: an empty reference would count as wrong."""
    spoken = [row for row in rows if normalize_text(row.text)]
    empty = [row for row in spoken if not (row.translation or "").strip()]
    if len(empty) == len(spoken):
        return []
    return [f"{row.place}: empty English reference" for row in empty]


def cut_parts(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Write every clip that is a part of a file to a separate file in the user's cache, once.

    The measurement begins with reading a file, and a peer gets only a path.

    Returns:
        The same utterances; a part has the path of its separate file: WAV, mono, 16 kHz, 32-bit float.
    Raises:
        AudioError: a file cannot be decoded, or ends before its part. BenchmarkError: the cache cannot be
        written.
    """
    return [_cut(item) if item.is_part else item for item in utterances]


def _cut(item: Utterance) -> Utterance:
    import soundfile

    status = item.path.stat()
    identity = (
        f"{item.path.resolve()}:{status.st_size}:{status.st_mtime_ns}:{item.offset_s}:{item.duration_s}"
    )
    target = cache_folder() / "parts" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.wav"
    if not target.is_file():
        waveform = load_part(item.path, item.offset_s, item.duration_s)
        temporary = target.with_name(f"{target.stem}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(temporary, waveform, SAMPLE_RATE, "FLOAT", format="WAV")
            temporary.replace(target)
        except (OSError, soundfile.LibsndfileError) as error:
            raise BenchmarkError(
                f"cannot write {target} ({error})",
                "space for clips that are cut from files",
                "set XDG_CACHE_HOME",
            ) from error
    return replace(item, path=target)


def columns_of(utterances: Sequence[Utterance]) -> Collection[str]:
    """The names of all further columns."""
    return {name for item in utterances for name in item.columns}
