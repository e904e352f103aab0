"""The frames of MPEG audio (MP3): where they begin and end, joined files, junk and damage between them.

A decoder that meets junk either gives up or guesses. Here the file is cut into runs of frames that
follow each other without a gap; each run is decoded by itself.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from engine.audio.sources import Window

SYNC: Final = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xeb]")
SEARCH_BYTES: Final = 1 << 20  # in front of the first frame
CHAIN: Final = 4  # frames that must follow each other before a file counts as MP3
RESYNC_CHAIN: Final = 2
READ_BYTES: Final = 1 << 14
KBPS: Final = {
    (3, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),  # MPEG 1, layer I
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),  # MPEG 2, layer I
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class Frame(NamedTuple):
    """One frame's header: its length in bytes, its samples, Hz, and what stays the same in one file."""

    length: int
    n_samples: int
    sample_rate: int
    kind: tuple[int, int, int, bool]


@dataclass(slots=True)
class Run:
    """Frames that follow each other without a gap.

    Attributes:
        start, end: byte positions of the frames that hold audio.
        n_frames: how many there are. frame: the first of them.
        tag: the frame in front of them that tells their number (Xing, Info, VBRI), empty without one.
        stated: the number that it states; None if it does not.
        lost_s: seconds of damaged frames before this run.
    """

    start: int
    end: int
    frame: Frame
    n_frames: int = 0
    tag: bytes = b""
    stated: int | None = None
    lost_s: float = 0.0


def parse_frame(head: bytes) -> Frame | None:
    """Read a frame's header from its first 4 bytes; None where they are none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbps_idx, rate_idx, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 0 or kbps_idx in (0, 15) or rate_idx == 3:
        return None
    bits = KBPS[3 if version == 3 else 2, layer][kbps_idx] * 1000
    rate = RATES[version][rate_idx]
    kind = (version, layer, rate, head[3] >> 6 == 3)
    if layer == 3:
        return Frame((12 * bits // rate + padding) * 4, 384, rate, kind)
    n_samples = 576 if layer == 1 and version != 3 else 1152
    return Frame(n_samples // 8 * bits // rate + padding, n_samples, rate, kind)


def find_first_frame(window: Window, start: int) -> int:
    """Position of the first of several frames in a row within the first MiB from start, else -1."""
    return _find_frame(window, start, min(window.size, start + SEARCH_BYTES), CHAIN)


def _find_frame(window: Window, at: int, end: int, n_chained: int) -> int:
    while at < end:
        block = window.read(at, 1 << 14)
        for match in SYNC.finditer(block, 0, len(block)):
            found = at + match.start()
            if found < end and _chains(window, found, n_chained):
                return found
        at += max(len(block) - 2, 1)
    return -1


def _chains(window: Window, at: int, n_frames: int) -> bool:
    """Whether this many frames of one kind follow each other, or reach to the end of the file."""
    kind = None
    for n_seen in range(n_frames):
        if kind is not None and (at >= window.size or _is_tag(window, at)):
            return n_seen > 1
        frame = parse_frame(window.read(at, 4))
        if frame is None or frame.kind[:3] != (kind := kind or frame.kind[:3]):
            return False
        at += frame.length
    return True


def read_runs(
    stream: BinaryIO, start: int = 0, beat: Callable[[], None] = lambda: None
) -> tuple[list[Run], list[str]]:
    """Cut an MP3 file into runs of frames.

    Args:
        stream: seekable. start: where to look for the first frame.
        beat: called now and then; may raise to stop.
    Returns:
        The runs in order, and notes on what is missing or damaged.
    """
    window, runs, cut = Window(stream, beat), [], False
    at = find_first_frame(window, start)
    lost_s = 0.0
    while 0 <= at < window.size:
        run, at, cut = _read_run(window, at)
        run.lost_s, lost_s = lost_s, 0.0
        runs.append(run)
        while (after := _skip_tag(window, at)) > at:
            at = after
        junk = at
        at = _find_frame(window, at, window.size, RESYNC_CHAIN)
        if at > junk:
            lost_s = _seconds(run, at - junk)
    front = _describe_front(window, start, runs[0]) if runs else []
    return runs, [*front, *_describe(runs, cut)]


def _read_run(window: Window, start: int) -> tuple[Run, int, bool]:
    """Follow frames from start; return the run, where to go on, and whether the last frame is cut off."""
    first = parse_frame(window.read(start, 4))
    assert first is not None  # found by _find_frame
    run = Run(start, start, first)
    at, frame = start, first
    tag, stated = _read_stated(window, at, frame)
    if tag:
        run.tag, run.stated = window.read(at, frame.length), stated
        at += frame.length
        run.start = run.end = at
    for n_seen in range(window.size):
        following = parse_frame(window.read(at, 4))
        if following is None or following.kind != first.kind:
            return run, at, False
        if at + following.length > window.size:
            return run, window.size, True
        if n_seen and _read_stated(window, at, following)[0]:
            return run, at, False
        if run.stated and run.n_frames == run.stated and _chains(window, at, CHAIN):
            return run, at, False
        at += following.length
        run.end, run.n_frames = at, run.n_frames + 1
    return run, at, False


def _read_stated(window: Window, at: int, frame: Frame) -> tuple[bool, int | None]:
    """Whether a frame is a tag (Xing, Info, VBRI) instead of audio, and how many frames it states."""
    version, layer, _, mono = frame.kind
    if layer != 1:
        return False, None
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    content = window.read(at + 4, 64)
    for offset in (side, side + 2):  # with a checksum in front
        if content[offset : offset + 4] in (b"Xing", b"Info"):
            flags, n_frames = struct.unpack_from(">II", content.ljust(64, b"\0"), offset + 4)
            return True, n_frames if flags & 1 and n_frames else None
    if content[32:36] == b"VBRI":
        return True, struct.unpack_from(">I", content.ljust(64, b"\0"), 46)[0] or None
    return False, None


def _is_tag(window: Window, at: int) -> bool:
    head = window.read(at, 8)
    return head[:3] in (b"ID3", b"TAG") or head == b"APETAGEX" or head == b"LYRICSBE"


def _skip_tag(window: Window, at: int) -> int:
    """Where the tag that begins here ends; the same position where there is none."""
    head = window.read(at, 32)
    if head[:3] == b"TAG":
        return min(at + 128, window.size)
    return at + tag_bytes(head)


def tag_bytes(head: bytes) -> int:
    """The length of an ID3v2 or APEv2 tag by its first 32 bytes; 0 where they are none."""
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        size, _, flags = struct.unpack_from("<III", head, 12)
        return int(size) + (32 if flags & 0x20000000 else 0)
    return 0


def _seconds(run: Run, n_bytes: int) -> float:
    """How long damaged bytes lasted, in whole frames of the run before them."""
    frame_bytes = max((run.end - run.start) / max(run.n_frames, 1), 1.0)
    return round(n_bytes / frame_bytes) * run.frame.n_samples / run.frame.sample_rate


def skip_frames(window: Window, at: int, n_frames: int) -> int:
    """Position behind n_frames frames that follow each other from at on."""
    for _ in range(n_frames):
        frame = parse_frame(window.read(at, 4))
        if frame is None:
            break
        at += frame.length
    return at


def make_tag(window: Window, run: Run, at: int, n_frames: int) -> bytes:
    """A frame that states the number of those that follow; decoders estimate it without one, often too low.

    Args:
        at: position of the first frame that follows; run.start or behind it.
        n_frames: from there to run.end.
    Returns:
        The run's own tag, which also tells what the encoder added, with the numbers put right; a new one
        where the run has none; nothing for layers I and II.
    """
    version, layer, _, mono = run.frame.kind
    if layer != 1:
        return b""
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    n_bytes = len(run.tag) + run.end - at
    own = bytearray(run.tag if at == run.start else b"")
    field = own.find(b"Xing", 4, 48) if b"Xing" in own[4:48] else own.find(b"Info", 4, 48)
    if field > 0 and len(own) >= field + 16 and own[field + 7] & 3 == 3:
        struct.pack_into(">II", own, field + 8, n_frames, n_bytes)
        return bytes(own)
    head = bytearray(window.read(at, 4))
    head[1] |= 1  # no checksum
    for kbps_idx in range(1, 15):
        head[2] = head[2] & 0x0C | kbps_idx << 4
        frame = parse_frame(bytes(head))
        if frame is not None and frame.length >= 96:
            content = bytearray(frame.length)
            content[:4] = head
            struct.pack_into(">4sII", content, 4 + side, b"Xing", 1, n_frames)
            return bytes(content)
    return b""


def _describe_front(window: Window, start: int, first: Run) -> list[str]:
    """What stands before the first frame, unless it is padding; as where the start was cut off."""
    n_bytes = first.start - len(first.tag) - start
    if not any(
        any(window.read(at, READ_BYTES)[: start + n_bytes - at])
        for at in range(start, start + n_bytes, READ_BYTES)
    ):
        return []
    return [f"{n_bytes} bytes in front of its first frame are no audio and are left out"]


def _describe(runs: list[Run], cut: bool) -> list[str]:
    n_frames, stated = 0.0, 0
    for run in [*runs, None]:
        if run is None or run.tag:
            if n_frames < stated * 0.98 - 1:
                return [f"it ends after {n_frames:.0f} of {stated} frames; the rest is missing"]
            n_frames, stated = 0.0, run.stated or 0 if run else 0
        if run is not None:
            n_frames += run.n_frames + run.lost_s * run.frame.sample_rate / run.frame.n_samples
    return ["it ends in the middle of a frame; the rest is missing"] if cut else []
