"""JSON files of a bundle, of a checked type."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import BundleSchemaError

T = TypeVar("T")
RESTORE = "restore the file, or export the bundle again"


def read_json(path: Path, kind: type[T], want: str) -> T:
    """Read a file.

    Args:
        kind: type of its content, as msgspec takes it. want: the same in words, for the error.
    Raises:
        BundleSchemaError: it is no JSON, or of another type.
    """
    return decode_json(path.read_bytes(), kind, path.name, want)


def decode_json(content: bytes, kind: type[T], name: str, want: str) -> T:
    """Read the content of a file called name; see read_json."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # the last for deep nesting
        raise BundleSchemaError(f"{name} is not {want} ({error})", want, RESTORE) from error


def convert_json(content: Any, kind: type[T], name: str, want: str) -> T:
    """The same for what has been read as plain values."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.MsgspecError as error:
        raise BundleSchemaError(f"{name} is not {want} ({error})", want, RESTORE) from error
