"""OpenAI's audio endpoints: a form with a recording in, text out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from starlette.responses import Response

from engine.audio.load import SAMPLE_RATE, AudioLimits, read_audio
from engine.errors import OptionError
from engine.runtime.cancel import CancelToken
from engine.serve import responses
from engine.serve.events import Partial, SegmentEvents, TextEvents, stream_result
from engine.serve.fields import FORM
from engine.serve.requests import AudioRequest, read_request
from engine.serve.service import Service
from engine.types import Transcript, Translation

Call = Callable[..., Any]


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
    call: Call = getattr(service.recogniser, task)
    complete_s = time.perf_counter()

    def job(cancel: CancelToken) -> Transcript | Translation:
        service.metrics.observe_stage("queue", time.perf_counter() - complete_s)
        result: Transcript | Translation = _recognise(call, wanted, service, cancel, options)
        service.metrics.observe_result(task, result)
        return result

    try:
        with service.queue.admit():
            return await service.queue.run(job, request.is_disconnected, wanted.audio.close)
    except BaseException:
        wanted.audio.close()
        raise


def _recognise(
    call: Call, wanted: AudioRequest, service: Service, cancel: CancelToken, options: dict[str, Any]
) -> Any:
    settings, usual = service.settings, service.settings.decoding
    decoding = usual.replace(
        passes=wanted.passes or usual.passes, numbers=wanted.numbers or usual.numbers,
        channels=wanted.channels or usual.channels, audio_track=wanted.audio_track or usual.audio_track,
    )  # fmt: skip
    audio = read_audio(
        wanted.audio.read(), limits=AudioLimits(max_duration_s=settings.max_duration_s), cancel=cancel,
        channels=decoding.channels, track=decoding.audio_track,
    )  # fmt: skip
    audio.warn()
    cancel.raise_if_cancelled()
    separate = decoding.channels == "separate"
    result = call(
        np.stack(audio.waveforms, axis=1) if separate else audio.waveforms[0], SAMPLE_RATE,
        hotwords=wanted.hotwords, options=decoding.replace(audio_track=None), cancel=cancel, **options,
    )  # fmt: skip
    return _noted(result, audio.notes)


def _noted(result: Transcript | Translation, notes: tuple[str, ...]) -> Transcript | Translation:
    """The result with what was found in the file among its warnings."""
    if isinstance(result, Translation):
        return replace(result, source=replace(result.source, warnings=(*notes, *result.warnings)))
    return replace(result, warnings=(*notes, *result.warnings))
