"""Short requests of many kinds: cuts of recordings in several containers, formats and options."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.audio.limits import SAMPLE_RATE

TRANSCRIBE: Final = "/v1/audio/transcriptions"
TRANSLATE: Final = "/v1/audio/translations"
BOUNDARY: Final = "engine-bench-load"
LENGTHS_S: Final = (0.5, 1.5)
CONTAINERS: Final = ("WAV", "FLAC", "OGG", "MP3")
FORMS: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    (TRANSCRIBE, {"passes": "1"}),
    (TRANSCRIBE, {"passes": "2"}),
    (TRANSCRIBE, {"passes": "1", "response_format": "verbose_json"}),
    (TRANSCRIBE, {"passes": "1", "response_format": "srt"}),
    (TRANSLATE, {"passes": "1"}),
    (TRANSCRIBE, {"passes": "1", "hotwords": "Großmutter, Fahrräder"}),
    (TRANSCRIBE, {"response_format": "verbose_json", "timestamp_granularities[]": "word"}),
    (TRANSCRIBE, {"passes": "1", "response_format": "vtt", "timestamp_granularities[]": "word"}),
    (TRANSCRIBE, {"passes": "1", "numbers": "digits", "response_format": "text"}),
    (TRANSLATE, {"passes": "1", "response_format": "verbose_json"}),
    (TRANSCRIBE, {"passes": "1", "include[]": "logprobs"}),
    (TRANSCRIBE, {"passes": "2", "response_format": "srt", "hotwords": "Hamburg"}),
    (TRANSCRIBE, {"passes": "1", "channels": "separate", "response_format": "verbose_json"}),
)
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """One request, which may be sent many times.

    Attributes:
        name: what tells it from others.
        path: of the endpoint.
        body: a multipart form with BOUNDARY.
    """

    name: str
    path: str
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """What says how to read the body."""
        return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def make_kinds(waveforms: Sequence[Waveform], count: int, seed: int = 7) -> list[Kind]:
    """Requests of short cuts; every form meets every container once there are enough of them.

    Args:
        waveforms: float32 [n_samples], 16 kHz, of speech.
        count: how many different requests.
    """
    rng, kinds = np.random.default_rng(seed), []
    for index in range(count):
        waveform = waveforms[index % len(waveforms)]
        size = min(round(rng.uniform(*LENGTHS_S) * SAMPLE_RATE), len(waveform))
        start = int(rng.integers(len(waveform) - size + 1))
        container = CONTAINERS[index % len(CONTAINERS)]
        path, fields = FORMS[index % len(FORMS)]
        audio = encode(waveform[start : start + size], container)
        name = f"{index} {path.rpartition('/')[2]} {container} {size / SAMPLE_RATE:.2f} s {fields}"
        kinds.append(Kind(name, path, form(audio, fields)))
    return kinds


def encode(waveform: Waveform, container: str) -> bytes:
    """A file of a waveform, 16 kHz."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format=container)
    return buffer.getvalue()


def form(audio: bytes, fields: dict[str, Any]) -> bytes:
    """A multipart form with a file."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return "".join([*parts, head]).encode() + audio + f"\r\n--{BOUNDARY}--\r\n".encode()


def long_recording(waveforms: Sequence[Waveform], duration_s: float) -> bytes:
    """A recording of about so many seconds: the waveforms again and again, as joined Ogg files."""
    once = np.concatenate([part for each in waveforms for part in (each, np.zeros(SAMPLE_RATE, np.float32))])
    return encode(once, "OGG") * max(1, round(duration_s * SAMPLE_RATE / len(once)))
