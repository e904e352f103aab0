"""Multipart forms of OpenAI's audio endpoints -> checked requests, within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Receive

from engine.errors import OptionError
from engine.serve import fields
from engine.serve.errors import BusyError, RequestError
from engine.serve.settings import ServeSettings
from engine.serve.uploads import Uploads, check_size
from engine.types import Channels, Numbers, Passes

MAX_FIELDS: Final = 1064  # keywords may be one field each
MAX_FIELD_BYTES: Final = 128 << 10
SPOOL_BYTES: Final = 64 << 10  # of a file in memory; the rest is on disk


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """One upload and what is wanted of it.

    Attributes:
        audio: the file, at its start; on disk where it is large. Whoever takes the request closes it.
        response_format: one of fields.RESPONSE_FORMATS.
        granularities: subset of fields.GRANULARITIES.
        hotwords: of the fields hotwords, keywords[] and prompt.
        logprobs: the answer holds the words' log probabilities.
        stream: the answer comes in events.
        passes, numbers, channels: from the extension fields of these names; None: as the service was started.
        audio_track: from the extension field; None: the first that speaks.
    """

    audio: BinaryIO
    response_format: str
    granularities: frozenset[str]
    hotwords: tuple[str, ...]
    logprobs: bool = False
    stream: bool = False
    passes: Passes | None = None
    numbers: Numbers | None = None
    channels: Channels | None = None
    audio_track: int | None = None


async def read_request(request: Request, uploads: Uploads, settings: ServeSettings) -> AudioRequest:
    """Read and check a form with a recording.

    Raises:
        Whatever read_form raises. OptionError: a missing or impossible field.
    """
    form = await read_form(request, uploads, settings)
    try:
        return _checked(form, settings)
    except BaseException:
        await form.close()
        raise


async def read_form(request: Request, uploads: Uploads, settings: ServeSettings) -> FormData:
    """Read a form; whoever takes it closes it.

    Raises:
        RequestError: no form. AudioLimitError: too many bytes. UploadTimeoutError: the client is too slow.
        BusyError: others had to make room.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal():
        check_size(int(stated[:20]), settings)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise RequestError("a body that is not a form", "multipart/form-data with a file", "send a form")
    try:
        async with uploads.bounded(request.receive) as receive:
            return await _parse(request, receive)
    except OSError as error:
        raise BusyError(f"an upload that cannot be stored ({error.strerror})", "", "try again") from error


async def _parse(request: Request, receive: Receive) -> FormData:
    stream = Request(request.scope, receive).stream()
    parser = MultiPartParser(
        request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    parser.spool_max_size = SPOOL_BYTES
    try:
        return await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError) as error:
        message = error.message if isinstance(error, MultiPartException) else "Invalid multipart data."
        raise RequestError(message.rstrip("."), "a form with one file", "check how it is made") from error
    except HTTPException as error:
        raise RequestError(str(error.detail)) from error
    finally:
        await stream.aclose()


def file_of(form: FormData) -> BinaryIO:
    """The file of a form.

    Raises:
        OptionError: there is none.
    """
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise OptionError(
            "a request without the form field file", "multipart/form-data with a file", "add it"
        )
    return upload.file


def _checked(form: FormData, settings: ServeSettings) -> AudioRequest:
    audio = file_of(form)
    fields.check_names(form)
    fields.check_language(form)
    fields.check_temperature(form)
    fields.one_of(form, "chunking_strategy", ("", "auto"), "")
    passes: Any = int(fields.one_of(form, "passes", ("", "1", "2"), "") or 0) or None
    numbers: Any = fields.one_of(form, "numbers", ("", "words", "digits"), "") or None
    channels: Any = fields.one_of(form, "channels", ("", "mix", "separate"), "") or None
    return _compatible(
        AudioRequest(
            audio,
            fields.one_of(form, "response_format", fields.RESPONSE_FORMATS, "json"),
            fields.some_of(form, "timestamp_granularities", fields.GRANULARITIES) or frozenset(["segment"]),
            fields.read_hotwords(form, settings),
            bool(fields.some_of(form, "include", ("logprobs",))),
            fields.one_of(form, "stream", fields.TRUE + fields.FALSE, "") in fields.TRUE,
            passes,
            numbers,
            channels,
            fields.read_track(form),
        )
    )


def _compatible(wanted: AudioRequest) -> AudioRequest:
    """The same, unless its fields exclude each other."""
    chosen = f"with response_format {wanted.response_format}"
    if wanted.stream and wanted.response_format not in fields.STREAMED_FORMATS:
        raise OptionError(
            f"stream=true {chosen}", " or ".join(fields.STREAMED_FORMATS), "leave one of the two out"
        )
    if wanted.stream and wanted.channels == "separate":
        raise OptionError("stream=true with channels separate", "one of the two", "leave one of the two out")
    if wanted.logprobs and wanted.response_format != "json":
        raise OptionError(f"include[]=logprobs {chosen}", "json", "leave one of the two out")
    return wanted


async def client_left(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
