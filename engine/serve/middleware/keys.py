"""Bearer keys: who may use the service."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import OptionError
from engine.serve.page import PATHS as PAGE_PATHS
from engine.serve.realtime.opening import UNAUTHORIZED, Refusal, protocol_key, refuse
from engine.serve.responses import error_response

# For whoever watches the process, and for the page that asks for the key.
OPEN: Final = frozenset({"/live", "/ready", "/health"}) | PAGE_PATHS
NO_KEY: Final = "no valid API key; fix: send the header 'Authorization: Bearer KEY'"


class BearerKeys:
    """ASGI middleware that lets requests with a key through, before their bodies are read."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 where the key is missing or wrong."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN or self._knows(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse(scope, receive, send, Refusal(401, UNAUTHORIZED, NO_KEY, "invalid_api_key"))
        else:
            answer = error_response(401, NO_KEY, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        """Compare digests, all of them: neither the time nor a length tells anything about a key."""
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scope["type"] == "websocket" and (offered := protocol_key(scope)) is not None:
            kind, key = "bearer", offered
        digest = _digest(key.strip().encode("latin-1", "replace"))
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return kind.lower() == "bearer" and any(found)


def check_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Keys that a header can hold.

    Raises:
        OptionError: one is empty, or holds a space or other characters than ASCII.
    """
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise OptionError(
                "an API key that is empty or holds other characters than printable ASCII",
                "letters, digits and signs, without spaces",
                "choose another, for instance `openssl rand -hex 32`",
            )
    return tuple(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
