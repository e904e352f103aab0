"""A recogniser of tones as streams, a real Wyoming server on a free port, and the real client."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
from wyoming.asr import Transcribe, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

from engine.errors import CancelledError
from engine.jobs.streams import SpeechStream, StreamStages
from engine.serve.transport.sockets import listen
from engine.serve.wyoming import WyomingServer, WyomingSettings
from engine.types import Hypothesis, TranslationHypothesis
from tests.reference.tone_speech import recognise, silence, speak

RATE = 16_000
ENGLISH = {"eins": "one", "zwei": "two", "drei": "three"}
SPEECH = np.concatenate([silence(0.3), speak("eins zwei drei"), silence(0.3)])
TEXT = "eins zwei drei"


class ToneStreams:
    """The interface of SpeechTranslator over tones; `gate` holds every final until it is set."""

    def __init__(self) -> None:
        self.gate, self.started, self.cancelled = threading.Event(), threading.Semaphore(0), threading.Event()
        self.gate.set()
        self.opened: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def open_stream(self, sample_rate: int | None = None, **options: Any) -> SpeechStream:
        """A stream that names tones; a dot for a full stop follows the last word of an utterance."""
        self.opened.append({"sample_rate": sample_rate, **options})
        cancel = options["cancel"]

        def final(window: np.ndarray) -> Hypothesis:
            self.started.release()
            if self.error:
                raise self.error
            while not self.gate.wait(0.01):
                if cancel.cancelled:
                    self.cancelled.set()
                    raise CancelledError("the call was cancelled")
            return recognise(window)

        def translate(texts: list[str]) -> list[TranslationHypothesis]:
            return [
                TranslationHypothesis(" ".join(ENGLISH[word] for word in text.split()), 0.0, 0.5)
                for text in texts
            ]

        stages = StreamStages(
            final, recognise, lambda words, paused: list(words),
            translate if options["task"] == "translate" else None,
        )  # fmt: skip
        return SpeechStream(stages, sample_rate or RATE, options["endpoint"], cancel)


@contextmanager
def running(
    recogniser: Any, settings: WyomingSettings | None = None, send_bytes: int = 0
) -> Iterator[WyomingServer]:
    """A server on a thread; its port is `server.port`. send_bytes: that the system keeps of its answers."""
    (sock,) = listen("127.0.0.1", 0)
    if send_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    server: Any = WyomingServer(recogniser, settings)
    server.port = sock.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    assert server.started.wait(20)
    try:
        yield server
    finally:
        server.stop()
        server.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"


def pcm(samples: np.ndarray, width: int = 2, n_channels: int = 1) -> bytes:
    """Interleaved integers of so many bytes; every channel holds the same."""
    scaled = np.round(samples.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        scaled += 128
    frames = np.repeat(scaled[:, None], n_channels, axis=1).astype("<i8")
    return frames.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()


def audio_events(
    content: bytes, rate: int = RATE, width: int = 2, n_channels: int = 1, chunk_bytes: int = 3200,
    start: bool = True, stop: bool = True,
) -> list[Event]:  # fmt: skip
    """What a client sends for one recording."""
    events = [AudioStart(rate, width, n_channels).event()] if start else []
    for at in range(0, len(content), chunk_bytes):
        events.append(AudioChunk(rate, width, n_channels, content[at : at + chunk_bytes]).event())
    return [*events, AudioStop().event()] if stop else events


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[AsyncTcpClient]:
    """The real client; a conversation takes a minute at most."""
    async with asyncio.timeout(60), AsyncTcpClient("127.0.0.1", port) as client:
        yield client


async def read_until(client: AsyncTcpClient, *kinds: str) -> list[Event]:
    """Events up to one of these kinds, or to the end of the connection."""
    events: list[Event] = []
    while (event := await client.read_event()) is not None:
        events.append(event)
        if event.type in kinds:
            break
    return events


async def transcribe(
    client: AsyncTcpClient, events: Sequence[Event], language: str | None = "de"
) -> list[Event]:
    """Ask for a text; everything that came up to its end."""
    await client.write_event(Transcribe(language=language).event())
    for event in events:
        await client.write_event(event)
    return await read_until(client, "transcript-stop", "error")


def text_of(events: Sequence[Event]) -> str:
    """The transcript, after a look at the order of events and whether the chunks are the text."""
    kinds = [event.type for event in events]
    n_chunks = len(kinds) - 3
    assert kinds == ["transcript-start", *["transcript-chunk"] * n_chunks, "transcript", "transcript-stop"], [
        (event.type, event.data) for event in events
    ]
    text = str(events[-2].data["text"])
    assert "".join(TranscriptChunk.from_event(event).text for event in events[1:-2]) == text
    return text


def ask(port: int, conversation: Callable[[AsyncTcpClient], Awaitable[Any]]) -> Any:
    """Hold one conversation with the real client."""

    async def run() -> Any:
        async with connected(port) as client:
            return await conversation(client)

    return asyncio.run(run())


def raw(port: int, *parts: bytes, timeout: float = 20.0) -> socket.socket:
    """A connection of bytes."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    for part in parts:
        sock.sendall(part)
    return sock


def line(**header: Any) -> bytes:
    """The first line of an event."""
    return json.dumps(header).encode() + b"\n"


def read_error(sock: socket.socket) -> tuple[str, str]:
    """Code and text of the error that ends a connection; empty where it ends without."""
    content = b""
    try:
        while block := sock.recv(65536):
            content += block
    except ConnectionError:
        pass
    found = ("", "")
    while content:
        head, _, content = content.partition(b"\n")
        header = json.loads(head)
        length = header.get("data_length", 0)
        data, content = json.loads(content[:length] or b"{}"), content[length:]
        if header["type"] == "error":
            found = (data["code"], data["text"])
            assert not content, "something follows the error"
    return found
