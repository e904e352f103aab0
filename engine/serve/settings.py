"""Bounds of the service, and what it asks of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine._distribution import NAME
from engine.jobs.endpoints import EndpointOptions
from engine.jobs.live import Task
from engine.jobs.streams import SpeechStream
from engine.runtime.cancel import CancelToken
from engine.types import DecodingOptions, Transcript, Translation


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection, and all together, may take before a request is complete.

    Attributes:
        max_connections: at a time; beyond them the one that has waited longest for a request is closed.
        header_timeout_s: for the head of a request, from its first byte (a new connection: from its start).
        keep_alive_s: for which a connection may be idle between two requests.
        linger_s: for which a body is read and dropped after its request was refused.
        write_timeout_s: for a client to read its answer.
    """

    max_connections: int = 1000
    header_timeout_s: float = 10.0
    keep_alive_s: float = 30.0
    linger_s: float = 5.0
    write_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What one client, and all together, may ask for.

    Attributes:
        model_name: shown by /v1/models; the bundle's name when empty.
        max_upload_bytes: of a whole request (OpenAI takes 25 MB).
        max_duration_s: of the audio in it, whatever its compression; the model's own limits hold as well.
        max_running: requests recognised at a time; 0 takes the model's threads.
        max_pending: complete requests that wait or run at a time; more get 503.
        max_uploads: bodies that arrive at a time; beyond them the slowest is ended.
        max_spooled_bytes: of all bodies that arrive; beyond them the slowest is ended.
        upload_timeout_s: for a body to arrive.
        upload_stall_s: without a byte of a body.
        max_hotwords: of one request.
        max_hotword_chars: of one hotword.
        max_hotwords_chars: of all hotwords of a request; their tables are kept for the next requests.
        health_deadline_s: for the tiny inference of /health.
        stuck_after_s: a request that runs longer makes /health fail.
        request_timeout_s: for a complete request to wait and be recognised; then it gets 504.
        drain_s: for requests in work when the service is told to end.
        realtime_sessions: over WebSockets at a time; more are refused.
        realtime_idle_s: without an event of the client.
        realtime_max_s: for which a session may last.
        realtime_message_bytes: of one message of a client; a larger one ends its session.
        api_keys: any of them must come with a request; none: everybody may use the service.
        cors_origins: web pages of these origins may use the service; * for all.
        connections: limits below the level of requests; engine.serve.transport.server enforces them.
        decoding: how every request is decoded, but for its own hotwords.
    """

    model_name: str = ""
    max_upload_bytes: int = 25 << 20
    max_duration_s: float = 3600.0
    max_running: int = 0
    max_pending: int = 32
    max_uploads: int = 128
    max_spooled_bytes: int = 1 << 30
    upload_timeout_s: float = 120.0
    upload_stall_s: float = 20.0
    max_hotwords: int = 1000
    max_hotword_chars: int = 100
    max_hotwords_chars: int = 20_000
    health_deadline_s: float = 10.0
    stuck_after_s: float = 900.0
    request_timeout_s: float = 1800.0
    drain_s: float = 8.0
    realtime_sessions: int = 16
    realtime_idle_s: float = 300.0
    realtime_max_s: float = 3600.0
    realtime_message_bytes: int = 512 << 10
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


class StreamOpener(Protocol):
    """The part of SpeechTranslator that hears speech while it arrives; safe to share between threads."""

    def open_stream(
        self,
        sample_rate: int | None = None,
        *,
        task: Task = "transcribe",
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        endpoint: EndpointOptions | None = None,
        cancel: CancelToken | None = None,
    ) -> SpeechStream:
        """German speech to German or English text while it arrives."""
        ...


class Recogniser(StreamOpener, Protocol):
    """The part of SpeechTranslator that the HTTP service calls; safe to share between threads."""

    def transcribe(
        self,
        source: NDArray[np.float32],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        partial: Callable[[str], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Transcript:
        """German speech to German text; partial is called with the text so far."""
        ...

    def translate(
        self,
        source: NDArray[np.float32],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        partial: Callable[[Translation], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Translation:
        """German speech to English text; partial is called with the translation so far."""
        ...


def model_name_of(recogniser: Any, settings: ServeSettings) -> str:
    """The name that clients see."""
    bundle = getattr(recogniser, "bundle", None)
    return settings.model_name or str(getattr(bundle, "name", NAME))


def threads_of(recogniser: Any, settings: ServeSettings) -> int:
    """Requests to work on at a time."""
    return max(1, settings.max_running or int(getattr(recogniser, "threads", 1)))
