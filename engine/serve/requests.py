"""Multipart forms of OpenAI's audio endpoints -> checked requests, within bounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive

from engine.errors import AudioLimitError, OptionError
from engine.serve.settings import ServeSettings
from engine.types import Numbers, Passes

RESPONSE_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES: Final = ("segment", "word")
LANGUAGES: Final = ("", "de", "de-de", "german")
MAX_FIELDS: Final = 64


class UploadTimeoutError(OptionError):
    """The body did not arrive in time."""


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """One upload and what is wanted of it.

    Attributes:
        audio: the file's bytes.
        response_format: one of RESPONSE_FORMATS.
        granularities: subset of GRANULARITIES.
        hotwords: from the extension field `hotwords`, separated by commas.
        passes, numbers: from the extension fields of these names; None: as the service was started.
    """

    audio: bytes
    response_format: str
    granularities: frozenset[str]
    hotwords: tuple[str, ...]
    passes: Passes | None = None
    numbers: Numbers | None = None


async def read_request(request: Request, settings: ServeSettings) -> AudioRequest:
    """Read and check a form. `model`, `prompt` and `temperature` are taken and have no effect.

    Raises:
        AudioLimitError: too many bytes. OptionError: a missing or impossible field.
        UploadTimeoutError: the client is too slow.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > settings.max_upload_bytes:
        raise _too_large(settings)
    bounded = Request(request.scope, _bounded(request.receive, settings))
    try:
        async with asyncio.timeout(settings.upload_timeout_s):
            async with bounded.form(max_files=1, max_fields=MAX_FIELDS) as form:
                return await _checked(form)
    except TimeoutError as error:
        raise UploadTimeoutError(
            f"an upload that took more than {settings.upload_timeout_s:g} s", "a faster one", "send less"
        ) from error
    except (MultiPartException, HTTPException) as error:  # the second inside an application
        said = error.message if isinstance(error, MultiPartException) else error.detail
        raise OptionError(
            f"a form that cannot be read ({said})", "multipart/form-data", "send it as OpenAI's clients do"
        ) from error


def _bounded(receive: Receive, settings: ServeSettings) -> Receive:
    """Count what arrives: the stated length may be missing or wrong."""
    n_bytes = 0

    async def counted() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > settings.max_upload_bytes:
            raise _too_large(settings)
        return message

    return counted


def _too_large(settings: ServeSettings) -> AudioLimitError:
    return AudioLimitError(
        "a request larger than this service takes",
        f"at most {settings.max_upload_bytes} bytes",
        "send a compressed or shorter recording",
    )


async def _checked(form: FormData) -> AudioRequest:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise OptionError(
            "a request without the form field file", "multipart/form-data with a file", "add it"
        )
    response_format = _one_of(form, "response_format", RESPONSE_FORMATS, "json")
    _one_of(form, "language", LANGUAGES, "")
    if _text(form, "stream").lower() in ("true", "1"):
        raise OptionError("stream=true", "stream=false", "leave it out and wait for the whole answer")
    hotwords = tuple(word.strip() for word in _text(form, "hotwords").split(",") if word.strip())
    passes: Any = int(_one_of(form, "passes", ("", "1", "2"), "") or 0) or None
    numbers: Any = _one_of(form, "numbers", ("", "words", "digits"), "") or None
    audio, wanted = await upload.read(), _granularities(form)
    return AudioRequest(audio, response_format, wanted, hotwords, passes, numbers)


def _granularities(form: FormData) -> frozenset[str]:
    values: list[Any] = form.getlist("timestamp_granularities[]") + form.getlist("timestamp_granularities")
    for value in values:
        if value not in GRANULARITIES:
            raise OptionError(f"timestamp granularity {value!r}", "word or segment", "name one of these")
    return frozenset(values or ["segment"])


def _one_of(form: FormData, field: str, known: tuple[str, ...], default: str) -> str:
    value = (_text(form, field) or default).lower()
    if value not in known:
        raise OptionError(f"{field} {value[:40]!r}", ", ".join(filter(None, known)), "name one of these")
    return value


def _text(form: FormData, field: str) -> str:
    value = form.get(field, "")
    return value.strip() if isinstance(value, str) else ""
