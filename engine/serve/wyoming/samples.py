"""Raw samples of any width and number of channels -> float32 of one channel."""

from __future__ import annotations

import numpy as np

from engine.audio.channels import mix_channels
from engine.audio.limits import Waveform
from engine.audio.pcm import to_float
from engine.serve.wyoming.protocol import PCM_CODES, AudioFormat


class FrameReader:
    """Cuts blocks of bytes at frames: a block may end in the middle of a sample.

    Attributes:
        left: bytes behind the last whole frame.
    """

    def __init__(self, form: AudioFormat) -> None:
        """Begin with a frame."""
        self._form, self.left = form, b""

    def read(self, block: bytes) -> Waveform:
        """The whole frames of what came: float32 [n_samples], mono, at the format's rate."""
        content = self.left + block
        whole = len(content) // self._form.frame_bytes * self._form.frame_bytes
        self.left = content[whole:]
        samples = to_float(content[:whole], PCM_CODES[self._form.width])
        mixed, _ = mix_channels(samples.reshape(-1, self._form.n_channels))
        return np.ascontiguousarray(mixed)
