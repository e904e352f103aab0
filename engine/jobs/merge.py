"""Are all shards of an archive there, each once? Then they can become one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.errors import OptionError, OutputError
from engine.jobs.shard_files import write_whole
from engine.jobs.shard_records import (
    Header,
    ShardPaths,
    Status,
    compare_headers,
    count_lines,
    read_header,
    read_status,
)
from engine.jobs.shards import Shard, parse_shard


class Archive(NamedTuple):
    """What a folder of shards holds.

    Attributes:
        n_shards: how many there should be.
        finished: those with a result, in order.
        n_done, n_failed: recordings in them.
        problems: why they are not one whole archive; empty when they are.
    """

    n_shards: int
    finished: list[Shard]
    n_done: int
    n_failed: int
    problems: list[str]


class _Line(msgspec.Struct):
    id: str


def inspect_archive(folder: Path) -> Archive:
    """Look at every shard, and compare them with each other and with their checksums.

    Raises:
        OptionError: there are no shards, or a file is none of ours.
    """
    names = sorted({path.name.partition(".")[0] for path in folder.glob("shard-*-of-*.*jsonl")})
    shards = [_shard_of(name, folder) for name in names]
    if not shards:
        raise OptionError(f"no shards in {str(folder)!r}", "the --output_dir of a manifest", "check the path")
    count = shards[0].count
    problems = [
        f"shard {each} is of another division than shard {shards[0]}"
        for each in shards
        if each.count != count
    ]
    finished, headers, ended = [], [], []
    for shard in (Shard(number, count) for number in range(1, count + 1)):
        header, status, said = _look(folder, shard)
        if header is not None:
            headers.append(header)
        if status is None:
            problems.append(f"shard {shard} is {said}")
        else:
            finished.append(shard)
            ended.append(status)
    problems += [*_differences(headers), *_check_rows(folder, finished, ended, whole=not problems)]
    n_done, n_failed = (sum(getattr(each, name) for each in ended) for name in ("done", "failed"))
    return Archive(count, finished, n_done, n_failed, problems)


def merge_archive(folder: Path, output: Path) -> Archive:
    """Write one file with the lines of all shards, shard by shard, and one with their failures.

    Args:
        output: the file; failures go to its name with `.failures` before the suffix.
    Returns:
        What inspect_archive says; nothing is written where it has problems.
    Raises:
        OutputError: a file cannot be written. OptionError: as inspect_archive.
    """
    archive = inspect_archive(folder)
    if archive.problems:
        return archive
    paths = [ShardPaths(folder, shard) for shard in archive.finished]
    failures = output.with_name(f"{output.stem}.failures{output.suffix or '.jsonl'}")
    try:
        if archive.n_failed:
            write_whole(failures, _lines([each.failures for each in paths if each.failures.exists()]))
        else:
            failures.unlink(missing_ok=True)
        write_whole(output, _lines([each.result for each in paths]))
    except OSError as error:
        raise OutputError(
            f"{str(output)!r} cannot be written ({error.strerror or error})",
            "a folder that exists and has room", "choose another place",
        ) from error  # fmt: skip
    return archive


def _shard_of(name: str, folder: Path) -> Shard:
    try:
        number, _, count = name.removeprefix("shard-").partition("-of-")
        shard = parse_shard(f"{int(number)}/{int(count)}")
    except (ValueError, OptionError):
        shard = None
    if shard is None or shard.stem != name:
        raise OptionError(f"{name!r} in {str(folder)!r}", "names of shards", "move the file away") from None
    return shard


def _look(folder: Path, shard: Shard) -> tuple[Header | None, Status | None, str]:
    """Header; status where it is finished, else what it is."""
    paths = ShardPaths(folder, shard)
    status = read_status(paths.status)
    if paths.partial.exists():
        header = read_header(paths.partial)
        n_lines = count_lines(paths.partial)
        return header, None, f"unfinished, {n_lines} of {header.rows if header else '?'} done"
    if status is None or not paths.result.exists():
        return None, None, "missing"
    return status.header, status, ""


def _differences(headers: list[Header]) -> Iterator[str]:
    for other in headers[1:]:
        for name, first, second in compare_headers(headers[0], other):
            if name not in ("shard", "rows"):
                yield f"shard {other.shard}/{other.shards} has {name} {second!r}, shard 1 has {first!r}"


def _check_rows(folder: Path, shards: list[Shard], ended: list[Status], whole: bool) -> Iterator[str]:
    """Recordings that two shards have, results that were changed, and recordings that none has."""
    seen: dict[str, Shard] = {}
    for shard, status in zip(shards, ended, strict=True):
        digest = hashlib.sha256()
        for line in _lines([ShardPaths(folder, shard).result]):
            digest.update(line)
            try:
                id = msgspec.json.decode(line, type=_Line).id
            except msgspec.DecodeError:
                continue  # the checksum tells
            if id in seen:
                yield f"recording {id!r} is in shard {seen[id]} and in shard {shard}"
            seen[id] = shard
        if digest.hexdigest() != status.sha256:
            yield f"shard {shard} is not as it was written: its SHA-256 differs"
    n_rows = sum(status.header.rows for status in ended)
    if whole and n_rows != ended[0].header.total_rows:
        yield f"the shards have {n_rows} recordings, the manifest has {ended[0].header.total_rows}"


def _lines(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as file:
            yield from file
