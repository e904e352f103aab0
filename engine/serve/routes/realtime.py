"""OpenAI's realtime endpoint: a WebSocket with audio in, and text while it is spoken."""

from __future__ import annotations

from importlib.util import find_spec

from fastapi import FastAPI, WebSocket
from starlette.responses import Response

from engine._distribution import install_command
from engine.errors import EngineError
from engine.serve.middleware.origins import check_origins
from engine.serve.realtime import opening
from engine.serve.realtime.opening import PATH, Refusal
from engine.serve.realtime.session import GOING_AWAY, POLICY, Session
from engine.serve.responses import error_response, status_of
from engine.serve.service import Service


def add_realtime(app: FastAPI, service: Service) -> None:
    """Add the endpoint."""
    origins = check_origins(service.settings.cors_origins)

    @app.websocket(PATH)
    async def realtime(socket: WebSocket) -> None:
        """German speech to German text, and English, while it is spoken."""
        if refusal := _why_not(socket, service, origins):
            service.metrics.count_error(refusal.code)
            await opening.refuse(socket.scope, socket.receive, socket.send, refusal)
            return
        session = Session(socket, service, opening.speaks_beta(socket.scope))
        with service.realtime.admit(session):
            await socket.accept(opening.chosen_protocol(socket.scope))
            await session.run()

    @app.get(PATH, include_in_schema=False)
    async def no_upgrade() -> Response:
        """Whoever comes without a WebSocket, or where the service can open none."""
        if find_spec("websockets") is None:
            told = f"no WebSockets: the package websockets is missing; fix: {install_command('serve')}"
            return error_response(501, told, "DependencyError")
        return error_response(426, "this path is for WebSockets", None, {"Upgrade": "websocket"})


def _why_not(socket: WebSocket, service: Service, origins: tuple[str, ...]) -> Refusal | None:
    """Why this session is not opened; None where it is."""
    if not opening.may_come_from(socket.scope, origins):
        told = "a page of an origin that may not use this service; fix: name it in --cors_origins"
        return Refusal(403, opening.FORBIDDEN, told, "origin_not_allowed")
    intent = socket.query_params.get("intent", "transcription")
    if intent != "transcription":
        told = f"intent {intent[:40]!r}; expected transcription; fix: name it or leave it out"
        return Refusal(400, POLICY, told, "invalid_value")
    try:
        service.check_sessions()
    except EngineError as error:
        code = GOING_AWAY if service.draining else opening.TRY_LATER
        return Refusal(status_of(error), code, str(error), type(error).__name__)
    return None
