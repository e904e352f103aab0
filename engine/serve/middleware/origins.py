"""CORS: which web pages of other origins may use the service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from engine.errors import OptionError

ORIGIN: Final = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Origins as a browser sends them, or * for all.

    Raises:
        OptionError: something else.
    """
    for origin in origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise OptionError(
                f"the origin {origin!r}", "scheme://host or scheme://host:port, or *", "leave out the path"
            )
    return tuple(origin if origin == "*" else origin.lower() for origin in origins)


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """Arguments of Starlette's CORSMiddleware."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "expose_headers": ["X-Request-ID", "Retry-After"],
        "max_age": 600,
    }
