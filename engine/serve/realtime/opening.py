"""Who may open a session: keys and origins of WebSockets, and refusals that their clients can see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from engine.serve.realtime.messages import encode, make_event
from engine.serve.responses import RETRY_AFTER_S, error_object, error_response

PATH: Final = "/v1/realtime"
PROTOCOL: Final = "realtime"
KEY_PROTOCOL: Final = "openai-insecure-api-key."
BETA_PROTOCOL, BETA_HEADER = "openai-beta.realtime-v1", "realtime=v1"
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
UNAUTHORIZED, FORBIDDEN, TRY_LATER = 3000, 3003, 1013  # close codes, as registered


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a session is not opened.

    Attributes:
        status: of HTTP. close_code: of a WebSocket. message, code: of OpenAI's error object.
    """

    status: int
    close_code: int
    message: str
    code: str


def protocol_key(scope: Scope) -> str | None:
    """The key that a web page sends as a subprotocol, as it cannot set headers."""
    offered = scope.get("subprotocols", ())
    keys = (name[len(KEY_PROTOCOL) :] for name in offered if name.startswith(KEY_PROTOCOL))
    return next(keys, None)


def chosen_protocol(scope: Scope) -> str | None:
    """The subprotocol to answer with; never the one that holds a key."""
    return PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None


def speaks_beta(scope: Scope) -> bool:
    """Whether a client asks for the protocol of OpenAI's beta."""
    header = Headers(scope=scope).get("openai-beta", "")
    return BETA_PROTOCOL in scope.get("subprotocols", ()) or BETA_HEADER in header


def may_come_from(scope: Scope, origins: Sequence[str]) -> bool:
    """Whether a page may use the service: one of the same host and port, or of an allowed origin.

    No browser checks this for WebSockets, and every page can open one.

    Args:
        origins: as in ServeSettings.cors_origins.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin.lower() in [each.lower() for each in origins]:
        return True
    try:
        page = urlsplit(origin)
        served = urlsplit(f"{page.scheme}://{headers.get('host', '')}")
        port = DEFAULT_PORTS.get(page.scheme)
        same = (page.hostname, page.port or port) == (served.hostname, served.port or port)
    except ValueError:
        return False
    return page.hostname is not None and same


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer with a status; a page, whose script sees no status, with an `error` event and a close code."""
    if "origin" not in Headers(scope=scope):
        headers = {"Retry-After": str(RETRY_AFTER_S)} if refusal.status == 503 else {}
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        answer = error_response(refusal.status, refusal.message, refusal.code, headers)
        await answer(scope, receive, send)
        return
    told = error_object(refusal.status, refusal.message, refusal.code)["error"]
    event = make_event("error", error={**told, "event_id": None})
    await send({"type": "websocket.accept", "subprotocol": chosen_protocol(scope)})
    await send({"type": "websocket.send", "text": encode(event)})
    await send({"type": "websocket.close", "code": refusal.close_code, "reason": refusal.code})
