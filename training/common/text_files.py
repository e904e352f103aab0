"""Lines of text files, plain or compressed with zstandard."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from engine.errors import EngineError

_HEADER_BYTES = 18  # the longest header of a frame


class TextFileError(EngineError, ValueError):
    """A text that cannot be read."""


def read_text(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file without their ends; a name that ends in .zst is unpacked.

    Raises:
        TextFileError: it cannot be read, is not UTF-8, or is named .zst and is something else, or cut off.
    """
    want = "a UTF-8 text, a sentence a line; .zst as zstd writes it"
    try:
        with path.open("rb") as raw:
            yield from _read_packed(path, raw) if path.suffix == ".zst" else _read_lines(raw)
    except UnicodeDecodeError as error:
        raise TextFileError(f"{path}: {error}", want, "convert it, as with iconv -t utf-8") from error
    except zstandard.ZstdError as error:
        raise TextFileError(f"{path}: {error}", want, "fetch it again") from error
    except OSError as error:
        raise TextFileError(f"{path}: {error.strerror}", want, "check the path") from error


def _read_packed(path: Path, raw: BinaryIO) -> Iterator[str]:
    """Lines of a compressed file; the reader itself does not mind where the file ends."""
    size = zstandard.frame_content_size(raw.read(_HEADER_BYTES))
    raw.seek(0)
    plain = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    text = io.TextIOWrapper(plain, encoding="utf-8")
    yield from (line.rstrip("\n") for line in text)
    if plain.tell() < size:
        raise zstandard.ZstdError(f"ends after {plain.tell()} of {size} bytes of text")


def _read_lines(raw: BinaryIO) -> Iterator[str]:
    yield from (line.rstrip("\n") for line in io.TextIOWrapper(raw, encoding="utf-8"))
