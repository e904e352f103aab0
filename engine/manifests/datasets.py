"""Hugging Face datasets as they lie on disk: `save_to_disk` folders (Arrow) and downloaded Parquet files.

Only pyarrow is needed, and only here. Audio inside is written out as files once, into the user's cache, so
that whoever reads a row reads a file.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from engine.errors import DependencyError
from engine.manifests.rows import TEXT_COLUMNS, Cells, first_of

AUDIO_COLUMNS: Final = ("audio", "path", "file", "file_name")
SPLITS: Final = {"train", "dev", "validation", "valid", "test"}
_BATCH: Final = 64  # rows at once: audio is large, never all of it as Python objects


class DatasetProblem(Exception):
    """A file of a dataset that cannot be read; the text says why."""


def cache_folder() -> Path:
    """Where audio out of datasets is written: $XDG_CACHE_HOME/engine, or ~/.cache/engine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "engine"


def find_shards(folder: Path, split: str) -> tuple[list[Path], list[str]]:
    """The files of a split: those whose path names it, or all of them where no path names any split.

    Returns:
        The files, and which splits there are.
    """
    found = sorted([*folder.rglob("*.arrow"), *folder.rglob("*.parquet")])
    words = [set(re.split(r"[^0-9a-z]+", str(path.relative_to(folder)).lower())) for path in found]
    splits = sorted(set().union(*words) & SPLITS)
    if not splits:
        return found, splits
    return [path for path, present in zip(found, words, strict=True) if split in present], splits


def read_shards(shards: list[Path]) -> tuple[list[Cells], list[str]]:
    """Rows of a dataset under a `path` column, with their audio as files.

    Returns:
        The rows, and one problem for each that has no audio, and each file that cannot be read.
    Raises:
        DependencyError: pyarrow is missing.
    """
    rows: list[Cells] = []
    problems: list[str] = []
    number = 0
    for shard in shards:
        try:
            for values in _records(shard):
                number += 1
                path = _audio_path(values.pop(_audio_column(values, shard)), shard, number)
                place = f"{shard}, row {number}"
                if path is None:
                    problems.append(f"{place}: no audio")
                    continue
                plain = {k: v for k, v in values.items() if isinstance(v, str | int | float) or v is None}
                others = {k: v for k, v in plain.items() if k not in AUDIO_COLUMNS}
                rows.append(Cells(place, {"path": path, "id": Path(path).name, **others}))
        except DatasetProblem as problem:
            problems.append(f"{shard}: {problem}")
        except OSError as error:
            problems.append(f"{shard}: its audio cannot be written to {cache_folder()} ({error})")
    return rows, problems


def _audio_column(values: dict[str, Any], shard: Path) -> str:
    column = first_of(AUDIO_COLUMNS, values)
    if column is None or first_of(TEXT_COLUMNS, values) is None:
        raise DatasetProblem(
            f"got columns {', '.join(values)}; want one of {', '.join(AUDIO_COLUMNS)} "
            f"and one of {', '.join(TEXT_COLUMNS)}"
        )
    return column


def _records(shard: Path) -> Iterator[dict[str, Any]]:
    pyarrow = _import(shard, "pyarrow")
    try:
        table = _read_table(shard, pyarrow)
        table.validate(full=True)  # damaged offsets would otherwise crash where they are followed
        batches = iter(table.to_batches(max_chunksize=_BATCH))
        while (batch := next(batches, None)) is not None:
            yield from batch.to_pylist()
    except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        raise DatasetProblem(f"not a readable Arrow or Parquet file ({error})") from error


def _import(shard: Path, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"{shard} is a file of a dataset, and pyarrow is not installed", "pyarrow", "pip install pyarrow"
        ) from error


def _read_table(shard: Path, pyarrow: Any) -> Any:
    if shard.suffix == ".parquet":
        return _import(shard, "pyarrow.parquet").read_table(shard)
    ipc = _import(shard, "pyarrow.ipc")
    source = pyarrow.memory_map(str(shard))
    try:  # `datasets` writes streams, other tools files
        return ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        return ipc.open_file(source).read_all()


def _audio_path(cell: Any, shard: Path, number: int) -> str | None:
    """The path of a row's audio, {bytes, path} as `datasets` stores it or a path; None without any."""
    if isinstance(cell, str):
        return cell or None
    content = cell.get("bytes") if isinstance(cell, dict) else None
    name = str(cell.get("path") or "") if isinstance(cell, dict) else ""
    if not content:
        return name or None
    # The number keeps clips of one name apart; the name keeps the suffix.
    path = _shard_folder(shard) / f"{number:06d}-{Path(name).name or 'clip'}"
    if not path.is_file() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return str(path)


def _shard_folder(shard: Path) -> Path:
    status = shard.stat()
    identity = f"{shard.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    return cache_folder() / "datasets" / hashlib.sha256(identity.encode()).hexdigest()[:16]
