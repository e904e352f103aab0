"""Headers of uncompressed files, read chunk by chunk: WAV, RF64, AIFF, AU, CAF, Wave64.

A recorder that was killed leaves sizes that are 0, too small or too large. The sizes are therefore
compared with what the file holds: all samples that are there are used, and a note says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO, Final, NamedTuple

from engine.audio.formats import SampleForm, form_of_aiff, form_of_au, form_of_caf, form_of_wav
from engine.audio.pcm import SAMPLE_BYTES, Pcm
from engine.audio.sources import Window, check_parts

MAX_CHUNKS: Final = 10_000
MAX_TRAILING: Final = 64
_NAMES: Final = (  # four bytes each
    b"LISTlistINFOid3 ID3 bextcue smplfactJUNKjunkPAD FLLRiXMLaxmlchnainstplstcartlevlPEAKDISPaciddata"
    b"COMMSSNDMARKINSTMIDIAESDAPPLCOMTNAMEAUTHANNO(c) FVERCHANchaninfomarkpeakregnfreeuuidkukipaktstrgumid"
)
KNOWN_CHUNKS: Final = frozenset(_NAMES[at : at + 4] for at in range(0, len(_NAMES), 4))
MIN_REST_S: Final = 0.05  # behind the stated end; less is padding
UNKNOWN: Final = -1
W64_TAIL: Final = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of every chunk name but "riff"


class Chunk(NamedTuple):
    """One chunk: its name, where its content begins, and the size of the content that it states."""

    name: bytes
    start: int
    size: int  # UNKNOWN where the samples are said to reach to the end


class Walk(NamedTuple):
    """How the chunks of a kind of file are written.

    Attributes:
        head: struct format of name and size. pad: chunks begin at multiples of this.
        inclusive: the size counts the head as well.
        first: position of the first chunk.
        form_chunk, data_chunk: names of the chunk that describes the samples and of that which holds them.
        read_form: its content -> SampleForm, None for a codec that is none of ours.
        skip: bytes of the data chunk before the samples.
    """

    head: str
    pad: int
    inclusive: bool
    first: int
    form_chunk: bytes
    data_chunk: bytes
    read_form: Callable[[bytes], SampleForm | None]
    skip: int = 0


_WALKS: Final = {
    "RIFF": Walk("<4sI", 2, False, 12, b"fmt ", b"data", form_of_wav),
    "RIFX": Walk(">4sI", 2, False, 12, b"fmt ", b"data", lambda content: form_of_wav(content, ">")),
    "AIFF": Walk(">4sI", 2, False, 12, b"COMM", b"SSND", form_of_aiff, 8),
    "CAF": Walk(">4sq", 1, False, 8, b"desc", b"data", form_of_caf, 4),
    "W64": Walk("<16sQ", 8, True, 40, b"fmt " + W64_TAIL, b"data" + W64_TAIL, form_of_wav),
}
_STARTS: Final = (
    (b"RIFF", "RIFF"), (b"RF64", "RIFF"), (b"BW64", "RIFF"), (b"RIFX", "RIFX"),
    (b"FORM", "AIFF"), (b"caff", "CAF"), (b"riff\x2e\x91\xcf\x11", "W64"),
)  # fmt: skip


class Layout(NamedTuple):
    """What headers say: the parts of joined files in order, and notes on what was wrong with them.

    A part is None where its codec is none of ours; then a decoder library has to read the file.
    """

    parts: list[Pcm | None]
    notes: list[str]


def read_layout(stream: BinaryIO, start: int = 0) -> Layout | None:
    """Read the headers of a file of uncompressed samples, and of those that are joined to it.

    Args:
        stream: seekable. start: where the file begins in it.
    Returns:
        None where there is no such header, or it is cut off before the samples.
    """
    window = Window(stream)
    layout = Layout([], [])
    following: int | None = start
    while following is not None:
        n_known = len(layout.parts)
        following = _Reader(window, following, layout.notes).read(layout.parts)
        check_parts(len(layout.parts))
        if n_known and len(layout.parts) == n_known:
            layout.notes.append("a recording that is joined to it has no samples and is left out")
    return layout if layout.parts else None


class _Reader:
    """Reads one file of a stream that may hold several, one behind the other."""

    def __init__(self, window: Window, start: int, notes: list[str]) -> None:
        self._window, self._start, self._notes = window, start, notes
        self._walk: Walk | None = None

    def read(self, parts: list[Pcm | None]) -> int | None:
        """Append what is found; return where the next file begins, if there is one."""
        if self._window.read(self._start, 4) == b".snd":
            return self._read_au(parts)
        self._walk = _find_walk(self._window, self._start)
        return self._read_chunks(self._walk, parts) if self._walk else None

    def _read_au(self, parts: list[Pcm | None]) -> int | None:
        head = self._window.read(self._start, 24)
        if len(head) < 24:
            return None
        offset, size = struct.unpack_from(">II", head, 4)
        form = form_of_au(head)
        if form is None:
            parts.append(None)
            return None
        span, following = self._settle(Chunk(b"", self._start + max(offset, len(head)), _stated(size)), form)
        parts.append(Pcm(*form, (span,)))
        return following

    def _read_chunks(self, walk: Walk, parts: list[Pcm | None]) -> int | None:
        at, form = self._start + walk.first, None
        large: dict[bytes, int] = {}
        data: list[Chunk] = []
        for _ in range(MAX_CHUNKS):
            chunk = self._chunk_at(walk, at, large)
            if chunk is None:
                break
            if chunk.name == b"ds64":
                large = _read_large(self._window.read(chunk.start, 28))
            if chunk.name == walk.form_chunk:
                form = walk.read_form(self._window.read(chunk.start, min(chunk.size, 64)))
                if form is None:
                    parts.append(None)
                    return None
            if chunk.name == walk.data_chunk:
                data.append(chunk)
                if form is not None and not self._is_followed(walk, chunk):
                    break
            at = _end_of(walk, chunk)
        if form is None or not data:
            return None
        settled = [self._settle(chunk, form) for chunk in data]
        parts.append(Pcm(*form, tuple(span for span, _ in settled)))
        return settled[-1][1]

    def _chunk_at(self, walk: Walk, at: int, large: dict[bytes, int]) -> Chunk | None:
        length = struct.calcsize(walk.head)
        head = self._window.read(at, length)
        if len(head) < length:
            return None
        name, size = struct.unpack(walk.head, head)
        if walk.inclusive:
            size = max(size - length, 0)
        if name != walk.data_chunk:
            return Chunk(name, at + length, max(size, 0))
        size = large[name] if name in large else _stated(size)
        return Chunk(name, at + length + walk.skip, size if size < 0 else max(size - walk.skip, 0))

    def _is_followed(self, walk: Walk, data: Chunk) -> bool:
        """Whether a chunk stands where the samples are said to end."""
        if data.size < 0:
            return False
        return self._chunk_starts(walk, _end_of(walk, data))

    def _chunk_starts(self, walk: Walk, at: int) -> bool:
        """Whether chunks stand here: one of a known name, or several that reach to the end of the file."""
        for _ in range(MAX_TRAILING):
            chunk = self._chunk_at(walk, at, {})
            if chunk is None or self._file_starts(at):
                return False
            if chunk.name[:4] in KNOWN_CHUNKS and (not walk.inclusive or chunk.name[4:] == W64_TAIL):
                return True
            if not all(0x20 <= byte < 0x7F for byte in chunk.name):
                return False
            at = _end_of(walk, chunk)
            if self._window.size <= at <= self._window.size + 1:
                return True
        return False

    def _file_starts(self, at: int) -> bool:
        return self._window.read(at, 4) == b".snd" or _find_walk(self._window, at) is not None

    def _settle(self, data: Chunk, form: SampleForm) -> tuple[tuple[int, int], int | None]:
        """Where samples really end, and where a file that is joined to this one begins."""
        size = self._window.size
        second = SAMPLE_BYTES[form.code] * form.n_channels * form.sample_rate or 1.0
        there_s = max(size - data.start, 0) / second
        if data.size < 0:  # as a pipe leaves it
            return (data.start, size), None
        end = data.start + data.size
        if end > size:
            self._notes.append(
                f"it ends after {there_s:.2f} of the {data.size / second:.2f} s that its header states; "
                "the rest is missing"
            )
            return (data.start, size), None
        padded = end + (end - self._start) % (self._walk.pad if self._walk else 1)
        for following in (end, padded):
            if self._file_starts(following):
                return (data.start, end), following
        trailing = self._walk is not None and self._chunk_starts(self._walk, padded)
        if trailing or size - end < MIN_REST_S * second:
            return (data.start, end), None
        self._notes.append(
            f"its header states {data.size / second:.2f} s of audio, as when recording is interrupted; "
            f"all {there_s:.2f} s that it holds are used"
        )
        return (data.start, size), None


def _find_walk(window: Window, at: int) -> Walk | None:
    head = window.read(at, 16)
    for magic, kind in _STARTS:
        if head.startswith(magic):
            known = head[8:12] in (b"WAVE", b"AIFF", b"AIFC") or kind in ("CAF", "W64")
            return _WALKS[kind] if known else None
    return None


def _end_of(walk: Walk, chunk: Chunk) -> int:
    end = chunk.start + max(chunk.size, 0)
    return end + -end % walk.pad


def _stated(size: int) -> int:
    """A size as it is written; UNKNOWN for those that mean "to the end", as a pipe leaves them."""
    endless = 0x7FFFF000 <= size <= 0x80000000 or 2**32 - 256 <= size < 2**32 or size >= 2**63 - 256
    return UNKNOWN if endless or size < 0 else size


def _read_large(content: bytes) -> dict[bytes, int]:
    """The sizes that RF64 keeps apart because they need more than 32 bits."""
    return {b"data": struct.unpack_from("<Q", content, 8)[0]} if len(content) >= 16 else {}
