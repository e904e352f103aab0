"""The output folder: clips and a record for each recording, so that a run can be resumed; manifests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile

from engine.audio.vad import Waveform
from training.alignment.cutting import Cut, CutOptions
from training.alignment.recordings import Recording

VERSION: Final = 1  # of what is cut; records of another version are cut again
COLUMNS: Final = ("path", "duration_s", "speaker", "text_de", "score", "agreement", "source", "start_s")
PARTIAL: Final = ".part"


def fingerprint(recording: Recording, options: CutOptions, model: str) -> str:
    """A digest of everything that decides how a recording is cut.

    Args:
        model: the model's signature.
    Raises:
        OSError: the audio file is missing.
    """
    stat = recording.path.stat()
    parts = (
        VERSION, recording.text, recording.speaker, recording.source, stat.st_size, stat.st_mtime_ns,
        dataclasses.astuple(options), model,
        *((recording.offset_s, recording.part_s) if recording.part_s or recording.offset_s else ()),
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


class CorpusFolder:
    """An output folder. Every file in it is written under a temporary name first, then renamed.

    Layout: audio/NAME/0000.flac and so on, records/NAME.json, train.tsv, held_out.tsv.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._audio, self._records = folder / "audio", folder / "records"
        for path in (self._audio, self._records):
            path.mkdir(parents=True, exist_ok=True)

    def read_record(self, name: str, digest: str) -> dict[str, Any] | None:
        """The record of a finished recording; None where it is missing, of other settings or incomplete."""
        try:
            record = json.loads((self._records / f"{name}.json").read_text(encoding="utf-8"))
            complete = all((self.folder / row["path"]).is_file() for row in record["rows"])
            return record if record["digest"] == digest and complete else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_recording(
        self, recording: Recording, waveform: Waveform, rate: int, cut: Cut, digest: str
    ) -> dict[str, Any]:
        """Write a recording's clips and, after them, its record; returns the record.

        Raises:
            OSError: the disk is full or the folder cannot be written; no partial file is left.
        """
        target = self._audio / recording.name
        beside = self._audio / (recording.name + PARTIAL)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            rows = _write_clips(beside, recording, waveform, rate, cut)
            (self._records / f"{recording.name}.json").unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            beside.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        duration_s = len(waveform) / rate or recording.duration_s
        record = {
            "digest": digest, "duration_s": round(duration_s, 3), "rows": rows,
            "dropped_s": {reason: round(seconds, 3) for reason, seconds in cut.dropped_s.items()},
        }  # fmt: skip
        write_text(self._records / f"{recording.name}.json", json.dumps(record, ensure_ascii=False, indent=1))
        return record

    def write_manifest(self, name: str, rows: Sequence[dict[str, str]]) -> Path:
        """Write NAME.tsv; the column speaker only where a row has one. Returns its path."""
        columns = [c for c in COLUMNS if c != "speaker" or any(row.get("speaker") for row in rows)]
        lines = ["\t".join(columns), *("\t".join(row.get(c, "") for c in columns) for row in rows)]
        target = self.folder / f"{name}.tsv"
        write_text(target, "\n".join(lines) + "\n")
        return target

    def remove_manifest(self, name: str) -> None:
        """Remove a manifest that no longer describes the clips."""
        (self.folder / f"{name}.tsv").unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Remove partial files of an interrupted run; finished recordings stay, with any manifest."""
        for path in self._audio.glob(f"*{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)
        for path in (*self.folder.glob(f"*{PARTIAL}"), *self._records.glob(f"*{PARTIAL}")):
            path.unlink(missing_ok=True)


def _write_clips(
    folder: Path, recording: Recording, waveform: Waveform, rate: int, cut: Cut
) -> list[dict[str, str]]:
    rows = []
    for number, (utterance, agreement) in enumerate(cut.kept):
        start, end = round(utterance.start_s * rate), round(utterance.end_s * rate)
        clip = np.clip(waveform[start:end], -1.0, 1.0)
        soundfile.write(folder / f"{number:04d}.flac", clip, rate, "PCM_16", format="FLAC")
        values = (
            f"audio/{recording.name}/{number:04d}.flac", f"{len(clip) / rate:.3f}", recording.speaker,
            utterance.text, f"{utterance.score:.3f}", f"{agreement:.3f}", recording.source,
            f"{utterance.start_s:.3f}",
        )  # fmt: skip
        rows.append({c: re.sub(r"[\t\r\n]+", " ", value) for c, value in zip(COLUMNS, values, strict=True)})
    return rows


def write_text(target: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; after an error no file is left."""
    beside = target.with_name(target.name + PARTIAL)
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
