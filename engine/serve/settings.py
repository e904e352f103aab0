"""Bounds of the service, and what it asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine._distribution import NAME
from engine.runtime.cancel import CancelToken
from engine.types import DecodingOptions, Transcript, Translation


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What one client, and all together, may ask for.

    Attributes:
        model_name: shown by /v1/models; the bundle's name when empty.
        max_upload_bytes: of a whole request (OpenAI takes 25 MB).
        max_duration_s: of the audio in it, whatever its compression; the model's own limits hold as well.
        max_running: requests recognised at a time; 0 takes the model's threads.
        max_pending: requests that upload, wait or run at a time; more get 503.
        upload_timeout_s: for a body to arrive.
        health_deadline_s: for the tiny inference of /health.
        stuck_after_s: a request that runs longer makes /health fail.
        decoding: how every request is decoded, but for its own hotwords.
    """

    model_name: str = ""
    max_upload_bytes: int = 25 << 20
    max_duration_s: float = 3600.0
    max_running: int = 0
    max_pending: int = 32
    upload_timeout_s: float = 120.0
    health_deadline_s: float = 10.0
    stuck_after_s: float = 900.0
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


class Recogniser(Protocol):
    """The part of SpeechTranslator that the service calls; safe to share between threads."""

    def transcribe(
        self,
        source: NDArray[np.float32],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        cancel: CancelToken | None = None,
    ) -> Transcript:
        """German speech to German text."""
        ...

    def translate(
        self,
        source: NDArray[np.float32],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        cancel: CancelToken | None = None,
    ) -> Translation:
        """German speech to English text."""
        ...


def model_name_of(recogniser: Any, settings: ServeSettings) -> str:
    """The name that clients see."""
    bundle = getattr(recogniser, "bundle", None)
    return settings.model_name or str(getattr(bundle, "name", NAME))


def threads_of(recogniser: Any, settings: ServeSettings) -> int:
    """Requests to work on at a time."""
    return max(1, settings.max_running or int(getattr(recogniser, "threads", 1)))
