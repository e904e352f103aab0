"""Wyoming events, by the library `wyoming`: read within bounds that it does not have, checked, and written.

An event is a line of JSON, then as many bytes of JSON and of audio as the line says. The library believes
the line whatever it says, and buffers the bytes before anybody sees them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info
from wyoming.ping import Pong

from engine import __version__
from engine._distribution import NAME
from engine.audio.limits import AudioLimits, check_channels, check_rate
from engine.errors import AudioLimitError, EngineError
from engine.serve.errors import EventError
from engine.serve.wyoming.settings import WyomingSettings
from engine.text.languages import SHOWN, check_german

__all__ = ["Event"]

LINE_BYTES: Final = 64 << 10  # of the first line
PCM_CODES: Final = {
    1: "u1",
    2: "<i2",
    3: "<i3",
    4: "<i4",
}  # by bytes a sample; engine.audio.pcm has the codes
GERMAN, ENGLISH = "de", "en"
ATTRIBUTION: Final = Attribution(name=NAME, url="")


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How samples are sent.

    Attributes:
        sample_rate: Hz. width: bytes a sample, a key of PCM_CODES. n_channels: interleaved.
    """

    sample_rate: int
    width: int
    n_channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one moment in all channels."""
        return self.width * self.n_channels


class EventReader:
    """Reads events one by one, and no more bytes of one than are allowed."""

    def __init__(self, stream: asyncio.StreamReader, max_bytes: int) -> None:
        """Read from a stream whose own limit, that of a line, is LINE_BYTES."""
        self._stream, self._max_bytes = stream, max_bytes
        self._ended = False
        self._problem: EngineError | None = None

    async def read(self) -> Event | None:
        """The next event; None where the client has closed the connection, in the middle of one too.

        Raises:
            EventError: what was sent is no event. AudioLimitError: it is too large.
        """
        self._problem = None
        event = None
        try:
            event = await async_read_event(self)  # type: ignore[arg-type]  # it calls the two methods below
        except asyncio.IncompleteReadError:
            return None
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            self._problem = _no_event(f"one that is broken ({type(error).__name__})")
        if self._problem is not None:
            raise self._problem
        if event is None:
            if self._ended:
                return None
            raise _no_event("none")
        if not isinstance(event.type, str) or not isinstance(event.data, dict | None):
            raise _no_event("one without a type or with data that is no object")
        event.data = event.data or {}
        return event

    async def readline(self) -> bytes:
        """The first line, for the library."""
        line = await self._stream.readline()
        self._ended = not line.endswith(b"\n")
        return line

    async def readexactly(self, n_bytes: int) -> bytes:
        """What follows it, for the library."""
        if type(n_bytes) is not int:
            raise TypeError
        if n_bytes > self._max_bytes:
            self._problem = AudioLimitError(
                f"an event with {n_bytes} bytes behind its line",
                f"at most {self._max_bytes}",
                "send smaller chunks",
            )
            raise ValueError  # which ends the library's reading
        return await self._stream.readexactly(n_bytes)


def _no_event(got: str) -> EventError:
    return EventError(
        f"bytes that are no Wyoming event, or {got}", "a line of JSON with a type", "check the client"
    )


async def write_event(event: Event, writer: asyncio.StreamWriter, timeout_s: float) -> None:
    """Send one event.

    Raises:
        OSError: the client has left, or does not read.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await async_write_event(event, writer)
    except RuntimeError as error:  # of a transport that is closed already
        raise ConnectionError(str(error)) from error


def read_format(event: Event) -> AudioFormat:
    """The format that an audio event states.

    Raises:
        EventError: a number is missing, or is none. AudioLimitError: one that no audio has.
    """
    values: list[Any] = [event.data.get(name) for name in ("rate", "width", "channels")]
    if any(type(value) is not int for value in values):
        raise EventError(
            f"{event.type} with rate, width and channels {str(values)[:SHOWN]}",
            "whole numbers",
            "send the format of the samples",
        )
    found = AudioFormat(*values)
    check_rate(found.sample_rate, event.type, AudioLimits())
    check_channels(found.n_channels, event.type, AudioLimits())
    if found.width not in PCM_CODES:
        got = f"{event.type} with samples of {found.width} bytes"
        raise AudioLimitError(got, "1 to 4 bytes, whole numbers", "send 16-bit samples")
    return found


def read_names(event: Event, settings: WyomingSettings) -> tuple[tuple[str, ...], int]:
    """Names and terms that a request wants to be preferred: those that are taken, and how many are not.

    Raises:
        EventError: they are no lists of texts.
    """
    given: list[str] = []
    for field in ("transcript_names", "transcript_terms"):
        values = event.data.get(field)
        if values is None:
            continue
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise EventError(f"{event.type} with {field} {str(values)[:SHOWN]}", "a list of texts")
        given += [value.strip() for value in values]
    words = [word for word in dict.fromkeys(given) if word]
    taken: list[str] = []
    n_chars = 0
    for word in words:
        n_chars += len(word)
        if len(taken) == settings.max_hotwords or n_chars > settings.max_hotwords_chars:
            break
        if len(word) <= settings.max_hotword_chars:
            taken.append(word)
    return tuple(taken), len(words) - len(taken)


def check_language(event: Event, settings: WyomingSettings) -> None:
    """Refuse a request for a language that is neither spoken German nor, where that is asked for, English.

    Raises:
        EventError: no text. OptionError: another language.
    """
    value: Any = event.data.get("language") or ""
    if not isinstance(value, str):
        raise EventError(f"{event.type} with language {str(value)[:SHOWN]}", "a text")
    is_english = value.lower().replace("_", "-").partition("-")[0] == ENGLISH
    if not (is_english and settings.task == "translate"):
        check_german(value)


def info_event(model_name: str, settings: WyomingSettings) -> Event:
    """What the server is and can do, as `describe` asks.

    With English text the model is listed under English too: an assistant of one language offers only
    models that list it.
    """
    translates = settings.task == "translate"
    model = AsrModel(
        name=model_name,
        description="German speech to English text" if translates else "German speech to German text",
        attribution=ATTRIBUTION,
        installed=True,
        version=__version__,
        languages=[GERMAN, ENGLISH] if translates else [GERMAN],
    )
    program = AsrProgram(
        name=NAME,
        description="German speech to German or English text",
        attribution=ATTRIBUTION,
        installed=True,
        version=__version__,
        models=[model],
        supports_transcript_streaming=True,
        requires_external_vad=not settings.ends_at_pause,
    )
    return Info(asr=[program]).event()


def start_event(language: str) -> Event:
    """Text begins."""
    return TranscriptStart(language=language).event()


def chunk_event(text: str) -> Event:
    """More text; all chunks joined are the transcript."""
    return TranscriptChunk(text).event()


def transcript_event(text: str, language: str) -> Event:
    """The whole text."""
    return Transcript(text, language=language).event()


def stop_event() -> Event:
    """No more text."""
    return TranscriptStop().event()


def pong_event(ping: Event) -> Event:
    """The answer to a ping."""
    text = ping.data.get("text")
    return Pong(text if isinstance(text, str) else None).event()


def error_event(text: str, code: str) -> Event:
    """Why there is no transcript."""
    return Error(text, code).event()
