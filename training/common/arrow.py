"""Hugging Face datasets as `save_to_disk` or the hub leave them: Arrow or Parquet with audio inside."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import EngineError

PATH_NAMES = ("audio", "path", "file")


class ArrowError(EngineError, ValueError):
    """A dataset folder cannot be read."""


def find_shards(folder: Path) -> list[Path]:
    """Return the Arrow and Parquet files of a folder, of its `train` split where it has splits."""
    found = sorted([*folder.rglob("*.arrow"), *folder.rglob("*.parquet")])
    train = [path for path in found if "train" in path.relative_to(folder).as_posix()]
    return train or found


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read a dataset; audio that lies inside is written to FOLDER/audio once, under a name made of its bytes.

    Args:
        folder: with *.arrow or *.parquet files; an audio column of {bytes, path} or of paths.
    Returns:
        One dictionary a row: `path`, relative to the folder, and the columns that hold text.
    Raises:
        ArrowError: pyarrow is missing, a file is not readable, or has no audio column.
    """
    rows = []
    for shard in find_shards(folder):
        for cells in _records(shard):
            column = next((name for name in PATH_NAMES if name in cells), None)
            if column is None:
                raise ArrowError(
                    f"{shard}: got columns {', '.join(cells)}; want one of {', '.join(PATH_NAMES)}"
                )
            path = _audio_path(cells.pop(column), folder)
            rows.append({"path": path, **{k: v for k, v in cells.items() if isinstance(v, str)}})
    return rows


def _records(shard: Path) -> Iterator[dict[str, Any]]:
    try:
        pyarrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ArrowError(f"{shard}: reading it needs pyarrow: pip install pyarrow") from error
    try:
        if shard.suffix == ".parquet":
            yield from pyarrow.parquet.read_table(shard).to_pylist()
            return
        with pyarrow.memory_map(str(shard)) as source:  # `datasets` writes streams, other tools files
            try:
                reader = pyarrow.ipc.open_stream(source)
            except pyarrow.ArrowInvalid:
                reader = pyarrow.ipc.open_file(source)
            yield from reader.read_all().to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ArrowError(f"{shard}: not a readable Arrow or Parquet file ({error})") from error


def _audio_path(cell: Any, folder: Path) -> str:
    if isinstance(cell, str):
        return cell
    content, name = (cell or {}).get("bytes"), (cell or {}).get("path") or ""
    if not content:
        return name or "missing"
    target = folder / "audio" / f"{hashlib.sha256(content).hexdigest()[:24]}{Path(name).suffix or '.wav'}"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        beside = target.with_name(target.name + ".part")
        beside.write_bytes(content)
        beside.replace(target)
    return target.relative_to(folder).as_posix()
