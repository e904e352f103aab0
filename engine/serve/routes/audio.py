"""OpenAI's audio endpoints: a form with a recording in, text out."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from engine.errors import OptionError
from engine.serve import responses
from engine.serve.events import Partial, stream_text
from engine.serve.fields import FORM
from engine.serve.recognition import Recognition
from engine.serve.requests import AudioRequest, read_request
from engine.serve.service import Service
from engine.types import Transcript, Translation


def add_audio(app: FastAPI, service: Service) -> None:
    """Add the two endpoints."""

    @app.post("/v1/audio/transcriptions", openapi_extra=FORM)
    async def transcriptions(request: Request) -> Response:
        """German speech to German text."""
        wanted = await _read(request, service)
        if not wanted.stream:
            return responses.result_response(await _work(request, service, wanted, "transcribe"), wanted)

        async def work(partial: Partial) -> Transcript:
            result = await _work(request, service, wanted, "transcribe", partial=partial)
            assert isinstance(result, Transcript)
            return result

        return await stream_text(work, wanted.logprobs)

    @app.post("/v1/audio/translations", openapi_extra=FORM)
    async def translations(request: Request) -> Response:
        """German speech to English text."""
        wanted = await _read(request, service)
        if wanted.stream or wanted.logprobs:
            wanted.audio.close()
            field = "stream=true" if wanted.stream else "include[]=logprobs"
            raise OptionError(f"{field} for a translation", "", "leave it out, or ask for a transcription")
        return responses.result_response(await _work(request, service, wanted, "translate"), wanted)


async def _read(request: Request, service: Service) -> AudioRequest:
    service.check_open()
    began_s = time.perf_counter()
    wanted = await read_request(request, service.uploads, service.settings)
    service.metrics.observe_stage("upload", time.perf_counter() - began_s)
    return wanted


async def _work(
    request: Request, service: Service, wanted: AudioRequest, task: str, **options: Any
) -> Transcript | Translation:
    """Wait for a thread, recognise there, and count what it cost. The file is closed, whatever happens."""
    job = Recognition(service, wanted, task, options)
    try:
        with service.queue.admit():
            return await service.queue.run(job.run_short, partial(_left, request), wanted.audio.close)
    except BaseException:
        wanted.audio.close()
        raise


async def _left(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
