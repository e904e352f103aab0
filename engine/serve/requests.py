"""Multipart forms of OpenAI's audio endpoints -> checked requests, within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Receive

from engine.errors import OptionError
from engine.serve.errors import BusyError, RequestError
from engine.serve.settings import ServeSettings
from engine.serve.uploads import Uploads, check_size
from engine.types import Numbers, Passes

RESPONSE_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES: Final = ("segment", "word")
LANGUAGES: Final = ("", "de", "de-de", "german")
MAX_FIELDS: Final = 64
MAX_FIELD_BYTES: Final = 128 << 10
SPOOL_BYTES: Final = 64 << 10  # of a file in memory; the rest is on disk
SHOWN: Final = 40  # characters of a wrong value in a message


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """One upload and what is wanted of it.

    Attributes:
        audio: the file, at its start; on disk where it is large. Whoever takes the request closes it.
        response_format: one of RESPONSE_FORMATS.
        granularities: subset of GRANULARITIES.
        hotwords: from the extension field `hotwords`, separated by commas.
        passes, numbers: from the extension fields of these names; None: as the service was started.
    """

    audio: BinaryIO
    response_format: str
    granularities: frozenset[str]
    hotwords: tuple[str, ...]
    passes: Passes | None = None
    numbers: Numbers | None = None


async def read_request(request: Request, uploads: Uploads, settings: ServeSettings) -> AudioRequest:
    """Read and check a form. `model`, `prompt` and `temperature` are taken and have no effect.

    Raises:
        RequestError: no form. AudioLimitError: too many bytes. OptionError: a missing or impossible field.
        UploadTimeoutError: the client is too slow. BusyError: others had to make room.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal():
        check_size(int(stated[:20]), settings)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestError("a body that is no form", "multipart/form-data with a file", "send a form")
    try:
        async with uploads.bounded(request.receive) as receive:
            form = await _parse(request, receive)
    except OSError as error:
        raise BusyError(f"an upload that cannot be stored ({error.strerror})", "", "try again") from error
    try:
        return _checked(form, settings)
    except BaseException:
        await form.close()
        raise


async def _parse(request: Request, receive: Receive) -> FormData:
    stream = Request(request.scope, receive).stream()
    parser = MultiPartParser(
        request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    parser.spool_max_size = SPOOL_BYTES
    try:
        return await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        message = error.message if isinstance(error, MultiPartException) else "Invalid multipart data."
        raise RequestError(message.rstrip("."), "a form with one file", "check how it is made") from error
    except HTTPException as error:
        raise RequestError(str(error.detail)) from error
    finally:
        await stream.aclose()


def _checked(form: FormData, settings: ServeSettings) -> AudioRequest:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise OptionError(
            "a request without the form field file", "multipart/form-data with a file", "add it"
        )
    response_format = _one_of(form, "response_format", RESPONSE_FORMATS, "json")
    _one_of(form, "language", LANGUAGES, "")
    if _text(form, "stream").lower() in ("true", "1"):
        raise OptionError("stream=true", "stream=false", "leave it out and wait for the whole answer")
    passes: Any = int(_one_of(form, "passes", ("", "1", "2"), "") or 0) or None
    numbers: Any = _one_of(form, "numbers", ("", "words", "digits"), "") or None
    hotwords = read_hotwords(_text(form, "hotwords"), settings)
    audio: BinaryIO = upload.file
    return AudioRequest(audio, response_format, _granularities(form), hotwords, passes, numbers)


def read_hotwords(text: str, settings: ServeSettings) -> tuple[str, ...]:
    """Words and phrases separated by commas; bounded before anything is built of them.

    Raises:
        OptionError: too many, or one that is too long.
    """
    if text.count(",") > 2 * settings.max_hotwords:
        raise _too_many_hotwords(text.count(",") + 1, settings)
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if len(words) > settings.max_hotwords:
        raise _too_many_hotwords(len(words), settings)
    if long := [word for word in words if len(word) > settings.max_hotword_chars]:
        raise OptionError(
            f"a hotword of {len(long[0])} characters ({long[0][:SHOWN]!r}...)",
            f"at most {settings.max_hotword_chars}",
            "separate words by commas",
        )
    return words


def _too_many_hotwords(n_words: int, settings: ServeSettings) -> OptionError:
    return OptionError(f"{n_words} hotwords", f"at most {settings.max_hotwords}", "send the rarest of them")


def _granularities(form: FormData) -> frozenset[str]:
    values: list[Any] = form.getlist("timestamp_granularities[]") + form.getlist("timestamp_granularities")
    for value in values:
        if value not in GRANULARITIES:
            shown = str(value)[:SHOWN]
            raise OptionError(f"timestamp granularity {shown!r}", "word or segment", "name one of these")
    return frozenset(values or ["segment"])


def _one_of(form: FormData, field: str, known: tuple[str, ...], default: str) -> str:
    value = (_text(form, field) or default).lower()
    if value not in known:
        raise OptionError(f"{field} {value[:SHOWN]!r}", ", ".join(filter(None, known)), "name one of these")
    return value


def _text(form: FormData, field: str) -> str:
    value = form.get(field, "")
    return value.strip() if isinstance(value, str) else ""
