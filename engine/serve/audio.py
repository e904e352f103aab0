"""OpenAI's audio endpoints: a form with a recording in, text out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.responses import Response

from engine.audio.load import SAMPLE_RATE, AudioLimits, load_audio
from engine.runtime.cancel import CancelToken
from engine.serve import responses
from engine.serve.requests import GRANULARITIES, RESPONSE_FORMATS, AudioRequest, read_request
from engine.serve.service import Service
from engine.serve.settings import ServeSettings
from engine.types import Transcript, Translation

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
                    },
                }
            }
        },
    }
}


def add_audio(app: FastAPI, service: Service) -> None:
    """Add the two endpoints."""

    async def answer(request: Request, call: Call) -> Response:
        service.check_open()
        wanted = await read_request(request, service.uploads, service.settings)
        try:
            with service.queue.admit():
                job = _job(call, wanted, service.settings)
                result = await service.queue.run(job, request.is_disconnected, wanted.audio.close)
        except BaseException:
            wanted.audio.close()
            raise
        return responses.result_response(result, wanted)

    @app.post("/v1/audio/transcriptions", openapi_extra=FORM)
    async def transcriptions(request: Request) -> Response:
        """German speech to German text."""
        return await answer(request, service.recogniser.transcribe)

    @app.post("/v1/audio/translations", openapi_extra=FORM)
    async def translations(request: Request) -> Response:
        """German speech to English text."""
        return await answer(request, service.recogniser.translate)


def _job(
    call: Call, wanted: AudioRequest, settings: ServeSettings
) -> Callable[[CancelToken], Transcript | Translation]:
    def job(cancel: CancelToken) -> Transcript | Translation:
        limits = AudioLimits(max_duration_s=settings.max_duration_s)
        waveform = load_audio(wanted.audio.read(), limits=limits, cancel=cancel)
        cancel.raise_if_cancelled()
        usual = settings.decoding
        options = usual.replace(passes=wanted.passes or usual.passes, numbers=wanted.numbers or usual.numbers)
        return call(waveform, SAMPLE_RATE, hotwords=wanted.hotwords, options=options, cancel=cancel)

    return job
