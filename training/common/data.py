"""Manifests to batches: what to read, in which order, what is left out and why."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from engine import manifests
from engine.audio.parts import load_part
from engine.errors import ManifestError
from engine.text import BLANK, VOCABULARY, WORD_DELIMITER, normalize_text

__all__ = [
    "SAMPLE_RATE", "BucketSampler", "ManifestError", "Sample", "build_vocabulary", "encode_text",
    "load_waveform", "normalize_for", "probe_samples", "read_manifest",
]  # fmt: skip
LOGGER = logging.getLogger("training.common.data")
SAMPLE_RATE = 16_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """One line of a manifest.

    Attributes:
        path: the audio file.
        text: the transcript as written in the manifest.
        duration_s: length of what is read, from the file's header; 0.0 where it cannot be read.
        problem: why the sample cannot be used; empty for a good one.
        speaker: from the manifest; may be empty.
        offset_s: where the utterance begins in the file.
        part_s: how much of the file is read from there on, in seconds; None is the rest.
    """

    path: Path
    text: str
    duration_s: float = 0.0
    problem: str = ""
    speaker: str = ""
    offset_s: float = 0.0
    part_s: float | None = None

    @staticmethod
    def of(row: manifests.ManifestRow) -> Sample:
        """The sample of a manifest's row."""
        return Sample(row.path, row.text, speaker=row.speaker, offset_s=row.offset_s, part_s=row.duration_s)


def read_manifest(source: Path) -> list[Sample]:
    """Read a manifest, a corpus in Common Voice's layout or a dataset, as engine.manifests reads it.

    Args:
        source: a file, or a folder of which the split `train` is taken.
    Returns:
        All lines in order; durations are filled in by `probe_samples`.
    Raises:
        ManifestError: lists every problem, with file and line.
        DependencyError: a dataset's file, and pyarrow is missing.
    """
    return [Sample.of(row) for row in manifests.read_manifest(source, split="train")]


def probe_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Fill in durations from the files' headers, and name missing or unreadable audio."""
    return [_probe(sample) for sample in samples]


def _probe(sample: Sample) -> Sample:
    try:
        if not sample.path.is_file():
            return dataclasses.replace(sample, problem="missing audio file")
        info = soundfile.info(sample.path)
    except (OSError, ValueError, RuntimeError) as error:
        return dataclasses.replace(sample, problem=f"unreadable audio: {error}")
    rest_s = max(info.frames / max(info.samplerate, 1) - sample.offset_s, 0.0)
    return dataclasses.replace(sample, duration_s=min(rest_s, sample.part_s or rest_s))


def load_waveform(source: Path | Sample) -> NDArray[np.float32]:
    """Read a file, or a sample's part of one, as float32 [n_samples], mono, 16 kHz.

    Raises:
        OSError, RuntimeError: the file is missing or cannot be decoded.
        AudioError: it cannot be decoded, or the sample's part is beyond the file's end.
    """
    if isinstance(source, Sample):
        if source.offset_s or source.part_s is not None:
            return load_part(source.path, source.offset_s, source.part_s)
        source = source.path
    samples, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    return np.ascontiguousarray(mono, np.float32)


def build_vocabulary(texts: Sequence[str], german: bool = True) -> dict[str, int]:
    """Return symbol -> index: the blank, the word delimiter, then letters.

    Args:
        texts: transcripts.
        german: take the runtime's fixed German vocabulary; else all characters of the lower-cased texts.
    """
    if german:
        return {symbol: index for index, symbol in enumerate(VOCABULARY)}
    letters = sorted({char for text in texts for char in text.lower() if not char.isspace()})
    return {symbol: index for index, symbol in enumerate((BLANK, WORD_DELIMITER, *letters))}


def is_german(vocabulary: dict[str, int]) -> bool:
    """Whether it is that of engine.text."""
    return len(vocabulary) == len(VOCABULARY) and all(symbol in vocabulary for symbol in VOCABULARY)


def normalize_for(text: str, vocabulary: dict[str, int]) -> str:
    """Normalise a transcript for its vocabulary: German, numbers in words; or only lower case."""
    if is_german(vocabulary):
        return normalize_text(text)
    return " ".join("".join(c for c in text.lower() if c in vocabulary or c.isspace()).split())


def encode_text(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Normalise a transcript and spell it as label indices; symbols outside the vocabulary are dropped."""
    spelled = normalize_for(text, vocabulary).replace(" ", WORD_DELIMITER)
    return [vocabulary[char] for char in spelled if char in vocabulary]


class BucketSampler:
    """Batches of clips of similar length, in an order that depends on (seed, epoch) only.

    The position within an epoch is an index into a list that is computed from (seed, epoch), so a run
    that was killed continues with exactly the next batch.
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
        """Yield (epoch, batch, indices) without end, from a position on."""
        while True:
            batches = self.epoch(epoch)
            for position in range(batch, len(batches)):
                yield epoch, position, batches[position]
            epoch, batch = epoch + 1, 0
