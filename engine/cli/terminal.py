"""The only place that writes to the terminal; lines never collide with a progress bar."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Never, TextIO

from tqdm import tqdm

from engine.errors import OutputError

CLEAR: Final = "\r\033[K"
ELLIPSIS: Final = "…"


_status: list[StatusLine] = []  # that stand on the terminal now


def say(text: str, end: str = "\n") -> None:
    """Write a result to standard output; what its encoding lacks becomes a question mark.

    Raises:
        OutputError: it is closed or full. BrokenPipeError: its reader left.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed", "a place for the text", "add --output_dir DIR")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        with _aside():
            tqdm.write(text.encode(encoding, "replace").decode(encoding), file=sys.stdout, end=end)
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written ({error.strerror})", "room for it") from error


def complain(text: str, end: str = "\n") -> None:
    """Write a problem or a status to standard error."""
    with _aside():
        tqdm.write(text, file=sys.stderr, end=end)
        sys.stderr.flush()


@contextmanager
def _aside() -> Iterator[None]:
    with ExitStack() as stack:
        for line in _status:
            stack.enter_context(line.hidden())
        yield


def progress_bar(total: float | None, unit: str, delay_s: float = 0.0) -> tqdm[Never]:
    """A bar on standard error, shown on terminals only, after delay_s seconds of work."""
    return tqdm(total=total, unit=unit, disable=None, delay=delay_s, file=sys.stderr)


class StatusLine:
    """The last line of a terminal, written again and again; nothing where there is no terminal.

    As a context manager, it makes room for whatever say() and complain() write meanwhile.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Begin with an empty line."""
        self._stream = stream if stream is not None and stream.isatty() else None
        self._text, self._shown = "", ""

    def __enter__(self) -> StatusLine:
        _status.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _status.remove(self)
        self.show("")

    def show(self, text: str) -> None:
        """Replace the line; of a text that is too wide the end is seen."""
        self._text = text
        self._draw(fit_left(text, _columns(self._stream) - 1) if self._stream is not None else "")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """An empty line while the block writes something else."""
        self._draw("")
        yield
        self.show(self._text)

    def _draw(self, shown: str) -> None:
        if self._stream is not None and shown != self._shown:
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(CLEAR + shown.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
            self._shown = shown


def fit_left(text: str, columns: int) -> str:
    """A text in at most so many columns of a terminal: its end, behind an ellipsis where it is cut.

    Control characters, which could move the cursor, become spaces; wide characters count as two columns,
    combining ones as none.
    """
    text = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    if sum(map(_width, text)) <= columns:
        return text
    room, start = columns - 1, len(text)
    while start > 0 and room >= _width(text[start - 1]):
        start -= 1
        room -= _width(text[start])
    while start < len(text) and _width(text[start]) == 0:  # an accent without its letter
        start += 1
    return (ELLIPSIS + text[start:]) if columns > 0 else ""


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns
