"""FLAC, Ogg and MP3 by libsndfile; the only importer of soundfile.

libsndfile stops where the first of several joined files ends, so each is given to it by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine.audio.decoding import Job, Output, damaged, decode_each
from engine.audio.mpeg import Run, make_tag, read_runs, skip_frames
from engine.audio.ogg import Link, read_links
from engine.audio.sources import Buffer, Part, Window, check_parts, stream_size
from engine.errors import AudioDecodeError

BLOCK_SAMPLES: Final = 1 << 16  # decoded at a time, over all channels
UNKNOWN_FRAMES: Final = 1 << 62  # libsndfile's "the header does not say"
LENGTH_SLACK: Final = 0.02  # a stated length may be an estimate
PRIMING_FRAMES: Final = 3  # of MP3, that a decoder drops at the start ...
RESERVOIR_BYTES: Final = 511  # ... and those whose bits lie up to so far in front of it
FLAC_STARTS: Final = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")


def decode_flac(stream: BinaryIO, start: int, name: str, out: Output) -> None:
    """Decode a FLAC file and those that are joined to it.

    Raises:
        AudioDecodeError: all of them are damaged or end early.
    """
    starts = find_flac_files(stream, start, out.beat)
    spans = list(zip(starts, [*starts[1:], stream_size(stream)], strict=True))
    decode_each(spans, lambda span: _decode_flac_file(stream, *span, name, out), out)


def _decode_flac_file(stream: BinaryIO, start: int, end: int, name: str, out: Output) -> None:
    n_frames, n_claimed = decode_part(stream, start, end, name, "FLAC", out)
    if n_frames < n_claimed < UNKNOWN_FRAMES:
        raise AudioDecodeError(
            f"{name} ends after {n_frames} of {n_claimed} frames",
            "a complete FLAC file",
            "copy or download it again",
        )


def find_flac_files(stream: BinaryIO, start: int, beat: Callable[[], None] = lambda: None) -> list[int]:
    """Positions at which FLAC files begin in a stream, the first at start; beat may raise to stop."""
    window, starts = Window(stream, beat), [start]
    at = _end_of_flac_header(window, start)
    while (at := window.find(b"fLaC", at, window.size)) >= 0:
        if window.read(at, 8) in FLAC_STARTS:
            starts.append(at)
            check_parts(len(starts))
            at = _end_of_flac_header(window, at)
        else:
            at += 4
    return starts


def _end_of_flac_header(window: Window, start: int) -> int:
    """Behind all metadata: a cover picture may itself hold such a file."""
    at = start + 4
    while len(head := window.read(at, 4)) == 4:
        at += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    return min(at, window.size)


def decode_ogg(stream: BinaryIO, start: int, name: str, out: Output) -> bool:
    """Decode the recordings of an Ogg file, one after the other.

    Returns:
        False, before anything is decoded, where it holds more than Vorbis or Opus, each by itself.
    Raises:
        AudioDecodeError: none of the recordings can be decoded.
    """
    links, notes = read_links(stream, start, out.beat)
    if any(len(link.codecs) != 1 or "other" in link.codecs for link in links):
        return False
    for text in notes:
        out.note(text)
    decode_each(links, lambda link: _decode_link(stream, link, name, out), out)
    return True


def _decode_link(stream: BinaryIO, link: Link, name: str, out: Output) -> None:
    n_frames, n_claimed = decode_part(stream, link.start, link.end, name, "Ogg", out)
    if n_claimed < UNKNOWN_FRAMES and n_frames < n_claimed * (1 - LENGTH_SLACK):
        out.note(f"it ends after {n_frames} of {n_claimed} frames; the rest is missing")


def decode_other(stream: BinaryIO, job: Job, out: Output) -> int:
    """Decode what libsndfile makes of a file as a whole; return the number of tracks, 1."""
    decode_part(stream, job.start, stream_size(stream), job.name, job.container, out)
    return 1


def decode_mpeg(stream: BinaryIO, job: Job, out: Output) -> int:
    """Decode an MP3 file, whatever stands before, between and behind its frames.

    Returns:
        The number of tracks, 1.
    Raises:
        AudioDecodeError: nothing of it can be decoded.
    """
    runs, notes = read_runs(stream, job.start, out.beat)
    for text in notes:
        out.note(text)
    runs = [run for run in runs if run.n_frames] or runs[:1]
    if not runs:
        decode_part(stream, job.start, stream_size(stream), job.name, job.container, out)
    damaged_s = 0.0
    for run in runs:
        out.silence(run.lost_s)
        damaged_s += run.lost_s + _decode_run(stream, run, job, out, strict=len(runs) == 1)
    if damaged_s:
        out.note(f"{damaged_s:.2f} s of frames are damaged; silence stands for them")
    return 1


def _decode_run(stream: BinaryIO, run: Run, job: Job, out: Output, strict: bool) -> float:
    """Decode a run of frames, going on behind those that libsndfile stops at; return the seconds of these."""
    window, at, n_left = Window(stream), run.start, run.n_frames
    n_decoded, damaged_s = 0, 0.0
    n_primed = PRIMING_FRAMES + RESERVOIR_BYTES * run.n_frames // max(run.end - run.start, 1)
    while True:
        n_frames = 0
        try:
            tag = make_tag(window, run, at, n_left)
            n_frames, _ = decode_part(stream, at, run.end, job.name, job.container, out, tag)
        except AudioDecodeError:
            if strict and not n_decoded and n_left <= n_primed:
                raise
        n_decoded += n_frames
        n_whole = n_frames // run.frame.n_samples
        if n_whole >= n_left - n_primed:
            break
        at = skip_frames(window, at, n_whole + 1)
        n_left -= n_whole + 1
        missing_s = ((run.n_frames - n_left) * run.frame.n_samples - n_decoded) / run.frame.sample_rate
        missing_s = max(missing_s - damaged_s, 0.0)
        damaged_s += missing_s
        out.silence(missing_s)
    if strict and not n_decoded:
        raise damaged(job.name, job.container, "none of its frames can be decoded")
    return damaged_s


def decode_part(
    stream: BinaryIO, start: int, end: int, name: str, container: str, out: Output, prefix: bytes = b""
) -> tuple[int, int]:
    """Decode the bytes start to end of a stream as one file, with a prefix in front of them.

    Returns:
        Frames that were decoded, and frames that its header claims (UNKNOWN_FRAMES: it does not say).
    Raises:
        AudioDecodeError: libsndfile cannot decode it, or not to its end where it is FLAC.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(_whole_or_part(stream, start, end, prefix), closefd=False)
    except soundfile.LibsndfileError as error:
        raise damaged(name, container, error) from error
    with file:
        out.form(file.samplerate, file.channels, file.frames if file.frames < UNKNOWN_FRAMES else None)
        n_frames = 0
        try:
            for block in _read_blocks(file):
                out.audio(block, file.samplerate, file.channels)
                n_frames += len(block)
        except soundfile.LibsndfileError as error:
            if container == "FLAC" or not n_frames:
                raise damaged(name, container, error) from error
            out.note(f"it cannot be decoded after {n_frames / file.samplerate:.1f} s ({error.error_string})")
        return n_frames, file.frames


def _whole_or_part(stream: BinaryIO, start: int, end: int, prefix: bytes) -> Any:
    if prefix or start or end < stream_size(stream):
        return Part(stream, start, end, prefix)
    stream.seek(0)
    return stream if isinstance(stream, Buffer) else stream.fileno()


def _read_blocks(file: Any) -> Iterator[NDArray[np.float32]]:
    block = np.empty((max(1, BLOCK_SAMPLES // file.channels), file.channels), np.float32)
    # Not .read(): it stops at the frame count of the header, which may be wrong or absent.
    while n_frames := file.buffer_read_into(block, "float32"):
        yield block[:n_frames]
