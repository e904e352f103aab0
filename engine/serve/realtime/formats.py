"""Audio in events -> samples: 16-bit PCM of any usual rate, and the two codes of telephony."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.serve.realtime.problems import EventProblem, show

Samples = NDArray[np.int16]
FormatType = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
TELEPHONE_RATE: Final = 8_000
PCM_RATES: Final = (8_000, 48_000)
PCM_RATE: Final = 24_000  # OpenAI's only one


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How audio is written in events.

    Attributes:
        type: as OpenAI names it. rate: Hz.
    """

    type: FormatType = "audio/pcm"
    rate: int = PCM_RATE

    def describe(self) -> dict[str, Any]:
        """As it is shown in a session."""
        return {"type": self.type, "rate": self.rate} if self.type == "audio/pcm" else {"type": self.type}

    def decode(self, audio: object) -> Samples:
        """Samples of one event, int16 [n_samples].

        Raises:
            EventProblem: not base64, or not whole samples.
        """
        if not isinstance(audio, str):
            raise _invalid(f"audio {show(audio)}", "base64")
        try:
            content = binascii.a2b_base64(audio, strict_mode=True)
        except ValueError:  # of binascii, or characters other than ASCII
            raise _invalid("audio that is not base64", "base64 with its padding") from None
        if self.type != "audio/pcm":
            return decode_table(self.type)[np.frombuffer(content, np.uint8)]
        if len(content) % 2:
            raise _invalid(f"{len(content)} bytes of audio", "whole samples, of 2 bytes each")
        return np.frombuffer(content, "<i2").astype(np.int16)


@cache
def decode_table(code: FormatType) -> Samples:
    """What each byte of a telephone code stands for, int16 [256].

    Source: ITU-T G.711, tables 1 and 2; levels of 14 and 13 bits, scaled to 16.
    """
    codes = np.arange(256)
    if code == "audio/pcmu":
        inverted = ~codes & 0xFF
        exponent, mantissa = (inverted >> 4) & 7, inverted & 15
        magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
        negative = inverted >= 128
    else:
        toggled = codes ^ 0x55
        exponent, mantissa = (toggled >> 4) & 7, toggled & 15
        linear = (mantissa << 4) + 8
        magnitude = np.where(exponent == 0, linear, (linear + 0x100) << np.maximum(exponent - 1, 0))
        negative = toggled < 128
    return np.where(negative, -magnitude, magnitude).astype(np.int16)


def _invalid(got: str, want: str) -> EventProblem:
    return EventProblem("invalid_audio", "audio", got, want, "send the audio again")
