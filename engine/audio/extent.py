"""How far a container reaches by its own boxes: it may be cut off, and another may be joined to it."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

TS_PACKET_BYTES: Final = 188
MAX_ELEMENTS: Final = 200_000
EBML_HEADER, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
WAVPACK_INITIAL: Final = 0x800  # the first of the blocks that share the channels of a moment
MAX_FILES: Final = 1_000
UNKNOWN: Final = -1
MAX_POSITION: Final = 2**62  # damaged sizes add up to more than a file position can be


class Extent(NamedTuple):
    """Where the files of a stream begin, the first at 0, and whether the last one ends in the middle."""

    starts: list[int]
    cut_off: bool


def find_extent(stream: BinaryIO, demuxer: str) -> Extent:
    """Walk the outermost boxes of a container.

    Args:
        stream: seekable. demuxer: FFmpeg's name of the container; those not known here are one whole file.
    """
    size = stream.seek(0, os.SEEK_END)
    if demuxer == "mpegts":
        return Extent([0], size % TS_PACKET_BYTES != 0)
    walk = _WALKS.get(demuxer)
    if walk is None:
        return Extent([0], False)
    starts, reached = [0], 0
    for first, end in itertools.islice(walk(stream, size), MAX_ELEMENTS):
        reached = end
        if starts[-1] < first < size and len(starts) < MAX_FILES:
            starts.append(first)
    return Extent(starts, reached > size)


def _read(stream: BinaryIO, at: int, n_bytes: int) -> bytes:
    stream.seek(min(at, MAX_POSITION))
    return stream.read(n_bytes) or b""


def _walk_boxes(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """MP4: (start of the file that a box belongs to, end of the box) for each box."""
    at, first, has_content = 0, 0, False
    while len(head := _read(stream, at, 16)) >= 8:
        length = struct.unpack_from(">I", head)[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack_from(">Q", head, 8)[0]
        if length < 8:  # 0 reaches to the end
            return
        if head[4:8] == b"ftyp" and has_content:
            first, has_content = at, False
        has_content = has_content or head[4:8] in (b"moov", b"mdat")
        at += length
        yield first, at


def _walk_elements(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Matroska: the same for each element of the outermost level; clusters may have no size."""
    at, first = 0, 0
    while at < size:
        name, length, content = _element_at(stream, at)
        enter = length == UNKNOWN and name in (SEGMENT, CLUSTER)
        if name == 0 or (length == UNKNOWN and not enter):
            return
        first = at if name == EBML_HEADER else first
        at = content if enter else content + length
        yield first, at


def _walk_riff(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """AVI: the same for each RIFF; those called AVIX go on with the file before them."""
    at, first = 0, 0
    while len(head := _read(stream, at, 12)) == 12 and head[:4] == b"RIFF":
        first = first if head[8:] == b"AVIX" else at
        claimed = int.from_bytes(head[4:8], "little")
        at += 8 + claimed + claimed % 2
        yield first, max(at, size + 1) if claimed == 0 else at - claimed % 2


def _walk_blocks(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """WavPack: the same for each block; a file's first block is the one with its first sample."""
    at, first = 0, 0
    while len(head := _read(stream, at, 28)) == 28:
        length, index, n_samples, flags = struct.unpack("<4xI8xIII", head)
        if head.startswith(b"APETAGEX"):
            at += 32 + int.from_bytes(head[12:16], "little")
            continue
        if not head.startswith(b"wvpk"):
            return
        if n_samples and index == 0 and head[10] == 0 and flags & WAVPACK_INITIAL:
            first = at
        at += 8 + length
        yield first, at


def _element_at(stream: BinaryIO, at: int) -> tuple[int, int, int]:
    """Name, size and position of the content of an element; name 0 at the end or for damage."""
    head = _read(stream, at, 12)
    if not head or head[0] < 0x10:
        return 0, 0, at
    n_name = 9 - head[0].bit_length()
    rest = head[n_name:]
    if not rest or rest[0] == 0:
        return 0, 0, at
    n_size = 9 - rest[0].bit_length()
    if len(rest) < n_size:
        return 0, 0, at
    value = int.from_bytes(rest[:n_size], "big") & ((1 << 7 * n_size) - 1)
    unknown = value == (1 << 7 * n_size) - 1
    return int.from_bytes(head[:n_name], "big"), UNKNOWN if unknown else value, at + n_name + n_size


_WALKS: Final[dict[str, Callable[[BinaryIO, int], Iterator[tuple[int, int]]]]] = {
    "mov": _walk_boxes,
    "matroska": _walk_elements,
    "avi": _walk_riff,
    "wav": _walk_riff,
    "wv": _walk_blocks,
}
