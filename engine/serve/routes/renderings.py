"""Results that are there already, in another format: nothing is recognised again."""

from __future__ import annotations

from functools import partial
from typing import Any, BinaryIO, Final

from fastapi import FastAPI, Request
from starlette.responses import Response

from engine.errors import OptionError
from engine.output.formats import render
from engine.output.parsing import parse_json
from engine.runtime.cancel import CancelToken
from engine.serve import fields
from engine.serve.requests import client_left, file_of, read_form
from engine.serve.responses import text_response
from engine.serve.service import Service
from engine.types import Transcript, Translation

FORMATS: Final = ("text", "srt", "vtt", "json")
LANGUAGES: Final = ("de", "en")
MAX_WORDS: Final = 100_000  # of both languages, those with times twice; an hour has about 30,000
_PROPERTIES: Final[dict[str, Any]] = {
    "file": {"type": "string", "format": "binary", "description": "a result as JSON"},
    "response_format": {"type": "string", "enum": list(FORMATS)},
    "languages[]": {"type": "array", "items": {"type": "string", "enum": list(LANGUAGES)}},
}
FORM: Final = fields.form_schema(_PROPERTIES)
FIELDS: Final = tuple(_PROPERTIES)


def add_renderings(app: FastAPI, service: Service) -> None:
    """Add the endpoint."""

    @app.post("/v1/audio/renderings", openapi_extra=FORM)
    async def renderings(request: Request) -> Response:
        """A result as text, subtitles or JSON, in one of its languages or both."""
        service.check_open()
        file, output_format, languages = await _read(request, service)

        def job(_: CancelToken) -> str:
            return render_languages(_parse(file.read()), output_format, languages)

        try:
            with service.queue.admit():
                text = await service.queue.run(job, partial(client_left, request), file.close)
        except BaseException:
            file.close()
            raise
        return text_response(text, output_format)


async def _read(request: Request, service: Service) -> tuple[BinaryIO, str, frozenset[str]]:
    form = await read_form(request, service.uploads, service.settings)
    try:
        file = file_of(form)
        fields.check_names(form, FIELDS)
        output_format = fields.one_of(form, "response_format", FORMATS, "text")
        return file, output_format, fields.some_of(form, "languages", LANGUAGES)
    except BaseException:
        await form.close()
        raise


def _parse(content: bytes) -> Transcript | Translation:
    result = parse_json(content)
    texts = [*result.segments, *(result.source.segments if isinstance(result, Translation) else ())]
    n_words = sum(len(segment.text.split()) + len(segment.words) for segment in texts)
    if n_words > MAX_WORDS:
        raise OptionError(f"a result of {n_words} words", f"at most {MAX_WORDS}", "send a part of it")
    return result


def render_languages(result: Transcript | Translation, output_format: str, languages: frozenset[str]) -> str:
    """Write a result in some of its languages.

    Args:
        output_format: one of FORMATS. Of both languages, subtitles show German above English, text has the
            German before the English, and JSON holds the source.
        languages: of LANGUAGES; empty: all that it has.
    Raises:
        OptionError: English of a transcript.
    """
    kind = "txt" if output_format == "text" else output_format
    if isinstance(result, Transcript):
        if "en" in languages:
            raise OptionError("the language en of a transcript", "a translation", "leave it out")
        return render(result, kind)
    if languages == {"de"}:
        return render(result.source, kind)
    if languages == {"en"} or kind == "json":
        return render(result, kind)
    if kind == "txt":
        return f"{render(result.source, kind)}\n{render(result, kind)}"
    return render(result, kind, bilingual=True)
