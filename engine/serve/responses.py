"""Results and errors as OpenAI's clients expect them."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import JSONResponse, PlainTextResponse, Response

from engine.errors import (
    AudioError,
    AudioLimitError,
    CancelledError,
    DecodingError,
    DependencyError,
    EngineError,
    ModelCapabilityError,
    OptionError,
    TranslationError,
)
from engine.output.formats import DECIMALS, channel_dict, render, word_dict
from engine.serve.errors import BusyError, RequestTimeoutError, ShuttingDownError, UploadTimeoutError
from engine.serve.requests import AudioRequest
from engine.types import Segment, Transcript, Translation, Word

CLIENT_LEFT: Final = 499
LANGUAGE_NAMES: Final = {"de": "german", "en": "english"}
RETRY_AFTER_S: Final = 2
INTERNAL: Final = "internal error; see the server's log"
_log = logging.getLogger("engine.serve")
MAX_MESSAGE: Final = 2000  # characters of an error
# The first kind that matches counts.
STATUS: Final[tuple[tuple[type[EngineError], int], ...]] = (
    (BusyError, 503),
    (ShuttingDownError, 503),
    (RequestTimeoutError, 504),
    (CancelledError, CLIENT_LEFT),
    (UploadTimeoutError, 408),
    (AudioLimitError, 413),
    (DependencyError, 415),
    (AudioError, 400),
    (OptionError, 400),
    (DecodingError, 400),
    (TranslationError, 400),
    (ModelCapabilityError, 400),
)


def result_response(result: Transcript | Translation, request: AudioRequest) -> Response:
    """Answer with a result in the format that was asked for."""
    wanted = request.response_format
    if wanted == "json":
        words = result.words if isinstance(result, Transcript) else ()
        logprobs = {"logprobs": word_logprobs(words)} if request.logprobs else {}
        return JSONResponse({"text": result.text, **logprobs})
    if wanted == "verbose_json":
        return JSONResponse(verbose_json(result, request.granularities))
    output_format = "txt" if wanted == "text" else wanted
    text = render(result, output_format, word_timestamps="word" in request.granularities)
    return text_response(text, wanted)


def text_response(text: str, response_format: str) -> Response:
    """Answer with a text in a format."""
    kinds = {"vtt": "text/vtt", "json": "application/json"}
    return PlainTextResponse(text, media_type=kinds.get(response_format, "text/plain"))


def verbose_json(result: Transcript | Translation, granularities: frozenset[str]) -> dict[str, Any]:
    """OpenAI's verbose_json; fields that this engine has no value for are neutral."""
    content: dict[str, Any] = {
        "task": "translate" if isinstance(result, Translation) else "transcribe",
        "language": LANGUAGE_NAMES.get(result.language, result.language),
        "duration": round(result.duration_s, DECIMALS),
        "text": result.text,
    }
    if "segment" in granularities:
        with_words = "word" in granularities
        content["segments"] = [
            segment_dict(i, *pair, with_words=with_words) for i, pair in enumerate(pair_segments(result))
        ]
    if "word" in granularities and isinstance(result, Transcript):
        content["words"] = [word_dict(word) for word in result.words]
    content["warnings"] = list(result.warnings)
    return content


def pair_segments(result: Transcript | Translation) -> list[tuple[Segment, Segment | None]]:
    """Segments, each with the German one that it was translated from; None for those of a transcript."""
    if isinstance(result, Transcript):
        return [(segment, None) for segment in result.segments]
    sources = {_place(segment): segment for segment in result.source.segments}
    return [(segment, sources.get(_place(segment))) for segment in result.segments]


def segment_dict(
    index: int, segment: Segment, source: Segment | None, *, with_words: bool = False
) -> dict[str, Any]:
    """A segment of verbose_json.

    Args:
        source: the German segment that it was translated from.
        with_words: with the German words.
    """
    content = {
        "id": index,
        "seek": 0,
        "start": round(segment.start_s, DECIMALS),
        "end": round(segment.end_s, DECIMALS),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": _logprob(segment.confidence),
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
        **channel_dict(segment),
    }
    if source is None:
        return content | _words(segment, with_words)
    german = {"text": source.text, "avg_logprob": _logprob(source.confidence), **_words(source, with_words)}
    return content | {"source": german}


def _place(segment: Segment) -> tuple[float, float, int | None]:
    """A German segment and its translation have the same."""
    return segment.start_s, segment.end_s, segment.channel


def _words(segment: Segment, wanted: bool) -> dict[str, Any]:
    return {"words": [word_dict(word) for word in segment.words]} if wanted else {}


def word_logprobs(words: Sequence[Word], before: str = "") -> list[dict[str, Any]]:
    """OpenAI's log probabilities, one for each word; the tokens joined are the text, behind `before`."""
    tokens = [f"{' ' if i else before}{word.text}" for i, word in enumerate(words)]
    return [
        {"token": token, "logprob": _logprob(word.confidence), "bytes": list(token.encode())}
        for token, word in zip(tokens, words, strict=True)
    ]


def _logprob(probability: float) -> float:
    return round(math.log(max(probability, 1e-6)), 4)


def engine_error_response(error: EngineError) -> Response:
    """Answer with an error of the engine: the client's fault as 4xx, ours as 500."""
    status = status_of(error)
    if status == 500:  # our fault, and its message may name paths
        _log.error("a request failed", exc_info=error)
        return error_response(status, INTERNAL, type(error).__name__)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return error_response(status, str(error), type(error).__name__, headers)


def status_of(error: EngineError) -> int:
    """The status that an error of the engine is answered with."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def error_response(
    status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Answer with OpenAI's error object."""
    return JSONResponse(error_object(status, message, code), status, headers)


def error_object(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    if len(message) > MAX_MESSAGE:
        message = message[:MAX_MESSAGE] + " ..."
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def raw_response(status: int, message: str, code: str | None = None) -> bytes:
    """A whole answer as it is sent, for connections without a request; the connection is closed after it."""
    content = json.dumps(error_object(status, message, code)).encode()
    retry = f"Retry-After: {RETRY_AFTER_S}\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n{retry}X-Request-ID: {new_request_id()}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + content


def new_request_id() -> str:
    """A name for one request."""
    return uuid.uuid4().hex
