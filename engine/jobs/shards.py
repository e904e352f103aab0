"""Which shard a recording of an archive belongs to: the same on every machine, and as much audio in each."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import OptionError
from engine.manifests.recordings import Recording, lines_of

MAX_SHARDS: Final = 99_999
# Bytes of a second where only the size is known; what counts is that shards come out about equal.
BYTES_PER_S: Final = {
    ".wav": 32_000, ".aiff": 32_000, ".aif": 32_000, ".au": 32_000, ".caf": 32_000, ".w64": 32_000,
    ".flac": 16_000, ".wv": 16_000, ".mp4": 100_000, ".mkv": 100_000, ".mov": 100_000, ".avi": 100_000,
    ".webm": 50_000, ".opus": 4_000,
}  # fmt: skip
OTHER_BYTES_PER_S: Final = 12_000  # compressed speech at about 96 kbit/s


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"shard-{self.number:05d}-of-{self.count:05d}"


class Plan(NamedTuple):
    """What a shard has to do.

    Attributes:
        recordings: in the order of the manifest.
        n_total: recordings of all shards.
        digest: of the whole manifest and how it is divided; shards belong together where it is equal.
    """

    recordings: list[Recording]
    n_total: int
    digest: str


def parse_shard(text: str) -> Shard:
    """Read "3/16": the third of sixteen, counted from 1.

    Raises:
        OptionError: anything else.
    """
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text, re.ASCII)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise OptionError(
            f"shard {text!r}", f"I/N with I from 1 to N, and N up to {MAX_SHARDS}", "the first of 16 is 1/16"
        )
    return Shard(number, count)


def plan_shard(recordings: Sequence[Recording], folder: Path, shard: Shard) -> Plan:
    """Take a shard's recordings out of all.

    Args:
        recordings: of the manifest. folder: where relative paths begin.
    Returns:
        The plan. Each recording is in exactly one shard, and no two shards differ by more than the longest
        recording. A length that is not stated is estimated from the file's size.
    """
    if shard.count == 1:
        numbers = [0] * len(recordings)
    else:
        lengths = [estimate_ms(each, folder) for each in recordings]
        numbers = assign_shards(lengths, [each.id for each in recordings], shard.count)
    digest = hashlib.sha256()
    for number, line in zip(numbers, lines_of(recordings), strict=True):
        digest.update(f"{number}\t{line}\n".encode())
    own = [each for each, at in zip(recordings, numbers, strict=True) if at == shard.number - 1]
    return Plan(own, len(recordings), digest.hexdigest()[:16])


def assign_shards(lengths_ms: Sequence[int], ids: Sequence[str], count: int) -> list[int]:
    """Give each recording to the shard that has least, the longest recordings first.

    Args:
        lengths_ms: milliseconds, whole numbers so that sums are the same everywhere.
        ids: unique; they decide between equal lengths, so that the order of the manifest does not count.
    Returns:
        The shard of each, 0 to count - 1.
    """
    heap = [(0, number) for number in range(count)]
    numbers = [0] * len(lengths_ms)
    for i in sorted(range(len(lengths_ms)), key=lambda i: (-lengths_ms[i], ids[i])):
        load, number = heap[0]
        numbers[i] = number
        heapq.heapreplace(heap, (load + lengths_ms[i], number))
    return numbers


def estimate_ms(recording: Recording, folder: Path) -> int:
    """How long a recording is, as far as the manifest or the file's size tells; at least 1."""
    if recording.duration_s is not None:
        return max(1, round(recording.duration_s * 1000))
    try:
        size = (folder / recording.path).stat().st_size
    except (OSError, ValueError):
        return 1
    rate = BYTES_PER_S.get(Path(recording.path).suffix.lower(), OTHER_BYTES_PER_S)
    return max(1, round(1000 * (size / rate - recording.offset_s)))
