"""The fields of a form: which there are, what each may be, and which are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from starlette.datastructures import FormData

from engine.errors import OptionError
from engine.options import MAX_TRACK
from engine.serve.settings import ServeSettings
from engine.text.languages import LANGUAGES, SHOWN, check_german

RESPONSE_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS: Final = ("json", "text", "verbose_json")
GRANULARITIES: Final = ("segment", "word")
MAX_PROMPT_CHARS: Final = 10_000
TERM: Final = re.compile(r"[A-Za-zÄÖÜäöüß]+(?: [A-Za-zÄÖÜäöüß]+){0,2}")
TRUE, FALSE = ("true", "1"), ("", "false", "0")
UNSUPPORTED: Final = {
    "known_speaker_names[]": "speakers are not told apart",
    "known_speaker_references[]": "speakers are not told apart",
}


def form_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The request body of an endpoint for OpenAPI: a form with a file and other fields."""
    schema = {"type": "object", "required": ["file"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_PROPERTIES: Final[dict[str, Any]] = {
    "file": {"type": "string", "format": "binary"},
    "model": {"type": "string", "description": "has no effect: one model is loaded"},
    "language": {"type": "string", "enum": list(LANGUAGES)},
    "languages[]": {
        "type": "array",
        "items": {"type": "string", "enum": list(LANGUAGES)},
    },
    "prompt": {"type": "string", "description": "a list of terms counts as hotwords"},
    "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS)},
    "temperature": {"type": "number", "description": "has no effect"},
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": list(GRANULARITIES)},
    },
    "include[]": {"type": "array", "items": {"type": "string", "enum": ["logprobs"]}},
    "stream": {"type": "boolean"},
    "chunking_strategy": {"type": "string", "enum": ["auto"]},
    "keywords[]": {"type": "array", "items": {"type": "string"}},
    "hotwords": {"type": "string", "description": "separated by commas"},
    "passes": {"type": "string", "enum": ["1", "2"], "description": "1 is faster"},
    "numbers": {"type": "string", "enum": ["words", "digits"]},
    "channels": {"type": "string", "enum": ["mix", "separate"]},
    "audio_track": {"type": "integer", "minimum": 1},
}
FORM: Final = form_schema(_PROPERTIES)
FIELDS: Final = tuple(_PROPERTIES)


def check_names(form: FormData, names: Sequence[str] = FIELDS) -> None:
    """Refuse fields that are not known: a misspelled one would be ignored in silence.

    Args:
        names: of the fields that are.
    Raises:
        OptionError: names the field.
    """
    for name in form:
        if name in names or f"{name}[]" in names:
            continue
        if why := UNSUPPORTED.get(name) or UNSUPPORTED.get(f"{name}[]"):
            raise OptionError(f"the field {name}, which is not supported ({why})", "", "leave it out")
        raise OptionError(
            f"the unknown field {name[:SHOWN]!r}", ", ".join(names), "correct it or leave it out"
        )


def text(form: FormData, field: str) -> str:
    """A field without the space around it; empty where it is missing."""
    value = form.get(field, "")
    return value.strip() if isinstance(value, str) else ""


def values(form: FormData, field: str) -> list[str]:
    """All values of a field that may be given several times, with or without [] behind its name."""
    given = [*form.getlist(f"{field}[]"), *form.getlist(field)]
    return [value.strip() for value in given if isinstance(value, str)]


def one_of(form: FormData, field: str, known: Sequence[str], default: str) -> str:
    """One of a few values, in lower case.

    Raises:
        OptionError: another.
    """
    value = (text(form, field) or default).lower()
    if value not in known:
        raise OptionError(f"{field} {value[:SHOWN]!r}", ", ".join(filter(None, known)), "name one of these")
    return value


def some_of(form: FormData, field: str, known: Sequence[str]) -> frozenset[str]:
    """Some of a few values.

    Raises:
        OptionError: another among them.
    """
    found = values(form, field)
    for value in found:
        if value not in known:
            raise OptionError(f"{field}[] {value[:SHOWN]!r}", " or ".join(known), "name one of these")
    return frozenset(found)


def check_language(form: FormData) -> None:
    """Refuse every language but German.

    Raises:
        OptionError: another language.
    """
    for value in [*values(form, "language"), *values(form, "languages")]:
        check_german(value)


def check_temperature(form: FormData) -> None:
    """Refuse what is no temperature; a right one has no effect.

    Raises:
        OptionError: not a number from 0 to 1.
    """
    given = text(form, "temperature")
    try:
        value = float(given or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise OptionError(f"temperature {given[:SHOWN]!r}", "a number, 0 to 1", "leave it out")


def read_track(form: FormData) -> int | None:
    """The audio track, from 1; None where the field is missing.

    Raises:
        OptionError: no such number.
    """
    given = text(form, "audio_track")
    if given and not (given.isdecimal() and len(given) < 5 and 1 <= int(given) <= MAX_TRACK):
        raise OptionError(f"audio_track {given[:SHOWN]!r}", f"1 to {MAX_TRACK}", "leave it out")
    return int(given) if given else None


def read_hotwords(form: FormData, settings: ServeSettings) -> tuple[str, ...]:
    """Hotwords of all fields, in order and each once.

    Raises:
        OptionError: too many, or one that is too long; before anything is built of them.
    """
    listed = split_hotwords(text(form, "hotwords"), settings)
    keywords = [word for word in values(form, "keywords") if word]
    words = tuple(dict.fromkeys([*listed, *keywords, *prompt_terms(text(form, "prompt"))]))
    check_hotwords(words, settings)
    return words


def split_hotwords(given: str, settings: ServeSettings) -> tuple[str, ...]:
    """Words and phrases separated by commas.

    Raises:
        OptionError: so many commas that not even splitting is worth it.
    """
    if given.count(",") > 2 * settings.max_hotwords:
        raise _too_many_hotwords(given.count(",") + 1, settings)
    return tuple(word.strip() for word in given.split(",") if word.strip())


def check_hotwords(words: Sequence[str], settings: ServeSettings) -> None:
    """Bound their number and lengths.

    Raises:
        OptionError: one of the two is too large.
    """
    if len(words) > settings.max_hotwords:
        raise _too_many_hotwords(len(words), settings)
    if long := [word for word in words if len(word) > settings.max_hotword_chars]:
        raise OptionError(
            f"a hotword of {len(long[0])} characters ({long[0][:SHOWN]!r}...)",
            f"at most {settings.max_hotword_chars}",
            "separate words by commas",
        )
    if (n_chars := sum(map(len, words))) > settings.max_hotwords_chars:
        got, want = f"hotwords of {n_chars} characters in all", f"at most {settings.max_hotwords_chars}"
        raise OptionError(got, want, "send the rarest of them")


def prompt_terms(prompt: str) -> tuple[str, ...]:
    """The terms of a prompt that is a list of them: separated by commas, of up to three words of letters.

    Running text holds no such list, and has no effect; what is no word of letters is left out.

    Raises:
        OptionError: a prompt of more characters than anybody means.
    """
    if len(prompt) > MAX_PROMPT_CHARS:
        raise OptionError(
            f"a prompt of {len(prompt)} characters", f"at most {MAX_PROMPT_CHARS}", "shorten it"
        )
    terms = [" ".join(term.split()) for term in re.split(r"[,;\n]", prompt)]
    is_list = not re.search(r"[.!?:]", prompt) and all(len(term.split()) <= 3 for term in terms)
    return tuple(term for term in terms if TERM.fullmatch(term)) if is_list else ()


def _too_many_hotwords(n_words: int, settings: ServeSettings) -> OptionError:
    return OptionError(f"{n_words} hotwords", f"at most {settings.max_hotwords}", "send the rarest of them")
