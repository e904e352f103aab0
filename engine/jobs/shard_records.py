"""What stands in the files of a shard: its header, lines, failures and status; reading and comparing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.errors import OptionError
from engine.jobs.shards import Shard

SCHEMA_VERSION: Final = 1
REMOVE: Final = "use another --output_dir, or remove this shard's files to start over"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard is a shard of; shards belong together where all of it but `shard` and `rows` is equal.

    Attributes:
        shard, shards: number, from 1, and count. rows: of this shard. total_rows: of all shards.
        plan: digest of the manifest and its division. model: name and digest. engine: version.
        options: how speech becomes text.
    """

    schema_version: int = SCHEMA_VERSION
    shard: int
    shards: int
    rows: int
    total_rows: int
    plan: str
    model: str
    engine: str
    options: dict[str, Any]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a shard ended.

    Attributes:
        done, failed: recordings. sha256: of the result.
    """

    header: Header
    done: int
    failed: int
    sha256: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A recording without a result."""

    id: str
    audio_filepath: str
    error: str
    message: str


class _Line(msgspec.Struct):
    id: str


class First(msgspec.Struct):
    """The first line of an unfinished shard."""

    header: Header


class ShardPaths:
    """Where the files of a shard are."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.partial, self.result, self.failures, self.status = (
            folder / f"{shard.stem}.{suffix}"
            for suffix in ("partial.jsonl", "jsonl", "failures.jsonl", "status.json")
        )


def read_status(path: Path) -> Status | None:
    """The status of a finished shard; None where there is none.

    Raises:
        OptionError: it is no such file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise OptionError(
            f"{str(path)!r} cannot be read ({error})", "the status of a shard", REMOVE
        ) from error


def read_header(partial: Path) -> Header | None:
    """The header of an unfinished shard; None where it was not completed.

    Raises:
        OptionError: the file is none of ours.
    """
    first = first_line(partial)
    return decode_header(first, partial) if first.endswith(b"\n") else None


def check_others(folder: Path, header: Header) -> None:
    """Refuse a folder with shards that cannot be put together with this one.

    Raises:
        OptionError: names a file, and every difference.
    """
    wanted = msgspec.structs.replace(header, shard=0, rows=0)
    for path in sorted(folder.glob("shard-*-of-*")):
        there = None
        if path.name.endswith(".status.json"):
            status = read_status(path)
            there = status.header if status is not None else None
        elif path.name.endswith(".partial.jsonl"):
            there = read_header(path)
        if there is not None and there.shard != header.shard:
            check_header(msgspec.structs.replace(there, shard=0, rows=0), wanted, path)


def count_lines(partial: Path) -> int:
    """Complete lines of an unfinished shard, without its header."""
    return sum(1 for _ in index_lines(partial, len(first_line(partial))))


def check_header(there: Header, wanted: Header, path: Path) -> None:
    """Refuse to add to results of something else.

    Raises:
        OptionError: names every difference.
    """
    differences = [f"{name} {old!r}, now {new!r}" for name, old, new in compare_headers(there, wanted)]
    if differences:
        raise OptionError(
            f"{str(path)!r} was made with other settings: {'; '.join(differences)}", "the same ones", REMOVE
        )


def compare_headers(one: Header, other: Header) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and other value of each difference, options one by one."""
    first, second = (_flatten(msgspec.to_builtins(each)) for each in (one, other))
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            yield name, first.get(name), second.get(name)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= _flatten(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def index_lines(path: Path, start: int = 0) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """Id and place of each line from a position on, up to the first that is not complete."""
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            try:
                found = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError:
                return
            if not line.endswith(b"\n"):
                return
            yield found.id, (path, start, len(line))
            start += len(line)


def first_line(path: Path) -> bytes:
    """Up to and with its end, where it has one."""
    with open(path, "rb") as file:
        return file.readline()


def decode_header(first: bytes, path: Path) -> Header:
    """The header in the first line of an unfinished shard.

    Raises:
        OptionError: it holds none.
    """
    try:
        return msgspec.json.decode(first, type=First).header
    except msgspec.DecodeError as error:
        raise OptionError(f"{str(path)!r} has no header ({error})", "an unfinished shard", REMOVE) from error
