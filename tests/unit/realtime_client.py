"""Clients of realtime sessions: OpenAI's own, and one that sends what no client should."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tone_service import Running
from websockets.sync.client import ClientConnection, connect

from tests.reference.tone_speech import silence, speak

RATE = 16_000
PCM_16K = {"format": {"type": "audio/pcm", "rate": RATE}}
TRANSCRIPTION = "conversation.item.input_audio_transcription"
TRANSLATION = "conversation.item.input_audio_translation"
SAID = ["eins zwei drei", "drei zwei eins"]
TALK = np.concatenate([silence(0.5), speak("eins zwei drei . drei zwei eins", pause_s=1.5), silence(1.2)])


def pcm(samples: np.ndarray) -> bytes:
    """float32 [-1, 1] -> 16 bits, little endian."""
    return (samples * 32767).astype("<i2").tobytes()


def appends(audio: bytes, n_bytes: int = 6400) -> Iterator[dict[str, Any]]:
    """Events that append audio, in chunks of so many bytes."""
    for start in range(0, len(audio), n_bytes):
        chunk = base64.b64encode(audio[start : start + n_bytes]).decode()
        yield {"type": "input_audio_buffer.append", "audio": chunk}


def update(include: tuple[str, ...] = (), **patch: Any) -> dict[str, Any]:
    """A session.update of audio.input, with 16 kHz unless it says otherwise."""
    session = {"type": "transcription", "audio": {"input": {**PCM_16K, **patch}}, "include": list(include)}
    return {"type": "session.update", "session": session}


class Raw:
    """A session without anybody's types: what is sent and received is JSON, or not even that."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.socket.send(json.dumps(event))

    def receive(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.socket.recv(timeout=60))
        return event

    def until(self, found: str | Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        """All events up to the one of a type, or that a function knows, that often."""
        events: list[dict[str, Any]] = []
        while count:
            events.append(self.receive())
            count -= events[-1]["type"] == found if isinstance(found, str) else found(events[-1])
        return events

    def rest(self) -> tuple[list[dict[str, Any]], int | None]:
        """All events to the end, and the code that closed it."""
        events = []
        try:
            while True:
                events.append(self.receive())
        except Exception:
            return events, self.socket.protocol.close_code


@contextmanager
def session(running: Running, query: str = "?intent=transcription", **options: Any) -> Iterator[Raw]:
    """An open session, behind its first event unless it was refused."""
    with connect(f"ws://127.0.0.1:{running.port}/v1/realtime{query}", **options) as socket:
        yield Raw(socket)


def texts(events: list[dict[str, Any]], kind: str = TRANSCRIPTION) -> list[str]:
    """Transcripts of items, in order."""
    return [event["transcript"] for event in events if event["type"] == f"{kind}.completed"]


def errors(events: list[dict[str, Any]]) -> list[str]:
    """Codes of errors, in order."""
    return [event["error"]["code"] for event in events if event["type"] == "error"]
