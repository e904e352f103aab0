"""Long recordings with their texts, all checked before any is processed."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from engine.errors import EngineError, OptionError
from training.alignment.spoken_text import TextError, read_slots
from training.common.data import Sample, probe_samples, read_manifest

LOGGER = logging.getLogger("training.alignment.command")


class Recording(NamedTuple):
    """One recording to cut.

    Attributes:
        name: unique in its manifest, letters, digits, "_" and "-": its folder of clips.
        path: the audio. source: its path for the manifest.
        text: what was read aloud. speaker: empty where the manifest names none.
        duration_s: from the file's header.
        offset_s, part_s: which part of the file it is, as in training.common.data.Sample.
    """

    name: str
    path: Path
    source: str
    text: str
    speaker: str
    duration_s: float
    offset_s: float = 0.0
    part_s: float | None = None


class RecordingsError(EngineError, ValueError):
    """Recordings that cannot be used; the message names all of them."""


def read_recordings(manifest: Path, skip_bad: bool = False) -> list[Recording]:
    """Read a manifest of long recordings.

    Args:
        manifest: as training.common.data.read_manifest takes it.
        skip_bad: leave bad ones out with a warning instead of raising.
    Returns:
        At least one recording.
    Raises:
        ManifestError: unreadable. RecordingsError: missing or unreadable audio, texts that are empty or
        in another script; one message names all of them.
    """
    samples = probe_samples(read_manifest(manifest))
    names = _names_of(samples)
    folder = manifest if manifest.is_dir() else manifest.parent
    found, problems = [], []
    for sample, name in zip(samples, names, strict=True):
        problem = sample.problem or _check_text(sample.text)
        if problem:
            problems.append(f"{sample.path}: {problem}")
        else:
            source = sample.path.relative_to(folder) if sample.path.is_relative_to(folder) else sample.path
            found.append(
                Recording(
                    name, sample.path, source.as_posix(), sample.text, sample.speaker, sample.duration_s,
                    sample.offset_s, sample.part_s,
                )
            )  # fmt: skip
    if problems and (not skip_bad or not found):
        raise RecordingsError(
            f"{len(problems)} of {len(samples)} recordings cannot be used:\n  " + "\n  ".join(problems[:50]),
            "audio files, each with German text",
            "correct the manifest, or leave them out with --skip_bad",
        )
    for problem in problems:
        LOGGER.warning("left out: %s", problem)
    return found


def _check_text(text: str) -> str:
    try:
        read_slots(text)
    except TextError as error:
        return str(error)
    return ""


def _names_of(samples: Sequence[Sample]) -> list[str]:
    """A name for each recording, from its file's name; equal names get numbers."""
    names: dict[str, None] = {}
    for sample in samples:
        stem = re.sub(r"[^\w-]+", "_", sample.path.stem) or "recording"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names[name] = None
    return list(names)


def choose_held_out(recordings: Sequence[Recording], patterns: Sequence[str]) -> set[str]:
    """Names of the recordings that any of the patterns matches, by name, source or speaker.

    Args:
        patterns: names or shell patterns such as "interview_*".
    Raises:
        OptionError: a pattern matches nothing, or all recordings are held out.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {
            recording.name
            for recording in recordings
            if any(
                fnmatchcase(text, pattern) for text in (recording.name, recording.source, recording.speaker)
            )
        }
        if not matched:
            known = ", ".join(sorted(recording.name for recording in recordings)[:20])
            raise OptionError(
                f"--keep_out {pattern} matches no recording", f"one of {known}", "check the name"
            )
        chosen |= matched
    if chosen and len(chosen) == len(recordings):
        raise OptionError(
            "--keep_out matches every recording",
            "patterns that leave some recordings for training",
            "name fewer",
        )
    return chosen
