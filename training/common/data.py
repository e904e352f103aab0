"""Manifests to batches: what to read, in which order, with what left out and why."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from engine.errors import EngineError
from engine.text import BLANK, VOCABULARY, WORD_DELIMITER, normalize_text
from training.common.arrow import ArrowError, find_shards, read_rows

LOGGER = logging.getLogger("training.common.data")
SAMPLE_RATE = 16_000
PATH_COLUMNS = ("path", "audio_filepath", "audio", "file_name")
TEXT_COLUMNS = ("text_de", "text", "sentence", "transcription")
SPEAKER_COLUMNS = ("speaker", "client_id", "voice")


@dataclasses.dataclass(frozen=True)
class Sample:
    """One line of a manifest.

    Attributes:
        path: the audio file.
        text: the transcript as written in the manifest.
        duration_s: length of the audio, from its header; 0.0 where it cannot be read.
        problem: why the sample cannot be used; empty for a good one.
        speaker: as the manifest names them; empty where it does not.
    """

    path: Path
    text: str
    duration_s: float = 0.0
    problem: str = ""
    speaker: str = ""


class ManifestError(EngineError, ValueError):
    """A manifest is missing, or has none of the columns that are understood."""


def read_manifest(source: Path) -> list[Sample]:
    """Read a TSV or JSONL manifest, a folder in Common Voice's layout, or a saved Hugging Face audio folder.

    Args:
        source: x.tsv or x.csv with a header (`path text_de`, or Common Voice's `path sentence`), x.jsonl
            (`audio_filepath text`), or a folder holding manifest.tsv, train.tsv with clips/,
            metadata.csv / metadata.jsonl (the `datasets` audio-folder layout), or the *.arrow / *.parquet
            files of a dataset saved to disk.
    Returns:
        All lines in order; durations are filled in by `probe_samples`.
    Raises:
        ManifestError: nothing readable there; the message says what was looked for, or what is wrong.
    """
    if source.is_dir():
        names = ("manifest.tsv", "manifest.jsonl", "train.tsv", "metadata.jsonl", "metadata.csv")
        found = [source / name for name in names if (source / name).is_file()]
        if not found and find_shards(source):
            return _read_dataset(source)
        if not found:
            wanted = f"{', '.join(names)}, *.arrow or *.parquet"
            raise ManifestError(f"{source}: expected one of {wanted} in this folder, found none")
        source = found[0]
    if not source.is_file():
        raise ManifestError(f"{source}: no such manifest")
    try:
        rows = _read_rows(source)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{source}: {error}", "UTF-8 text, TSV or JSONL", "write it again, as with iconv -t utf-8"
        ) from error
    if not rows:
        raise ManifestError(f"{source}: the manifest has no lines")
    columns = [_first_of(rows[0], names) or "" for names in (PATH_COLUMNS, TEXT_COLUMNS)]
    if "" in columns:
        raise ManifestError(
            f"{source}: got columns {', '.join(rows[0])}; want one of {'/'.join(PATH_COLUMNS)} "
            f"and one of {'/'.join(TEXT_COLUMNS)}"
        )
    clips = source.parent / "clips"  # Common Voice keeps the audio there
    folder = clips if clips.is_dir() and columns[1] == "sentence" else source.parent
    return [
        Sample(folder / (row.get(columns[0]) or ""), row.get(columns[1]) or "", speaker=_speaker_of(row))
        for row in rows
    ]


def _read_dataset(folder: Path) -> list[Sample]:
    try:
        rows = read_rows(folder)
    except ArrowError as error:
        raise ManifestError(str(error)) from error
    column = _first_of(rows[0], TEXT_COLUMNS) if rows else None
    if column is None:
        raise ManifestError(f"{folder}: no rows with one of the columns {'/'.join(TEXT_COLUMNS)}")
    return [Sample(folder / row["path"], row.get(column) or "") for row in rows]


def _read_rows(source: Path) -> list[dict[str, Any]]:
    if source.suffix in (".jsonl", ".json"):
        return [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    delimiter = "," if source.suffix == ".csv" else "\t"
    with source.open(encoding="utf-8", newline="") as file:
        return list(
            csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else 0)
        )


def _speaker_of(row: dict[str, Any]) -> str:
    column = _first_of(row, SPEAKER_COLUMNS)
    return str(row[column] or "") if column else ""


def _first_of(row: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def probe_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Fill in durations from the files' headers, and name missing or unreadable audio."""
    return [_probe(sample) for sample in samples]


def _probe(sample: Sample) -> Sample:
    if not sample.path.is_file():
        return dataclasses.replace(sample, problem="missing audio file")
    try:
        info = soundfile.info(sample.path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return dataclasses.replace(sample, problem=f"unreadable audio: {error}")
    return dataclasses.replace(sample, duration_s=info.frames / max(info.samplerate, 1))


def load_waveform(path: Path) -> NDArray[np.float32]:
    """Read a file as float32 [n_samples], mono, 16 kHz."""
    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    return np.ascontiguousarray(mono, np.float32)


def build_vocabulary(texts: Sequence[str], german: bool = True) -> dict[str, int]:
    """Return symbol -> index: the blank, the word delimiter, then letters.

    Args:
        texts: transcripts.
        german: take the runtime's fixed German vocabulary; else every character the lower-cased texts have.
    """
    if german:
        return {symbol: index for index, symbol in enumerate(VOCABULARY)}
    letters = sorted({char for text in texts for char in text.lower() if not char.isspace()})
    return {symbol: index for index, symbol in enumerate((BLANK, WORD_DELIMITER, *letters))}


def normalize_for(text: str, vocabulary: dict[str, int]) -> str:
    """Normalise a transcript as its vocabulary wants it: German, numbers in words; or lower case alone."""
    if len(vocabulary) == len(VOCABULARY) and all(symbol in vocabulary for symbol in VOCABULARY):
        return normalize_text(text)
    return " ".join("".join(c for c in text.lower() if c in vocabulary or c.isspace()).split())


def encode_text(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Normalise a transcript and spell it as label indices; symbols outside the vocabulary are dropped."""
    spelled = normalize_for(text, vocabulary).replace(" ", WORD_DELIMITER)
    return [vocabulary[char] for char in spelled if char in vocabulary]


class BucketSampler:
    """Batches of clips of similar length, in an order that depends on (seed, epoch) alone.

    The position within an epoch is an index into a list that is made anew from (seed, epoch), so a run
    that was killed goes on with the very batch it would have had.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        batch_s: float,
        seed: int = 0,
        max_batch: int = 64,
        sorted_epochs: int = 0,
    ) -> None:
        self.durations_s = np.asarray(durations_s, np.float64)
        self.batch_s, self.seed, self.max_batch = batch_s, seed, max_batch
        self.sorted_epochs = sorted_epochs

    def epoch(self, epoch: int) -> list[list[int]]:
        """Return the epoch's batches of sample indices, each at most `batch_s` seconds with padding.

        The first `sorted_epochs` epochs go from short clips to long ones: alignments are easier to find
        where there is less to align, which shortens the blank-only plateau of a model from random weights.
        """
        rng = np.random.default_rng((self.seed, epoch))
        jitter = rng.uniform(0.92, 1.08, self.durations_s.size)
        batches: list[list[int]] = [[]]
        longest = 0.0
        for index in np.argsort(self.durations_s * jitter, kind="stable").tolist():
            longest = max(longest, float(self.durations_s[index]))
            full = len(batches[-1]) >= self.max_batch or longest * (len(batches[-1]) + 1) > self.batch_s
            if batches[-1] and full:
                batches.append([])
                longest = float(self.durations_s[index])
            batches[-1].append(index)
        if epoch < self.sorted_epochs:
            return batches
        order = rng.permutation(len(batches))
        return [batches[i] for i in order]

    def batches_from(self, epoch: int, batch: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield (epoch, batch, indices) for ever, from a position on."""
        while True:
            batches = self.epoch(epoch)
            for position in range(batch, len(batches)):
                yield epoch, position, batches[position]
            epoch, batch = epoch + 1, 0
