"""Kinds of audio files, told apart by their first bytes and never by their names."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from engine.audio.limits import AudioLimits, check_channels, check_rate

HEAD_BYTES: Final = 4096  # enough to tell, and to find the format chunk of a WAV file


class Container(NamedTuple):
    """How a kind of file begins, and who can read it."""

    name: str
    magic: bytes
    offset: int
    sndfile: bool
    demuxer: str | None


_CONTAINERS: Final = (
    Container("WAV", b"WAVE", 8, True, "wav"),
    Container("AVI", b"AVI ", 8, False, "avi"),
    Container("FLAC", b"fLaC", 0, True, "flac"),
    Container("Ogg", b"OggS", 0, True, "ogg"),
    Container("MP3", b"ID3", 0, True, "mp3"),
    Container("AIFF", b"FORM", 0, True, "aiff"),
    Container("AU", b".snd", 0, True, "au"),
    Container("CAF", b"caff", 0, True, "caf"),
    Container("Wave64", b"riff\x2e\x91\xcf\x11", 0, True, "w64"),
    Container("MP4", b"ftyp", 4, False, "mov"),
    Container("MP4", b"moov", 4, False, "mov"),
    Container("MP4", b"mdat", 4, False, "mov"),
    Container("QuickTime", b"wide", 4, False, "mov"),
    Container("QuickTime", b"free", 4, False, "mov"),
    Container("Matroska or WebM", b"\x1a\x45\xdf\xa3", 0, False, "matroska"),
    Container("Windows Media", b"\x30\x26\xb2\x75", 0, False, "asf"),
    Container("Flash video", b"FLV\x01", 0, False, "flv"),
    Container("MPEG program stream", b"\x00\x00\x01\xba", 0, False, "mpeg"),
    Container("AMR", b"#!AMR", 0, False, "amr"),
    Container("AC-3", b"\x0b\x77", 0, False, "ac3"),
)
_MPEG_TS: Final = Container("MPEG transport stream", b"", 0, False, "mpegts")
_ADTS: Final = Container("AAC", b"", 0, False, "aac")
_MPEG_AUDIO: Final = Container("MP3", b"", 0, True, "mp3")
KINDS: Final = "wav, flac, ogg, opus, mp3, or with the package av: m4a, mp4, webm, mkv and others"


def sniff(head: bytes) -> Container | None:
    """Name the kind of a file by its first HEAD_BYTES; None for a text, a playlist or anything unknown."""
    for container in _CONTAINERS:
        if head[container.offset : container.offset + len(container.magic)] == container.magic:
            return container
    if head[0] == 0x47 and len(head) > 376 and head[188] == head[376] == 0x47:
        return _MPEG_TS
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return _ADTS if head[1] & 0xF6 == 0xF0 else _MPEG_AUDIO
    return None


def check_wav_header(head: bytes, name: str, limits: AudioLimits) -> None:
    """Check what a WAV header claims before any library believes it."""
    at = head.find(b"fmt ", 12)
    if head[:4] == b"RIFF" and 0 <= at <= len(head) - 16:
        n_channels, sample_rate = struct.unpack_from("<HI", head, at + 10)
        check_channels(n_channels, name, limits)
        check_rate(sample_rate, name, limits)
