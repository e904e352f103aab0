"""The HTTP service: OpenAI's audio endpoints, a model list and an honest health check."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from engine import __version__
from engine._distribution import NAME
from engine.audio.load import SAMPLE_RATE, AudioLimits, read_audio
from engine.errors import EngineError
from engine.runtime.cancel import CancelToken
from engine.serve import responses
from engine.serve.health import HealthCheck
from engine.serve.requests import GRANULARITIES, RESPONSE_FORMATS, AudioRequest, read_request
from engine.serve.settings import Recogniser, ServeSettings, model_name_of, threads_of
from engine.serve.work import WorkQueue
from engine.types import Transcript, Translation

_log = logging.getLogger("engine")
Call = Callable[..., Transcript | Translation]

FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": {"type": "string"},
                        "language": {"type": "string", "enum": ["de"]},
                        "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS)},
                        "timestamp_granularities[]": {
                            "type": "array",
                            "items": {"type": "string", "enum": list(GRANULARITIES)},
                        },
                        "hotwords": {"type": "string", "description": "separated by commas"},
                        "passes": {"type": "string", "enum": ["1", "2"], "description": "1 is faster"},
                        "numbers": {"type": "string", "enum": ["words", "digits"]},
                        "channels": {"type": "string", "enum": ["mix", "separate"]},
                        "audio_track": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    }
}


def create_app(recogniser: Recogniser, settings: ServeSettings | None = None) -> FastAPI:
    """Build the service around a loaded model.

    Args:
        recogniser: a SpeechTranslator; shared by all requests.
        settings: bounds; the defaults when None.
    Returns:
        The application, for uvicorn or any other ASGI server.
    """
    settings = settings or ServeSettings()
    queue = WorkQueue(threads_of(recogniser, settings), settings.max_pending)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(title="Speech engine", version=__version__, lifespan=lifespan)
    app.state.queue = queue
    _add_errors(app)
    _add_audio(app, recogniser, queue, settings)
    _add_status(app, HealthCheck(recogniser, queue, settings), model_name_of(recogniser, settings))
    return app


def _add_audio(app: FastAPI, recogniser: Recogniser, queue: WorkQueue, settings: ServeSettings) -> None:
    async def answer(request: Request, call: Call) -> Response:
        with queue.admit():
            wanted = await read_request(request, settings)
            job = _job(call, wanted, settings)
            return responses.result_response(await queue.run(job, request.is_disconnected), wanted)

    @app.post("/v1/audio/transcriptions", openapi_extra=FORM)
    async def transcriptions(request: Request) -> Response:
        """German speech to German text."""
        return await answer(request, recogniser.transcribe)

    @app.post("/v1/audio/translations", openapi_extra=FORM)
    async def translations(request: Request) -> Response:
        """German speech to English text."""
        return await answer(request, recogniser.translate)


def _job(
    call: Call, wanted: AudioRequest, settings: ServeSettings
) -> Callable[[CancelToken], Transcript | Translation]:
    def job(cancel: CancelToken) -> Transcript | Translation:
        usual = settings.decoding
        options = usual.replace(
            passes=wanted.passes or usual.passes, numbers=wanted.numbers or usual.numbers,
            channels=wanted.channels or usual.channels, audio_track=wanted.audio_track or usual.audio_track,
        )  # fmt: skip
        limits = AudioLimits(max_duration_s=settings.max_duration_s)
        audio = read_audio(
            wanted.audio, limits=limits, cancel=cancel, channels=options.channels, track=options.audio_track
        )
        audio.warn()
        cancel.raise_if_cancelled()
        separate = options.channels == "separate"
        waveform = np.stack(audio.waveforms, axis=1) if separate else audio.waveforms[0]
        result = call(
            waveform, SAMPLE_RATE, hotwords=wanted.hotwords, options=options.replace(audio_track=None),
            cancel=cancel,
        )  # fmt: skip
        return _noted(result, audio.notes)

    return job


def _noted(result: Transcript | Translation, notes: tuple[str, ...]) -> Transcript | Translation:
    if isinstance(result, Translation):
        noted = replace(result.source, warnings=(*notes, *result.warnings))
        return replace(result, source=noted)
    return replace(result, warnings=(*notes, *result.warnings))


def _add_status(app: FastAPI, health: HealthCheck, model_name: str) -> None:
    @app.get("/health")
    async def check_health() -> Response:
        """Run a tiny inference; 200 only when it ended in time."""
        healthy, report = await health.check()
        return JSONResponse({**report, "model": model_name}, 200 if healthy else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is loaded."""
        model = {"id": model_name, "object": "model", "created": 0, "owned_by": NAME}
        return {"object": "list", "data": [model]}


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(EngineError)
    async def engine_error(_: Request, error: EngineError) -> Response:
        return responses.engine_error_response(error)

    @app.exception_handler(ClientDisconnect)
    async def client_left(_: Request, error: ClientDisconnect) -> Response:
        return responses.error_response(responses.CLIENT_LEFT, "the client left")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return responses.error_response(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return responses.error_response(422, str(error))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        _log.error("a request failed", exc_info=error)
        return responses.error_response(500, "internal error; see the server's log")
