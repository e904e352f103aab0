"""The pages of an Ogg file: where one recording ends and a joined one begins, and what is missing.

Source: RFC 3533. Joined files are "chained" there; each link has headers of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from engine.audio.sources import Window, check_parts

CAPTURE: Final = b"OggS"
HEAD_BYTES: Final = 27
FIRST, LAST = 2, 4  # flags of a page
CODECS: Final = ((b"\x01vorbis", "vorbis"), (b"OpusHead", "opus"))


@dataclass(slots=True)
class Link:
    """One recording of an Ogg file.

    Attributes:
        start, end: byte positions.
        codecs: of its streams; "other" for what libsndfile is not asked to decode.
        finished: whether its last page says so.
        n_missing: pages that were lost, by their numbers.
    """

    start: int
    end: int
    codecs: list[str] = field(default_factory=list)
    finished: bool = False
    n_missing: int = 0
    has_data: bool = False
    numbers: dict[int, int] = field(default_factory=dict)


def read_links(
    stream: BinaryIO, start: int = 0, beat: Callable[[], None] = lambda: None
) -> tuple[list[Link], list[str]]:
    """Find the recordings of an Ogg file and say what is missing.

    Args:
        stream: seekable. start: position of the first page.
        beat: called now and then; may raise to stop.
    Returns:
        The links in order, and notes for the caller.
    """
    window, links, n_skipped = Window(stream, beat), [Link(start, start)], 0
    at, cut = start, False
    while at < window.size:
        if window.read(at, 4) != CAPTURE:
            found = window.find(CAPTURE, at + 1, window.size)
            following = found if found >= 0 else window.size
            n_skipped, at = n_skipped + following - at, following
            continue
        length = _add_page(window, at, links)
        at += length
        cut = at > window.size or length == 0
        if cut:
            break
    return links, _describe(links, n_skipped, cut)


def _add_page(window: Window, at: int, links: list[Link]) -> int:
    """Add a page to the last link or begin a new one; return its length, 0 where its head is cut off."""
    head = window.read(at, HEAD_BYTES + 255 + 64)
    if len(head) < HEAD_BYTES or len(head) < HEAD_BYTES + head[26]:
        return 0
    flags, _, serial, number = struct.unpack_from("<BqII", head, 5)
    segments = head[HEAD_BYTES : HEAD_BYTES + head[26]]
    length = HEAD_BYTES + len(segments) + sum(segments)
    if flags & FIRST:
        if links[-1].has_data:
            links.append(Link(at, at))
        check_parts(len(links) + len(links[-1].codecs))
        content = head[HEAD_BYTES + len(segments) :]
        links[-1].codecs.append(next((name for magic, name in CODECS if content.startswith(magic)), "other"))
    else:
        links[-1].has_data = True
    link = links[-1]
    expected = link.numbers.get(serial, number - 1) + 1
    if expected < number < expected + 2**24:
        link.n_missing += number - expected
    link.numbers[serial] = number
    link.finished = link.finished or bool(flags & LAST)
    link.end = min(at + length, window.size)
    return length


def _describe(links: list[Link], n_skipped: int, cut: bool) -> list[str]:
    notes = []
    n_missing = sum(link.n_missing for link in links)
    if n_missing or n_skipped:
        what = f"{n_missing} pages are missing and {n_skipped} bytes are no pages"
        notes.append(f"{what}: words may be lost, and later times too early")
    if cut or not links[-1].finished:
        notes.append(
            "it ends without an end mark, as when recording is interrupted; all that is there is used"
        )
    return notes
