"""What the format chunks of WAV, AIFF, AU, CAF and Wave64 say about the samples."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

WAV_EXTENSIBLE: Final = 0xFFFE
_FLOATS: Final = {4: "f4", 8: "f8"}
_INTEGERS: Final = {1: "i1", 2: "i2", 3: "i3", 4: "i4"}
_AU_CODES: Final = {1: "ulaw", 2: "i1", 3: ">i2", 4: ">i3", 5: ">i4", 6: ">f4", 7: ">f8", 27: "alaw"}
_AIFC_CODES: Final = {
    b"NONE": "", b"twos": "", b"sowt": "<", b"raw ": "u1", b"in24": ">i3", b"in32": ">i4",
    b"fl32": ">f4", b"FL32": ">f4", b"fl64": ">f8", b"FL64": ">f8",
    b"ulaw": "ulaw", b"ULAW": "ulaw", b"alaw": "alaw", b"ALAW": "alaw",
}  # fmt: skip


class SampleForm(NamedTuple):
    """Sample rate in Hz, channels, and a code as pcm.SAMPLE_BYTES names it."""

    sample_rate: float
    n_channels: int
    code: str


def form_of_wav(content: bytes, order: str = "<") -> SampleForm | None:
    """Read a chunk "fmt " (WAV, RF64, Wave64); None for a codec, or numbers that contradict each other."""
    if len(content) < 16:
        return None
    tag, n_channels, sample_rate, _, block, bits = struct.unpack_from(order + "HHIIHH", content)
    if tag == WAV_EXTENSIBLE and len(content) >= 26:
        tag = struct.unpack_from(order + "H", content, 24)[0]
    n_bytes = (bits + 7) // 8
    code = {
        1: "u1" if n_bytes == 1 else _ordered(_INTEGERS.get(n_bytes), order),
        3: _ordered(_FLOATS.get(n_bytes), order),
        6: "alaw" if n_bytes == 1 else None,
        7: "ulaw" if n_bytes == 1 else None,
    }.get(tag)
    if code is None or block != (n_bytes * n_channels) % 2**16:
        return None
    return SampleForm(sample_rate, n_channels, code)


def form_of_aiff(content: bytes) -> SampleForm | None:
    """Read a chunk "COMM" (AIFF and AIFF-C)."""
    if len(content) < 18:
        return None
    n_channels, _, bits = struct.unpack_from(">HIH", content)
    code = _AIFC_CODES.get(content[18:22] or b"NONE")
    if code in ("", "<"):
        integer = _INTEGERS.get((bits + 7) // 8)
        code = _ordered(integer, code or ">")
    return SampleForm(_extended(content[8:18]), n_channels, code) if code else None


def form_of_au(head: bytes) -> SampleForm | None:
    """Read the 24 bytes at the start of an AU file."""
    encoding, sample_rate, n_channels = struct.unpack_from(">III", head, 12)
    code = _AU_CODES.get(encoding)
    return SampleForm(sample_rate, n_channels, code) if code else None


def form_of_caf(content: bytes) -> SampleForm | None:
    """Read a chunk "desc" (Core Audio)."""
    if len(content) < 32:
        return None
    sample_rate, kind, flags, packet, _, n_channels, bits = struct.unpack_from(">d4sIIIII", content)
    if kind in (b"ulaw", b"alaw"):
        return SampleForm(sample_rate, n_channels, kind.decode())
    order, n_bytes = "<" if flags & 2 else ">", (bits + 7) // 8
    code = _ordered((_FLOATS if flags & 1 else _INTEGERS).get(n_bytes), order)
    if kind != b"lpcm" or code is None or packet != n_bytes * n_channels:
        return None
    return SampleForm(sample_rate, n_channels, code)


def _ordered(code: str | None, order: str) -> str | None:
    return code if code in (None, "i1") else f"{order}{code}"


def _extended(content: bytes) -> float:
    """An 80-bit float, as AIFF writes sample rates; nothing near the end of its range is one."""
    exponent, mantissa = struct.unpack(">HQ", content)
    power = (exponent & 0x7FFF) - 16383 - 63
    return float(mantissa) * 2.0**power if -128 < power < 0 else 0.0
