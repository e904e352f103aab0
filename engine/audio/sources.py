"""Paths, bytes and file objects -> one seekable stream; parts of it look like files of their own."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from engine.audio.limits import AudioLimits, check_bytes
from engine.errors import AudioDecodeError, AudioLimitError, AudioNotFoundError, AudioShapeError

READ_BYTES: Final = 1 << 20
MAX_PARTS: Final = 10_000  # files joined to one


class Buffer(io.BytesIO):
    """Bytes in which damaged headers may seek before the start without a complaint on stderr."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek; never before the start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(base + offset, 0))


class Part(io.RawIOBase):
    """Bytes start to end of a stream as a file of their own. Raises nothing that a decoder would print.

    Args:
        prefix: bytes that the file begins with, in front of those of the stream.
    """

    def __init__(self, stream: BinaryIO, start: int, end: int, prefix: bytes = b"") -> None:
        self._stream, self._start, self._prefix = stream, start, prefix
        self._size = len(prefix) + end - start
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position from the start of the part."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek; never before the start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read what fits; 0 at the end of the part."""
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        content = self._prefix[self._at : self._at + wanted]
        if len(content) < wanted:
            at = self._start + self._at + len(content) - len(self._prefix)
            content += read_at(self._stream, at, wanted - len(content))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


class Window:
    """Small reads all over a stream, served from blocks of 1 MiB.

    Args:
        beat: called before each block is read; may raise to stop.
    """

    def __init__(self, stream: BinaryIO, beat: Callable[[], None] = lambda: None) -> None:
        self._stream, self._beat = stream, beat
        self._first = 0
        self._block = b""
        self.size = stream_size(stream)

    def read(self, at: int, n_bytes: int) -> bytes:
        """Read up to n_bytes (at most 64 KiB) from position at; fewer only at the end."""
        if at >= self.size:
            return b""
        offset = at - self._first
        if not 0 <= offset <= len(self._block) - n_bytes:
            self._beat()
            self._first, offset = at, 0
            self._block = read_at(self._stream, at, READ_BYTES)
        return self._block[offset : offset + n_bytes]

    def find(self, wanted: bytes, at: int, end: int) -> int:
        """Position of the first occurrence of wanted from at on, -1 where there is none before end."""
        while at < end:
            if len(self.read(at, len(wanted))) < len(wanted):
                return -1
            found = self._block.find(wanted, at - self._first)
            if found >= 0:
                return self._first + found if self._first + found < end else -1
            at = self._first + len(self._block) - len(wanted) + 1
        return -1


def check_parts(n_parts: int) -> None:
    """Raise AudioLimitError for a file that is made of too many to be a recording."""
    if n_parts > MAX_PARTS:
        raise AudioLimitError(
            f"more than {MAX_PARTS} recordings or streams in one file",
            "fewer",
            "split it, or convert it first",
        )


def stream_size(stream: BinaryIO) -> int:
    """The number of bytes of a seekable stream."""
    return stream.seek(0, os.SEEK_END)


def read_at(stream: BinaryIO, at: int, n_bytes: int) -> bytes:
    """Read up to n_bytes from position at; fewer only at the end of the stream."""
    stream.seek(at)
    content = stream.read(n_bytes) or b""
    while 0 < len(content) < n_bytes and (more := stream.read(n_bytes - len(content))):
        content += more
    return content


@contextmanager
def open_source(source: Any, limits: AudioLimits) -> Iterator[tuple[BinaryIO, str]]:
    """Open a path, bytes or a file object for reading at any position.

    Returns:
        The stream, and its name for messages.
    Raises:
        AudioNotFoundError, AudioShapeError, AudioDecodeError (opened as text), AudioLimitError.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        with _open_file(name) as file:
            yield file, name
    elif isinstance(source, bytes | bytearray | memoryview):
        check_bytes(len(source), limits)
        yield Buffer(source), "the buffer"
    elif hasattr(source, "read"):
        yield _read_object(source, limits), "the file object"
    else:
        raise AudioShapeError(
            f"audio of type {type(source).__name__}",
            "a path, bytes, a binary file object or a numpy array",
            "convert it, for instance np.asarray(samples, dtype=np.float32)",
        )


@contextmanager
def descriptor_of(stream: BinaryIO) -> Iterator[int]:
    """A file descriptor of the stream; bytes are copied to an anonymous file for it."""
    if not isinstance(stream, Buffer):
        yield stream.fileno()
        return
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("audio"), "wb", buffering=0) as file:
            _write_all(file, stream)
            yield file.fileno()
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            _write_all(file, stream)
            yield file.fileno()


def _write_all(file: Any, stream: Buffer) -> None:
    content = stream.getbuffer()
    while content:
        content = content[file.write(content[:READ_BYTES]) :]


def _open_file(name: str) -> BinaryIO:
    try:
        status = Path(name).stat()
        if stat.S_ISREG(status.st_mode):
            return open(name, "rb", buffering=0)  # libsndfile shares the descriptor
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fix = "download it first: the engine opens no network" if "://" in name else "check the path"
        raise AudioNotFoundError(f"{name!r} cannot be opened ({reason})", "an audio file", fix) from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioNotFoundError(f"{name!r} is a folder", "an audio file", "pass the path of a file in it")
    raise AudioNotFoundError(f"{name!r} is a pipe or device", "an audio file", "save what it holds to a file")


def _read_object(source: Any, limits: AudioLimits) -> BinaryIO:
    content = bytearray()
    while True:
        part = "" if isinstance(source, io.TextIOBase) else source.read(READ_BYTES)
        if isinstance(part, str):
            raise AudioDecodeError("a file object opened as text", "a binary one", "open(path, 'rb')")
        if not part:
            return Buffer(content)
        content += part
        check_bytes(len(content), limits)
