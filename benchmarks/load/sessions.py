"""Live sessions of `/v1/realtime`: audio comes as it is spoken, and the client notes when text comes."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import MeasurementError
from benchmarks.load.client import spread
from benchmarks.load.service import Service
from benchmarks.load.used import Used
from engine.audio.limits import SAMPLE_RATE

CHUNK_S: Final = 0.1
TALKS: Final = 4  # different ones
PAUSES_S: Final = (1.0, 2.0)
TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
PARTIALS: Final = f"{TRANSCRIPTION.removeprefix('conversation.')}.partials"
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Talk:
    """What one speaker says: recordings with pauses between them.

    Attributes:
        chunks: CHUNK_S each, 16 bits, 16 kHz.
        appends: the same as events, ready to be sent.
    """

    chunks: tuple[bytes, ...]
    appends: tuple[str, ...]


@dataclass
class Heard:
    """What a session was told.

    Attributes:
        partial_s: of each partial: seconds from when the audio that it heard was sent.
        final_s: of each whole text: seconds from when the pause that ended it was sent.
        texts: in order.
    """

    partial_s: list[float] = field(default_factory=list)
    final_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def make_talks(waveforms: Sequence[Waveform], seconds: float, seed: int = 11) -> list[Talk]:
    """Speakers who say the recordings, each beginning with another.

    Args:
        waveforms: float32 [n_samples], 16 kHz.
        seconds: how long each speaks; a recording that does not fit any more is left out.
    """
    rng, talks = np.random.default_rng(seed), []
    for number in range(TALKS):
        parts, n_samples, index = [np.zeros(SAMPLE_RATE // 2, np.float32)], SAMPLE_RATE // 2, number
        while True:
            pause = np.zeros(round(rng.uniform(*PAUSES_S) * SAMPLE_RATE), np.float32)
            waveform = waveforms[index % len(waveforms)]
            n_samples, index = n_samples + len(waveform) + len(pause), index + 1
            if n_samples > seconds * SAMPLE_RATE and len(parts) > 1:
                break
            parts += [waveform, pause]
        chunks = tuple(_cut(np.concatenate(parts)))
        talks.append(Talk(chunks, tuple(map(_append, chunks))))
    return talks


def _cut(waveform: Waveform) -> Iterator[bytes]:
    pcm = (np.clip(waveform, -1, 1) * 32767).astype("<i2")
    size = round(CHUNK_S * SAMPLE_RATE)
    return (pcm[start : start + size].tobytes() for start in range(0, len(pcm), size))


def _append(pcm: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()})


def hear(service: Service, talk: Talk, begin_s: float | None = None) -> Heard:
    """One session, from its first audio to its last text.

    Args:
        begin_s: when the speaker begins, by the clock perf_counter; None: all audio is sent at once.
    Raises:
        MeasurementError: the service tells of an error.
    """
    from websockets.sync.client import connect

    heard, sent_s = Heard(), list[float]()
    address = f"ws://{service.host}:{service.port}/v1/realtime?intent=transcription"
    with connect(address, max_queue=None, compression=None) as socket:
        receiver = threading.Thread(target=_receive, args=(socket, heard, sent_s), daemon=True)
        receiver.start()
        audio = {"input": {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}}}
        socket.send(
            json.dumps({"type": "session.update", "session": {"audio": audio, "include": [PARTIALS]}})
        )
        for number, append in enumerate(talk.appends, 1):
            if begin_s is not None:
                time.sleep(max(0.0, begin_s + number * CHUNK_S - time.perf_counter()))
            sent_s.append(time.perf_counter())
            socket.send(append)
        socket.send('{"type": "input_audio_buffer.clear"}')  # its answer is the last event
        receiver.join(60)
        if receiver.is_alive() or not heard.texts:
            raise MeasurementError(
                "a session without an end, or without text", "", "look at the service's log"
            )
    return heard


def _receive(socket: Any, heard: Heard, sent_s: Sequence[float]) -> None:
    """Note the events of a session up to the answer to `clear`."""
    ended_s: dict[str, float] = {}
    for message in socket:
        now_s, event = time.perf_counter(), json.loads(message)
        kind = event["type"]
        if kind == "input_audio_buffer.cleared" or kind == "error":
            return
        if kind == f"{TRANSCRIPTION}.partial" and event["transcript"]:
            heard.partial_s.append(now_s - _when(event["audio_end_ms"], sent_s))
        elif kind == "input_audio_buffer.speech_stopped":
            ended_s[event["item_id"]] = _when(event["audio_end_ms"], sent_s)
        elif kind == f"{TRANSCRIPTION}.completed":
            heard.texts.append(event["transcript"])
            heard.final_s.append(now_s - ended_s[event["item_id"]])


def _when(audio_ms: float, sent_s: Sequence[float]) -> float:
    """When the chunk with that moment of the audio was sent."""
    number = max(0, -(-round(audio_ms) // round(1000 * CHUNK_S)) - 1)
    return sent_s[min(number, len(sent_s) - 1)]


def live(service: Service, talks: Sequence[Talk], right: Sequence[list[str]], count: int) -> dict[str, Any]:
    """So many sessions at a time, each in real time.

    Args:
        right: the texts of each talk, heard alone.
    """
    found: list[Heard | BaseException | None] = [None] * count
    starts_s = np.random.default_rng(count).uniform(0.5, 2.5, count) + time.perf_counter()

    def run(number: int) -> None:
        try:
            found[number] = hear(service, talks[number % len(talks)], float(starts_s[number]))
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    with Used(service) as used:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    heard = [each for each in found if isinstance(each, Heard)]
    wrong = []
    for number, each in enumerate(found):
        alone, texts = right[number % len(talks)], each.texts if isinstance(each, Heard) else repr(each)
        if texts != alone:
            wrong.append(f"session {number}: {texts}; alone: {alone}")
    return {
        "sessions": count, "n_partials": sum(len(each.partial_s) for each in heard),
        "n_finals": sum(len(each.final_s) for each in heard),
        "partial_lag_ms": spread([1000 * lag for each in heard for lag in each.partial_s]),
        "final_lag_ms": spread([1000 * lag for each in heard for lag in each.final_s]),
        "cores": used.figures(), "n_wrong": len(wrong), "wrong": wrong[:3],
    }  # fmt: skip
