"""Text files of users: UTF-8 with or without a byte order mark, or UTF-16 with one; all else is an error.

Nothing is guessed and nothing is replaced: a text in Latin-1 that is read as something else looks like a
bad model.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Final

from engine.errors import TextFileError

ENCODINGS: Final = "UTF-8, or UTF-16 with a byte order mark"
CONVERT: Final = "if it is Latin-1, convert it: iconv -f latin1 -t utf-8 IN > OUT"
UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ZERO: Final = "a zero byte, as in UTF-16 without a byte order mark or in a file that is no text"


def read_text(path: str | os.PathLike[str]) -> str:
    """The whole text of a file, without a byte order mark; line ends stay as they are.

    Raises:
        TextFileError: it cannot be read, or is in another encoding; the message names file and line.
    """
    name = os.fspath(path)
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError as error:
        raise TextFileError(f"{name}: no such file", "a text file", "check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise TextFileError(f"{name} cannot be read ({reason})", "a text file", "check the path") from error
    return decode_text(data, name)


def decode_text(data: bytes, name: str) -> str:
    """Decode a whole text.

    Args:
        data: the file's bytes.
        name: how the error calls the file.
    Raises:
        TextFileError: neither UTF-8 nor UTF-16 with a byte order mark; the message names file and line.
    """
    encoding = "utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        # The object counts from behind a byte order mark where the codec has taken one off.
        before = error.object[: error.start].decode(encoding, errors="replace")
        raise encoding_error(name, before.count("\n") + 1, error) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise TextFileError(f"{name}:{line}: {_ZERO}", ENCODINGS, "save it as UTF-8")
    return text


def encoding_error(name: str, line: int, error: UnicodeDecodeError) -> TextFileError:
    """The error for bytes that are not text, in the same words wherever text is read.

    Args:
        line: from 1.
    """
    kind = "UTF-16" if error.encoding.startswith("utf-16") else "UTF-8"
    return TextFileError(
        f"{name}:{line}: not {kind} text (byte 0x{error.object[error.start]:02x})", ENCODINGS, CONVERT
    )


def split_lines(text: str) -> list[str]:
    """Lines ended by \\n or \\r\\n only: str.splitlines would also cut at U+2028 or U+0085 in a sentence."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a text file without their ends.

    Raises:
        TextFileError: as read_text.
    """
    return split_lines(read_text(path))
