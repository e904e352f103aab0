"""The only place that writes to the terminal; lines never collide with a progress bar."""

from __future__ import annotations

import sys
from typing import Never

from tqdm import tqdm


def say(text: str, end: str = "\n") -> None:
    """Write a result to standard output."""
    tqdm.write(text, file=sys.stdout, end=end)
    sys.stdout.flush()


def complain(text: str, end: str = "\n") -> None:
    """Write a problem or a status to standard error."""
    tqdm.write(text, file=sys.stderr, end=end)
    sys.stderr.flush()


def progress_bar(total: float | None, unit: str, delay_s: float = 0.0) -> tqdm[Never]:
    """A bar on standard error, shown on terminals only, after delay_s seconds of work."""
    return tqdm(total=total, unit=unit, disable=None, delay=delay_s, file=sys.stderr)
