"""The page at `/`: static files, what they are sent with, and what they ask the service first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "files"
ENTRY: Final = "index.html"
SETTINGS_PATH: Final = "/page/settings.json"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FILES: Final = (
    ENTRY, "style.css", "icon.svg", "page.js", "service.js", "transcript.js", "player.js", "realtime.js",
    "microphone.js", "capture.js", "resampler.js",
)  # fmt: skip
# Nothing but this server's own files; no markup is ever made of text, and no other page may frame this one.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # kept, and used again after the service said that it is still the same
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page.

    Attributes:
        content: its bytes. media_type: with the encoding. tag: a strong ETag, of the content.
    """

    content: bytes
    media_type: str
    tag: str


def path_of(name: str) -> str:
    """Where a file is served."""
    return "/" if name == ENTRY else f"/page/{name}"


PATHS: Final = frozenset({SETTINGS_PATH, *map(path_of, FILES)})


@cache
def load_file(name: str) -> PageFile:
    """One of FILES, read once."""
    content = (FOLDER / name).read_bytes()
    tag = hashlib.sha256(content).hexdigest()[:32]
    return PageFile(content, TYPES[Path(name).suffix], f'"{tag}"')
