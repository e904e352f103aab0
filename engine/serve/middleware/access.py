"""Every request: an id, one line in the log, and an answer whatever happens."""

from __future__ import annotations

import logging
import re
import time
from contextvars import ContextVar
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serve.metrics import NoMetrics
from engine.serve.responses import INTERNAL, error_response, new_request_id

HEADER: Final = "x-request-id"
ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
MAX_PATH: Final = 100  # characters in the log
QUIET: Final = frozenset({"/health", "/live", "/ready", "/metrics"})  # logged only where they fail
request_id: ContextVar[str] = ContextVar("request_id", default="")
TWO_LENGTHS: Final = "Content-Length and Transfer-Encoding in one request"
_log = logging.getLogger("engine.serve.middleware.access")
_errors = logging.getLogger("engine.serve")


class Access:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: NoMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers, began_s = Headers(scope=scope), time.perf_counter()
        given = headers.get(HEADER, "")
        request_id.set(given if ID.fullmatch(given) else new_request_id())
        if scope["type"] == "websocket":
            await self._session(scope, receive, send, began_s)
            return
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id.get()
            await send(message)

        try:
            if "content-length" in headers and "transfer-encoding" in headers:
                answer = error_response(400, TWO_LENGTHS, None, {"Connection": "close"})
                await answer(scope, receive, tagged)  # a proxy may have gone by the other one
            else:
                await self._app(scope, receive, tagged)
        except Exception:
            _errors.exception("a request failed")
            self._metrics.count_error("InternalError")
            if status:
                raise  # the answer has begun: only a broken connection says that it has not ended
            answer = error_response(500, INTERNAL)
            await answer(scope, receive, tagged)
        finally:
            seconds = time.perf_counter() - began_s
            self._metrics.observe_request(scope["path"], status, seconds)
            _write_line(scope, status, seconds)

    async def _session(self, scope: Scope, receive: Receive, send: Send, began_s: float) -> None:
        """Serve one WebSocket until its end; status 101 says that it was opened."""
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if not status:
                opened = {"websocket.accept": 101, "websocket.close": 403}
                status = message.get("status") or opened[message["type"]]
                if message["type"] != "websocket.close":
                    message.setdefault("headers", [])
                    MutableHeaders(scope=message)[HEADER] = request_id.get()
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        finally:
            self._metrics.observe_session(scope["path"], status)
            _write_line({**scope, "method": "GET"}, status, time.perf_counter() - began_s)


def _write_line(scope: Scope, status: int, seconds: float) -> None:
    path = scope["path"][:MAX_PATH]
    if path in QUIET and status < 400:
        return
    fields = {
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"][:16],
        "path": path,
        "status": status,
        "duration_ms": round(1000 * seconds, 1),
    }
    _log.info("%(method)s %(path)r %(status)d, %(duration_ms).1f ms", fields, extra={"fields": fields})
