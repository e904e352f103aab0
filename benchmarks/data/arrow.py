"""Hugging Face datasets as they lie on disk: `save_to_disk` folders (Arrow) and downloaded Parquet shards.

Only pyarrow is needed. The audio inside is written out as files once, into the user's cache, because what is
measured begins with reading a file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.data.manifest import Row
from benchmarks.errors import ManifestError
from benchmarks.extras import check_extras, load_extra

AUDIO = "audio"
SPLITS = {"train", "dev", "validation", "valid", "test"}


def find_shards(folder: Path, split: str) -> list[Path]:
    """The files of a split: those whose path names it, or all of them where no path names any split."""
    found = sorted([*folder.rglob("*.arrow"), *folder.rglob("*.parquet")])
    words = [set(re.split(r"[^0-9a-z]+", str(path.relative_to(folder)).lower())) for path in found]
    named = [path for path, present in zip(found, words, strict=True) if split in present]
    return named if named or any(present & SPLITS for present in words) else found


def read_shards(folder: Path, split: str, names: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """Read the rows of a dataset, with their audio written out as files.

    Args:
        folder: made by `Dataset.save_to_disk`, or holding Parquet files of the hub.
        split: of the dataset.
        names: columns that are renamed; others stay if they hold text or numbers.
    Returns:
        The rows, and one problem for each that has no audio.
    Raises:
        DependencyError: pyarrow is missing. ManifestError: a file is not readable, or has no audio column.
    """
    check_extras("pyarrow", extra="pip install pyarrow")
    rows: list[Row] = []
    problems: list[str] = []
    for shard in find_shards(folder, split):
        target = _cache_folder(shard)
        for cells in _records(shard):
            number = len(rows) + len(problems) + 1
            path = _write_audio(cells.pop(AUDIO), target, number)
            if path is None:
                problems.append(f"row {number}: no audio")
                continue
            texts = {names.get(k, k): str(v) for k, v in cells.items() if isinstance(v, str | int | float)}
            rows.append(Row(number, {**texts, "path": str(path), "id": texts.get("id", path.name)}))
    return rows, problems


def _records(shard: Path) -> Iterator[dict[str, Any]]:
    try:
        table = _read_table(shard)
    except (OSError, ValueError) as error:
        raise ManifestError(shard, [f"not readable ({error})"]) from error
    if AUDIO not in table.column_names:
        raise ManifestError(shard, [f"no column {AUDIO!r} (it has {', '.join(table.column_names)})"])
    for batch in table.to_batches(max_chunksize=64):  # audio is large: never all of it as Python objects
        yield from batch.to_pylist()


def _read_table(shard: Path) -> Any:
    if shard.suffix == ".parquet":
        return load_extra("pyarrow.parquet").read_table(shard)
    pyarrow = load_extra("pyarrow")
    source = pyarrow.memory_map(str(shard))
    try:
        return load_extra("pyarrow.ipc").open_stream(source).read_all()
    except pyarrow.ArrowInvalid:  # the file form, not the stream form
        return load_extra("pyarrow.ipc").open_file(source).read_all()


def _cache_folder(shard: Path) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    status = shard.stat()
    name = hashlib.sha256(f"{shard.resolve()}:{status.st_size}:{status.st_mtime_ns}".encode()).hexdigest()[
        :16
    ]
    return Path(root) / "engine-bench" / name


def _write_audio(audio: Any, folder: Path, number: int) -> Path | None:
    """The path of a row's audio: {bytes, path} as `datasets` stores it; None without any."""
    if not isinstance(audio, dict):
        return None
    name = Path(audio.get("path") or "").name
    if not audio.get("bytes"):
        return Path(audio["path"]) if name else None
    # The number keeps clips of one name apart; the name keeps the suffix.
    path = folder / f"{number:06d}-{name or 'clip'}"
    if not path.is_file() or path.stat().st_size != len(audio["bytes"]):
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        beside.write_bytes(audio["bytes"])
        beside.replace(path)
    return path
