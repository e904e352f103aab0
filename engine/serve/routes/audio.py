"""OpenAI's audio endpoints: a form with a recording in, text out."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from engine.errors import OptionError
from engine.serve import responses
from engine.serve.events import Partial, SegmentEvents, TextEvents, stream_result
from engine.serve.fields import FORM
from engine.serve.recognition import Recognition
from engine.serve.requests import AudioRequest, client_left, read_request
from engine.serve.service import Service
from engine.types import Transcript, Translation


def add_audio(app: FastAPI, service: Service) -> None:
    """Add the two endpoints."""

    @app.post("/v1/audio/transcriptions", openapi_extra=FORM)
    async def transcriptions(request: Request) -> Response:
        """German speech to German text."""
        wanted = await _read(request, service)
        if wanted.stream and wanted.response_format == "verbose_json":
            wanted.audio.close()
            raise OptionError(
                "stream=true with response_format verbose_json for a transcription", "json or text",
                "leave one of the two out, or ask for a translation",
            )  # fmt: skip
        return await _answer(request, service, wanted, "transcribe")

    @app.post("/v1/audio/translations", openapi_extra=FORM)
    async def translations(request: Request) -> Response:
        """German speech to English text."""
        wanted = await _read(request, service)
        if wanted.logprobs:
            wanted.audio.close()
            raise OptionError(
                "include[]=logprobs for a translation", "", "leave it out, or ask for a transcription"
            )
        return await _answer(request, service, wanted, "translate")


async def _answer(request: Request, service: Service, wanted: AudioRequest, task: str) -> Response:
    if not wanted.stream:
        return responses.result_response(await _work(request, service, wanted, task), wanted)

    async def work(partial: Partial) -> Transcript | Translation:
        return await _work(request, service, wanted, task, partial=partial)

    verbose = wanted.response_format == "verbose_json"
    return await stream_result(
        work, SegmentEvents(wanted.granularities) if verbose else TextEvents(wanted.logprobs)
    )


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
            return await service.queue.run(job.run_short, partial(client_left, request), wanted.audio.close)
    except BaseException:
        wanted.audio.close()
        raise
