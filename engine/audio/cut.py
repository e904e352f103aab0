"""Whether a container ends before its own boxes do: its recorder was killed, or its download."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Final

TS_PACKET_BYTES: Final = 188
MAX_ELEMENTS: Final = 200_000
EBML_HEADER, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
UNKNOWN: Final = -1
MAX_POSITION: Final = 2**62  # damaged sizes add up to more than a file position can be


def is_cut_off(stream: BinaryIO, demuxer: str) -> bool:
    """Whether the file ends in the middle of something.

    Args:
        stream: seekable. demuxer: FFmpeg's name of the container; False for those not looked into.
    """
    size = stream.seek(0, os.SEEK_END)
    if demuxer == "mpegts":
        return size % TS_PACKET_BYTES != 0
    if demuxer == "mov":
        return _boxes_end(stream, size) > size
    if demuxer == "matroska":
        return _elements_end(stream, size) > size
    if demuxer in ("avi", "wav"):
        claimed = int.from_bytes(_read(stream, 4, 4), "little")
        return claimed == 0 or 8 + claimed > size
    return False


def _read(stream: BinaryIO, at: int, n_bytes: int) -> bytes:
    stream.seek(min(at, MAX_POSITION))
    return stream.read(n_bytes) or b""


def _boxes_end(stream: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 file ends by its own size."""
    at = 0
    for _ in range(MAX_ELEMENTS):
        head = _read(stream, at, 16)
        if len(head) < 8:
            break
        length = struct.unpack_from(">I", head)[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack_from(">Q", head, 8)[0]
        if length < 8:  # 0 reaches to the end
            break
        at += length
    return at


def _elements_end(stream: BinaryIO, size: int) -> int:
    """Where the last element of a Matroska file ends by its own size; clusters may have none."""
    at = 0
    for _ in range(MAX_ELEMENTS):
        name, length, content = _element_at(stream, at)
        if name == 0:
            break
        enter = length == UNKNOWN and name in (SEGMENT, CLUSTER)
        if length == UNKNOWN and not enter:
            break
        at = content if enter else content + length
        if at > size:
            break
    return at


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
