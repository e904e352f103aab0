"""What a session was asked to do: fields of `session.update` -> a checked configuration, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from engine.jobs.endpoints import LONGEST_S, EndpointOptions
from engine.serve.fields import MAX_PROMPT_CHARS, check_hotwords, prompt_terms
from engine.serve.realtime.formats import PCM_RATE, PCM_RATES, TELEPHONE_RATE, AudioFormat, FormatType
from engine.serve.realtime.problems import (
    EventProblem,
    check_names,
    invalid,
    one_of,
    require_object,
    strings,
    whole_number,
)
from engine.serve.settings import ServeSettings
from engine.text.languages import LANGUAGES

LOGPROBS: Final = "item.input_audio_transcription.logprobs"
WORDS: Final = "item.input_audio_transcription.words"
PARTIALS: Final = "item.input_audio_transcription.partials"
INCLUDES: Final = (LOGPROBS, WORDS, PARTIALS)
FORMATS: Final = ("audio/pcm", "audio/pcmu", "audio/pcma")
OBJECT: Final = "realtime.transcription_session"
SILENCE_MS, PREFIX_MS = (100, 5_000), (0, 5_000)
FRAME_MS: Final = 10  # of the speech detector: padding is shorter than the pause by one
SESSION: Final = ("type", "object", "id", "expires_at", "audio", "include")
INPUT: Final = ("format", "noise_reduction", "transcription", "turn_detection", "translation")
TRANSCRIPTION: Final = ("model", "language", "languages", "prompt", "keywords", "delay")
TURNS: Final = (
    "type", "threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "interrupt_response",
)  # fmt: skip
BETA_FORMATS: Final[dict[str, dict[str, Any]]] = {
    "pcm16": {"type": "audio/pcm", "rate": PCM_RATE},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
BETA_FIELDS: Final = {  # of OpenAI's beta -> below audio.input
    "input_audio_format": "format",
    "input_audio_transcription": "transcription",
    "input_audio_noise_reduction": "noise_reduction",
    "turn_detection": "turn_detection",
}


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What a session was asked to do.

    Attributes:
        format: of the audio in events.
        language: as the client wrote it; always German. prompt, keywords: words to favour.
        server_vad: whether the server finds utterances; else the client commits them.
        silence_ms: of silence that ends an utterance. prefix_ms: of audio kept before it.
        translate: whether every item gets its English.
        include: some of INCLUDES.
    """

    format: AudioFormat = field(default_factory=AudioFormat)
    language: str = "de"
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    server_vad: bool = True
    silence_ms: int = 700
    prefix_ms: int = 300
    translate: bool = False
    include: frozenset[str] = frozenset()

    @property
    def hotwords(self) -> tuple[str, ...]:
        """Of both fields, in order and each once."""
        return tuple(dict.fromkeys([*filter(None, self.keywords), *prompt_terms(self.prompt)]))

    @property
    def padding_ms(self) -> int:
        """What is really kept before an utterance."""
        return min(self.prefix_ms, self.silence_ms - FRAME_MS)

    @property
    def endpoint(self) -> EndpointOptions:
        """When text becomes final. Partial results that nobody asked for are not computed."""
        pause_s, pad_s = self.silence_ms / 1000, self.padding_ms / 1000
        options = EndpointOptions(pause_s=pause_s, pad_s=min(pad_s, pause_s - FRAME_MS / 1000))
        return options if PARTIALS in self.include else replace(options, partial_interval_s=LONGEST_S)

    def same_hearing(self, other: SessionConfig) -> bool:
        """Whether a stream opened for one serves the other as well."""
        own, others = (
            replace(each, include=each.include & {PARTIALS}, language="", prompt="", keywords=each.hotwords)
            for each in (self, other)
        )
        return own == others

    def update(self, session: object, settings: ServeSettings) -> SessionConfig:
        """The same with the fields of a `session.update`.

        Raises:
            EventProblem: an unknown field, or an impossible value. OptionError: too many words to favour.
        """
        given = require_object(session, "session")
        check_names(given, SESSION, "session")
        if given.get("type", "transcription") != "transcription":
            raise invalid("session.type", given["type"], "transcription", "use a transcription session")
        audio = require_object(given.get("audio") or {}, "session.audio")
        check_names(audio, ("input",), "session.audio")
        patch = require_object(audio.get("input") or {}, "session.audio.input")
        check_names(patch, INPUT, "session.audio.input")
        config = self
        for name, read in READERS.items():
            if name in patch:
                config = read(config, patch[name], f"session.audio.input.{name}")
        if "include" in given:
            config = replace(config, include=_read_include(given["include"]))
        check_hotwords(config.hotwords, settings)
        return config

    def describe_input(self, model: str) -> dict[str, Any]:
        """The object `audio.input` of a session."""
        turns = {
            "type": "server_vad", "threshold": None, "prefix_padding_ms": self.padding_ms,
            "silence_duration_ms": self.silence_ms,
        }  # fmt: skip
        transcription = {
            "model": model, "language": self.language, "prompt": self.prompt, "keywords": list(self.keywords),
        }  # fmt: skip
        return {
            "format": self.format.describe(),
            "noise_reduction": None,
            "transcription": transcription,
            "turn_detection": turns if self.server_vad else None,
            "translation": {"language": "en"} if self.translate else None,
        }

    def describe_include(self) -> list[str]:
        """The list `include` of a session."""
        return [name for name in INCLUDES if name in self.include]


def from_beta(session: object) -> dict[str, Any]:
    """Fields of `transcription_session.update`, OpenAI's beta, as those of a `session.update`.

    Raises:
        EventProblem: an unknown field, or an impossible value.
    """
    given = require_object(session, "session")
    ignored = ("id", "object", "expires_at", "modalities", "client_secret")
    check_names(given, (*BETA_FIELDS, *ignored, "include"), "session")
    patch = {new: given[old] for old, new in BETA_FIELDS.items() if old in given}
    if "format" in patch:
        patch["format"] = BETA_FORMATS[one_of(patch["format"], BETA_FORMATS, "session.input_audio_format")]
    include = {"include": given["include"]} if given.get("include") is not None else {}
    return {"audio": {"input": patch}, **include}


def to_beta(view: dict[str, Any]) -> dict[str, Any]:
    """A session as OpenAI's beta shows it."""
    patch = view["audio"]["input"]
    beta_format = next(
        (old for old, new in BETA_FORMATS.items() if new == patch["format"]), patch["format"]["type"]
    )
    flat = {old: patch[new] for old, new in BETA_FIELDS.items()}
    kept = {name: view[name] for name in ("id", "object", "expires_at", "include")}
    return {**kept, **flat, "input_audio_format": beta_format, "modalities": ["text"], "client_secret": None}


def _read_format(config: SessionConfig, value: object, param: str) -> SessionConfig:
    given = require_object(value, param)
    check_names(given, ("type", "rate"), param)
    kind = cast(FormatType, one_of(given.get("type", "audio/pcm"), FORMATS, f"{param}.type"))
    if kind != "audio/pcm":
        rate = given.get("rate")
        if rate not in (None, TELEPHONE_RATE):
            raise invalid(f"{param}.rate", rate, f"{TELEPHONE_RATE}")
        return replace(config, format=AudioFormat(kind, TELEPHONE_RATE))
    rate = given.get("rate")
    hertz = PCM_RATE if rate is None else whole_number(rate, *PCM_RATES, f"{param}.rate")
    return replace(config, format=AudioFormat(kind, hertz))


def _read_transcription(config: SessionConfig, value: object, param: str) -> SessionConfig:
    given = require_object(value, param)
    check_names(given, TRANSCRIPTION, param)
    changes: dict[str, Any] = {}
    for name in ("language", "prompt"):
        if name in given:
            if not isinstance(given[name] or "", str):
                raise invalid(f"{param}.{name}", given[name], "a string")
            changes[name] = given[name] or ""
    for tag in (changes.get("language", ""), *strings(given.get("languages"), f"{param}.languages")):
        if tag and tag.lower().replace("_", "-") not in LANGUAGES:
            raise invalid(f"{param}.language", tag, f"German: {', '.join(LANGUAGES)}", "send German speech")
    if len(changes.get("prompt", "")) > MAX_PROMPT_CHARS:
        raise invalid(f"{param}.prompt", changes["prompt"], f"at most {MAX_PROMPT_CHARS} characters")
    if "keywords" in given:
        changes["keywords"] = tuple(word.strip() for word in strings(given["keywords"], f"{param}.keywords"))
    changes["language"] = changes.get("language") or config.language
    return replace(config, **changes)


def _read_turns(config: SessionConfig, value: object, param: str) -> SessionConfig:
    if value is None:
        return replace(config, server_vad=False)
    given = require_object(value, param)
    check_names(given, TURNS, param)
    one_of(given.get("type", "server_vad"), ("server_vad",), f"{param}.type")
    changes: dict[str, Any] = {"server_vad": True}
    for name, key, bounds in (
        ("silence_duration_ms", "silence_ms", SILENCE_MS), ("prefix_padding_ms", "prefix_ms", PREFIX_MS),
    ):  # fmt: skip
        if given.get(name) is not None:
            changes[key] = whole_number(given[name], *bounds, f"{param}.{name}")
    threshold = given.get("threshold")
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise invalid(f"{param}.threshold", threshold, "a number, 0 to 1")
    return replace(config, **changes)


def _read_translation(config: SessionConfig, value: object, param: str) -> SessionConfig:
    if value is None:
        return replace(config, translate=False)
    given = require_object(value, param)
    check_names(given, ("language",), param)
    if "language" not in given:
        raise EventProblem(
            "missing_required_parameter", f"{param}.language", f"{param} without language", "en", "add it"
        )
    one_of(given["language"], ("en",), f"{param}.language")
    return replace(config, translate=True)


def _read_include(value: object) -> frozenset[str]:
    return frozenset(one_of(name, INCLUDES, "session.include") for name in strings(value, "session.include"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


READERS: Final[dict[str, Callable[[SessionConfig, object, str], SessionConfig]]] = {
    "format": _read_format,
    "noise_reduction": lambda config, value, param: config,
    "transcription": _read_transcription,
    "turn_detection": _read_turns,
    "translation": _read_translation,
}
