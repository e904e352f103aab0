"""The only place that writes to the terminal; lines never collide with a progress bar."""

from __future__ import annotations

import sys
from typing import Never

from tqdm import tqdm

from engine.errors import OutputError


def say(text: str, end: str = "\n") -> None:
    """Write a result to standard output; what its encoding lacks becomes a question mark.

    Raises:
        OutputError: it is closed or full. BrokenPipeError: its reader left.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed", "a place for the text", "add --output_dir DIR")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        tqdm.write(text.encode(encoding, "replace").decode(encoding), file=sys.stdout, end=end)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written ({error.strerror})", "room for it") from error


def complain(text: str, end: str = "\n") -> None:
    """Write a problem or a status to standard error."""
    tqdm.write(text, file=sys.stderr, end=end)
    sys.stderr.flush()


def progress_bar(total: float | None, unit: str, delay_s: float = 0.0) -> tqdm[Never]:
    """A bar on standard error, shown on terminals only, after delay_s seconds of work."""
    return tqdm(total=total, unit=unit, disable=None, delay=delay_s, file=sys.stderr)
