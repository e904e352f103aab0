"""What was measured, one line a run, on disk as soon as it is known."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.errors import BenchmarkError
from engine.manifests.text_file import split_lines

logger = logging.getLogger("engine-bench")


@dataclass(frozen=True, slots=True)
class Record:
    """One run of one utterance.

    Attributes:
        id: of the utterance.
        repeat: 0 for the first pass over the data.
        wall_s, cpu_s: the run, on the two clocks of benchmarks.measures.reference.
        reference_wall_s, reference_cpu_s: the parts of the reference kernel, timed in turn with it, by name.
        audio_s: length of the audio in seconds; 0 when the run failed.
        text_de, text_en: what was recognised and translated.
        stages_s: seconds by stage.
        error: why there is no result; None when there is one.
    """

    id: str
    repeat: int
    wall_s: float
    cpu_s: float
    reference_wall_s: Mapping[str, float]
    reference_cpu_s: Mapping[str, float]
    audio_s: float = 0.0
    text_de: str = ""
    text_en: str | None = None
    stages_s: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


class Journal:
    """The records so far, a line each, so that an interrupted run loses nothing.

    The first line holds the signature; a journal of anything else is started over.
    """

    def __init__(self, path: Path | None, signature: str) -> None:
        """Open or start a journal.

        Args:
            path: its file; None keeps no journal.
            signature: what is measured, with which settings, on which data.
        Raises:
            BenchmarkError: the file cannot be written.
        """
        self.path = path
        self.records: list[Record] = []
        if path is None:
            return
        self.records = _read_journal(path, signature)
        if not self.records:
            if path.is_file():
                logger.warning("%s is of other settings, data or code: starting over", path)
            write_text(path, json.dumps({"signature": signature}) + "\n")

    def add(self, record: Record) -> None:
        """Keep a record, on disk before the next one starts."""
        self.records.append(record)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")

    def remove(self) -> None:
        """Delete the file: the run is complete and written elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _read_journal(path: Path, signature: str) -> list[Record]:
    try:
        # An interruption may also cut a character in two, and U+2028 within a text ends no line.
        lines = split_lines(path.read_text(encoding="utf-8", errors="replace"))
        if not lines or json.loads(lines[0]).get("signature") != signature:
            return []
    except (OSError, ValueError, AttributeError):
        return []
    records = []
    for line in lines[1:]:
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError):
            break  # the line that the interruption cut short
    if len(records) < len(lines) - 1:
        kept = "\n".join(lines[: 1 + len(records)]) + "\n"
        write_text(path, kept)
    return records


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place first, so that a full disk never leaves half of it.

    Raises:
        BenchmarkError: it cannot be written.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise BenchmarkError(
            f"cannot write {path} ({error})", "a writable place", "name another file"
        ) from error
