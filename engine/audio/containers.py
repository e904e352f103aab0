"""Kinds of audio files, told apart by their first bytes and never by their names."""

from __future__ import annotations

from typing import BinaryIO, Final, NamedTuple

from engine.audio.mpeg import find_first_frame, tag_bytes
from engine.audio.sources import Window

HEAD_BYTES: Final = 400  # enough to tell


class Container(NamedTuple):
    """How a kind of file begins, and what FFmpeg calls it."""

    name: str
    magic: bytes
    offset: int
    demuxer: str


_CONTAINERS: Final = (
    Container("WAV", b"WAVE", 8, "wav"),
    Container("WavPack", b"wvpk", 0, "wv"),
    Container("AVI", b"AVI ", 8, "avi"),
    Container("FLAC", b"fLaC", 0, "flac"),
    Container("Ogg", b"OggS", 0, "ogg"),
    Container("MP3", b"ID3", 0, "mp3"),
    Container("AIFF", b"FORM", 0, "aiff"),
    Container("AU", b".snd", 0, "au"),
    Container("CAF", b"caff", 0, "caf"),
    Container("Wave64", b"riff\x2e\x91\xcf\x11", 0, "w64"),
    Container("MP4", b"ftyp", 4, "mov"),
    Container("MP4", b"moov", 4, "mov"),
    Container("MP4", b"mdat", 4, "mov"),
    Container("QuickTime", b"wide", 4, "mov"),
    Container("QuickTime", b"free", 4, "mov"),
    Container("Matroska or WebM", b"\x1a\x45\xdf\xa3", 0, "matroska"),
    Container("Windows Media", b"\x30\x26\xb2\x75", 0, "asf"),
    Container("Flash video", b"FLV\x01", 0, "flv"),
    Container("MPEG program stream", b"\x00\x00\x01\xba", 0, "mpeg"),
    Container("AMR", b"#!AMR", 0, "amr"),
    Container("AC-3", b"\x0b\x77", 0, "ac3"),
)
_MPEG_TS: Final = Container("MPEG transport stream", b"", 0, "mpegts")
_ADTS: Final = Container("AAC", b"", 0, "aac")
_MPEG_AUDIO: Final = Container("MP3", b"", 0, "mp3")


MAX_TAGS: Final = 8
KINDS: Final = "wav, flac, ogg, opus, mp3, or with the package av: m4a, mp4, webm, mkv and others"


class Found(NamedTuple):
    """A kind of file, and where it begins behind tags or junk."""

    container: Container
    start: int


def identify(stream: BinaryIO) -> Found | None:
    """Name the kind of a file by what it holds; None for a text, a playlist or anything unknown.

    Tags in front (ID3v2, APEv2) are skipped. Where nothing is known at the start, several MPEG audio
    frames in a row are looked for behind zeros, junk or half a frame.
    """
    window, start = Window(stream), 0
    for _ in range(MAX_TAGS):
        length = tag_bytes(window.read(start, 32))
        if not length or start + length >= window.size:
            break
        start += length
    container = sniff(window.read(start, HEAD_BYTES))
    if container is not None:
        return Found(container, start)
    if find_first_frame(window, start) >= 0 or start:
        return Found(_MPEG_AUDIO, start)
    return None


def sniff(head: bytes) -> Container | None:
    """Name the kind of a file by its first HEAD_BYTES; None for a text, a playlist or anything unknown."""
    for container in _CONTAINERS:
        if head[container.offset : container.offset + len(container.magic)] == container.magic:
            return container
    if head[:1] == b"G" and len(head) > 376 and head[188] == head[376] == 0x47:
        return _MPEG_TS
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return _ADTS if head[1] & 0xF6 == 0xF0 else _MPEG_AUDIO
    return None
