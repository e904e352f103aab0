"""Bounds of the Wyoming server, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.jobs.endpoints import EndpointOptions
from engine.jobs.live import Task
from engine.types import DecodingOptions


@dataclass(frozen=True, slots=True)
class WyomingSettings:
    """What one client, and all together, may ask for, and how they are answered.

    Attributes:
        model_name: shown to clients; the bundle's name when empty.
        task: "translate" answers in English.
        decoding: how every recording is decoded, but for the names that its client sends.
        endpoint: when text becomes final. Partial results are not sent: what was sent cannot be taken back.
        ends_at_pause: a command ends at the first pause, whether the client has said so or not.
        full_stop: whether a text of one sentence keeps the full stop at its end.
        max_clients: connections at a time; of more, an idle one is closed.
        max_duration_s: of one recording, in audio and in time.
        max_event_bytes: of each of the two parts that may follow an event's first line.
        max_waiting_bytes: of audio that a connection may send ahead of the recogniser: 5 minutes of 16 kHz,
            since the end of a connection comes behind what was sent before it.
        max_silence_s: without a voice, where ends_at_pause.
        max_hotwords, max_hotword_chars, max_hotwords_chars: of one request: how many, of how many characters
            each and in all; the first ones count.
        idle_s: for which a connection may be open between two recordings.
        stall_s: without a complete event in the middle of a recording.
        write_timeout_s: for a client to read its answer.
        drain_s: for recordings in work when the server is told to end.
    """

    model_name: str = ""
    task: Task = "transcribe"
    decoding: DecodingOptions = field(default_factory=lambda: DecodingOptions(numbers="digits"))
    endpoint: EndpointOptions = field(default_factory=lambda: EndpointOptions(partial_interval_s=60.0))
    ends_at_pause: bool = False
    full_stop: bool = False
    max_clients: int = 32
    max_duration_s: float = 300.0
    max_event_bytes: int = 1 << 20
    max_waiting_bytes: int = 10 << 20
    max_silence_s: float = 10.0
    max_hotwords: int = 1000
    max_hotword_chars: int = 100
    max_hotwords_chars: int = 20_000
    idle_s: float = 300.0
    stall_s: float = 30.0
    write_timeout_s: float = 30.0
    drain_s: float = 8.0
