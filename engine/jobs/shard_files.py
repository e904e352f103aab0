"""The files of a shard: lines that are on disk as soon as they are known, and a result that appears whole.

    shard-00003-of-00016.partial.jsonl    while it runs: a header, then a line for each finished recording
    shard-00003-of-00016.jsonl            the result, in the order of the manifest
    shard-00003-of-00016.failures.jsonl   what failed, where something did
    shard-00003-of-00016.status.json      the header, counts and the result's SHA-256; written last

A killed run leaves the partial file; the next one takes its lines over, writes the rest and then the result,
which has the same bytes as that of a run that nobody killed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from engine.errors import OptionError, OutputError
from engine.jobs.shard_records import (
    REMOVE,
    Failure,
    First,
    Header,
    ShardPaths,
    Status,
    check_header,
    decode_header,
    first_line,
    index_lines,
    read_status,
)
from engine.jobs.shards import Shard


class ShardFiles:
    """The files of a shard that is worked on; a context, in which no other process can work on it."""

    def __init__(self, folder: Path, shard: Shard, header: Header) -> None:
        """Open or go on.

        Raises:
            OptionError: they are of another manifest, model or options, or another process has them.
            OutputError: they cannot be written.
        """
        self._paths, self._header, self._shard = ShardPaths(folder, shard), header, shard
        self._places: dict[str, tuple[Path, int, int]] = {}  # id: file, first byte, length
        self.status = read_status(self._paths.status)
        self._file = self._open()
        try:
            self._take_over()
        except BaseException:
            if not os.fstat(self._file.fileno()).st_size:
                self._paths.partial.unlink()
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, id: str, line: bytes) -> None:
        """Keep the line of a recording, on disk before this returns.

        Args:
            line: JSON without a line end.
        Raises:
            OutputError: it cannot be written.
        """
        start = self._file.tell()
        try:
            self._append(line + b"\n")
        except OSError as error:
            raise _cannot_write(self._paths.partial, error) from error
        self._places[id] = (self._paths.partial, start, len(line) + 1)

    def finish(self, ids: Sequence[str], failures: Iterable[Failure]) -> Status:
        """Write the result.

        Args:
            ids: in the order of the result; those without a line are left out.
            failures: in the same order.
        Raises:
            OutputError: it cannot be written; nothing is lost.
        """
        failed = [msgspec.json.encode(failure) + b"\n" for failure in failures]
        done = [self._places[id] for id in ids if id in self._places]
        try:
            if failed:
                write_whole(self._paths.failures, failed)
            else:
                self._paths.failures.unlink(missing_ok=True)
            digest = write_whole(self._paths.result, _read_places(done))
            status = Status(header=self._header, done=len(done), failed=len(failed), sha256=digest)
            text = msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"
            write_whole(self._paths.status, [text])
            self._paths.partial.unlink()
        except OSError as error:
            raise _cannot_write(self._paths.result, error) from error
        return status

    def _append(self, line: bytes) -> None:
        while line:  # a full disk takes a part of it
            line = line[self._file.write(line) :]
        _flush(self._file)

    def _open(self) -> BinaryIO:
        """The partial file, locked; another process may have finished and removed it in between."""
        while True:
            try:
                file = open(self._paths.partial, "a+b", buffering=0)  # noqa: SIM115  - returned
            except OSError as error:
                raise _cannot_write(self._paths.partial, error) from error
            try:
                _lock(file, self._shard)
                if os.fstat(file.fileno()).st_ino == self._paths.partial.stat().st_ino:
                    return file
            except FileNotFoundError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()

    def _take_over(self) -> None:
        """Find the lines that earlier runs have written, and cut off what a killed one has not completed."""
        ends = self._read_partial()
        if ends is None:
            self._file.truncate(0)
            self._check_result()
            self._append(msgspec.json.encode(First(self._header)) + b"\n")
            _sync_folder(self._paths.partial.parent)
        else:
            self._file.truncate(ends)
        self._file.seek(0, os.SEEK_END)
        if self._paths.result.exists():
            earlier = dict(index_lines(self._paths.result))
            self._places = earlier | self._places

    def _read_partial(self) -> int | None:
        """Index its lines; where they end, or None where nothing is worth keeping."""
        first = first_line(self._paths.partial)
        if not first.endswith(b"\n"):
            return None
        there, ends = decode_header(first, self._paths.partial), len(first)
        for id, place in index_lines(self._paths.partial, ends):
            self._places[id] = place
            ends = place[1] + place[2]
        if not self._places and there != self._header:
            return None  # a run that ended before its first line
        check_header(there, self._header, self._paths.partial)
        return ends

    def _check_result(self) -> None:
        if self.status is not None:
            check_header(self.status.header, self._header, self._paths.status)
        elif self._paths.result.exists():
            raise OptionError(
                f"{str(self._paths.result)!r} without its {self._paths.status.name}",
                "both files, as they were written", REMOVE,
            )  # fmt: skip
        if self.status is not None and not self._paths.result.exists():
            self.status = None


def write_whole(path: Path, lines: Iterable[bytes]) -> str:
    """Write a file that appears whole or not at all, and stays when the machine fails.

    Returns:
        Its SHA-256.
    Raises:
        OSError
    """
    beside, digest = path.with_name(f".{path.name}.part"), hashlib.sha256()
    try:
        with open(beside, "wb") as file:
            for line in lines:
                digest.update(line)
                file.write(line)
            _flush(file)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return digest.hexdigest()


def _read_places(places: Iterable[tuple[Path, int, int]]) -> Iterator[bytes]:
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for path, start, length in places:
            if path not in files:
                files[path] = stack.enter_context(open(path, "rb"))
            files[path].seek(start)
            yield files[path].read(length)


def _lock(file: BinaryIO, shard: Shard) -> None:
    """Held until the file is closed, also by the death of the process."""
    try:
        import fcntl
    except ImportError:  # no such system has been tested; two processes at once are then not noticed
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OptionError(
            f"another process is working on shard {shard} in this folder", "one at a time", "let it end"
        ) from error
    except OSError:  # a file system without locks
        return


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{str(path)!r} cannot be written ({error.strerror or error})",
        "a folder that can be written and has room",
        "free some space or choose another folder, then run the same command again",
    )
