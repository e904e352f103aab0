"""Why an export was refused."""

from __future__ import annotations

from engine.errors import EngineError


class ExportError(EngineError, ValueError):
    """A checkpoint that cannot be exported, or an export that failed its checks; nothing was written."""
