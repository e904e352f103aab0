"""Libraries' own log messages, held back while they do one thing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Let only errors of these loggers through, and give every logger its own level back at the end.

    Args:
        names: of loggers; "" is the root, which some libraries write to.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
