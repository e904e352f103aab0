"""Uncompressed samples -> float32, read from the places of a file where its header says that they are."""

from __future__ import annotations

from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audio.sink import Sink
from engine.audio.sources import read_at

BLOCK_SAMPLES: Final = 1 << 18  # read at a time, over all channels
SAMPLE_BYTES: Final = {
    "u1": 1, "i1": 1, "<i2": 2, ">i2": 2, "<i3": 3, ">i3": 3, "<i4": 4, ">i4": 4,
    "<f4": 4, ">f4": 4, "<f8": 8, ">f8": 8, "ulaw": 1, "alaw": 1,
}  # fmt: skip


class Pcm(NamedTuple):
    """Where the samples of a file are, and how they are written.

    Attributes:
        sample_rate: Hz. n_channels: interleaved.
        code: a key of SAMPLE_BYTES: numpy's dtypes, 24-bit integers, or the two telephone codes.
        spans: byte positions (start, end) that hold samples, in order.
    """

    sample_rate: float
    n_channels: int
    code: str
    spans: tuple[tuple[int, int], ...]


def read_pcm(stream: BinaryIO, pcm: Pcm, sink: Sink, block_samples: int | None = None) -> None:
    """Read all whole frames into the sink, a block at a time."""
    sink.form(pcm.sample_rate, pcm.n_channels)
    frame_bytes = SAMPLE_BYTES[pcm.code] * pcm.n_channels
    frames = max(1, (block_samples or BLOCK_SAMPLES) // pcm.n_channels)
    n_frames = sum((end - start) // frame_bytes for start, end in pcm.spans)
    sink.form(pcm.sample_rate, pcm.n_channels, n_frames)
    for start, end in pcm.spans:
        end -= (end - start) % frame_bytes
        while start < end:
            content = read_at(stream, start, min(frames * frame_bytes, end - start))
            content = content[: len(content) - len(content) % frame_bytes]
            if not content:
                break  # the file became shorter while it was read
            sink.audio(to_float(content, pcm.code), pcm.sample_rate, pcm.n_channels)
            start += len(content)


def to_float(content: bytes, code: str) -> NDArray[np.float32]:
    """Scale samples to [-1, 1]; bytes of whole samples -> float32 [n]."""
    if code in ("ulaw", "alaw"):
        return np.take(_TABLES[code], np.frombuffer(content, np.uint8))
    if code == "u1":
        return (np.frombuffer(content, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if code[1:] == "i3":
        return _widen(content, code).astype(np.float32) * np.float32(2.0**-31)
    samples = np.frombuffer(content, code)
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite, and is refused as such
            return samples.astype(np.float32)
    return samples.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))


def _widen(content: bytes, code: str) -> NDArray[np.int32]:
    """24-bit integers in the upper three bytes of 32-bit ones."""
    triples = np.frombuffer(content, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(triples), 4), np.uint8)
    wide[:, 1:] = triples if code[0] == "<" else triples[:, ::-1]
    return np.asarray(wide.view("<i4")[:, 0], np.int32)


def _ulaw_table() -> NDArray[np.float32]:
    """ITU-T G.711, mu-law."""
    value = ~np.arange(256, dtype=np.int32) & 0xFF
    size = (((value & 0x0F) << 3) + 0x84 << ((value & 0x70) >> 4)) - 0x84
    return np.asarray(np.where(value & 0x80, -size, size) / 32768, np.float32)


def _alaw_table() -> NDArray[np.float32]:
    """ITU-T G.711, A-law."""
    value = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (value & 0x70) >> 4
    size = ((value & 0x0F) << 4) + np.where(segment > 0, 0x108, 8)
    size = size << np.maximum(segment - 1, 0)
    return np.asarray(np.where(value & 0x80, size, -size) / 32768, np.float32)


_TABLES: Final = {"ulaw": _ulaw_table(), "alaw": _alaw_table()}
