"""Lines of text files, plain or compressed with zstandard."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from engine.errors import TextFileError
from engine.manifests.text_file import UTF16_MARKS, decode_text, encoding_error, split_lines

__all__ = ["TextFileError", "read_text"]
_HEADER_BYTES = 18  # the longest header of a frame


def read_text(path: Path) -> Iterator[str]:
    """Lines of a text file without their ends, one after another; a name that ends in .zst is unpacked.

    Raises:
        TextFileError: it cannot be read, is neither UTF-8 nor UTF-16 with a byte order mark (the message
            names the line), or is named .zst and is of another type or truncated.
    """
    want = "a text, one sentence per line; .zst as zstd writes it"
    try:
        with path.open("rb") as raw:
            yield from _read_packed(path, raw) if path.suffix == ".zst" else _read_lines(path, raw)
    except zstandard.ZstdError as error:
        raise TextFileError(f"{path}: {error}", want, "fetch it again") from error
    except OSError as error:
        raise TextFileError(f"{path}: {error.strerror}", want, "check the path") from error


def _read_packed(path: Path, raw: BinaryIO) -> Iterator[str]:
    """Lines of a compressed file; the reader itself accepts truncated files."""
    size = zstandard.frame_content_size(raw.read(_HEADER_BYTES))
    raw.seek(0)
    plain = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    yield from _read_lines(path, io.BufferedReader(plain))
    if plain.tell() < size:
        raise zstandard.ZstdError(f"ends after {plain.tell()} of {size} bytes of text")


def _read_lines(path: Path, raw: BinaryIO) -> Iterator[str]:
    """Lines, one at a time; UTF-16, which is rare, is read at once."""
    first = raw.readline()
    if first.startswith(UTF16_MARKS):
        yield from split_lines(decode_text(first + raw.read(), str(path)))
        return
    yield from _decode(path, [first.removeprefix(codecs.BOM_UTF8)] if first else [], 1)
    yield from _decode(path, raw, 2)


def _decode(path: Path, lines: Iterable[bytes], number: int) -> Iterator[str]:
    for line_number, line in enumerate(lines, number):
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise encoding_error(str(path), line_number, error) from error
