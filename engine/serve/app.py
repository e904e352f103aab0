"""The HTTP service: OpenAI's audio endpoints, a model list, and what it says about itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine import __version__
from engine.errors import EngineError
from engine.serve import responses
from engine.serve.middleware.access import Access
from engine.serve.middleware.keys import BearerKeys, check_keys
from engine.serve.middleware.origins import check_origins, cors_options
from engine.serve.routes.audio import add_audio
from engine.serve.routes.models import add_models
from engine.serve.routes.page import add_page
from engine.serve.routes.realtime import add_realtime
from engine.serve.routes.renderings import add_renderings
from engine.serve.routes.status import add_status
from engine.serve.service import Service
from engine.serve.settings import Recogniser, ServeSettings


def create_app(recogniser: Recogniser, settings: ServeSettings | None = None) -> FastAPI:
    """Build the service around a loaded model.

    Args:
        recogniser: a SpeechTranslator; shared by all requests.
        settings: bounds; the defaults when None.
    Returns:
        The application, for engine.serve.transport.server, which bounds connections, or any other ASGI
        server.
    Raises:
        OptionError: keys or origins that cannot be used.
    """
    service = Service(recogniser, settings or ServeSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.loop = asyncio.get_running_loop()
        yield
        service.close()

    app = FastAPI(
        title="Speech engine", version=__version__, lifespan=lifespan, middleware=_middleware(service)
    )
    app.state.service = service
    _add_errors(app, service)
    for add in (add_audio, add_renderings, add_realtime, add_models, add_status, add_page):
        add(app, service)
    return app


def _middleware(service: Service) -> list[Middleware]:
    """The outermost first. A browser asks for permission without a key, so keys are inside."""
    keys, origins = check_keys(service.settings.api_keys), check_origins(service.settings.cors_origins)
    layers = [Middleware(Access, metrics=service.metrics)]
    if origins:
        layers.append(Middleware(CORSMiddleware, **cors_options(origins)))
    if keys:
        layers.append(Middleware(BearerKeys, keys=keys))
    return layers


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(EngineError)
    async def engine_error(_: Request, error: EngineError) -> Response:
        service.metrics.count_error(type(error).__name__)
        return responses.engine_error_response(error)

    @app.exception_handler(ClientDisconnect)
    async def client_left(_: Request, error: ClientDisconnect) -> Response:
        service.metrics.count_error("ClientDisconnect")
        return responses.error_response(responses.CLIENT_LEFT, "the client left")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return responses.error_response(
            error.status_code, str(error.detail), headers=dict(error.headers or {})
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return responses.error_response(422, str(error))
