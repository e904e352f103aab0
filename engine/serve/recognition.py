"""The work on one request: its file is read, short or long, and becomes text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.audio.load import SAMPLE_RATE, Audio, AudioLimits, read_audio
from engine.errors import AudioLimitError
from engine.runtime.cancel import CancelToken
from engine.runtime.scheduler import CLIP_S
from engine.serve.requests import AudioRequest
from engine.serve.service import Service
from engine.serve.work import Long
from engine.types import DecodingOptions, Transcript, Translation

Result = Transcript | Translation


@dataclass(frozen=True)
class Recognition:
    """One request in work.

    Attributes:
        task: the method of the recogniser. options: for it.
        submitted_s: when it was complete, by the clock perf_counter.
    """

    service: Service
    wanted: AudioRequest
    task: str
    options: dict[str, Any] = field(default_factory=dict)
    submitted_s: float = field(default_factory=time.perf_counter)

    def run_short(self, cancel: CancelToken) -> Result | Long[Result]:
        """The text of a clip. Of anything longer, noticed by its header or after CLIP_S, what is to be done.

        Raises:
            AudioError and whatever the recogniser raises.
        """
        limit_s = self.service.settings.max_duration_s
        try:
            audio = self._read(min(CLIP_S, limit_s), cancel)
        except AudioLimitError:
            if limit_s <= CLIP_S:
                raise
            self.wanted.audio.seek(0)
            return Long(self.run_long)  # which meets the limit again where it is another one
        return self._recognise(audio, cancel)

    def run_long(self, cancel: CancelToken) -> Result:
        """The text of a recording of any length that the service takes."""
        return self._recognise(self._read(self.service.settings.max_duration_s, cancel), cancel)

    @property
    def decoding(self) -> DecodingOptions:
        """As the service was started, but for what the request says."""
        wanted, usual = self.wanted, self.service.settings.decoding
        return usual.replace(
            passes=wanted.passes or usual.passes, numbers=wanted.numbers or usual.numbers,
            channels=wanted.channels or usual.channels, audio_track=wanted.audio_track or usual.audio_track,
        )  # fmt: skip

    def _read(self, max_duration_s: float, cancel: CancelToken) -> Audio:
        self.service.metrics.observe_stage("queue", time.perf_counter() - self.submitted_s)
        decoding = self.decoding
        return read_audio(
            self.wanted.audio.read(), limits=AudioLimits(max_duration_s=max_duration_s), cancel=cancel,
            channels=decoding.channels, track=decoding.audio_track,
        )  # fmt: skip

    def _recognise(self, audio: Audio, cancel: CancelToken) -> Result:
        audio.warn()
        cancel.raise_if_cancelled()
        decoding = self.decoding
        separate = decoding.channels == "separate"
        result: Result = getattr(self.service.recogniser, self.task)(
            np.stack(audio.waveforms, axis=1) if separate else audio.waveforms[0], SAMPLE_RATE,
            hotwords=self.wanted.hotwords, options=decoding.replace(audio_track=None), cancel=cancel,
            **self.options,
        )  # fmt: skip
        self.service.metrics.observe_result(self.task, result)
        return _noted(result, audio.notes)


def _noted(result: Result, notes: tuple[str, ...]) -> Result:
    """The result with what was found in the file among its warnings."""
    if isinstance(result, Translation):
        return replace(result, source=replace(result.source, warnings=(*notes, *result.warnings)))
    return replace(result, warnings=(*notes, *result.warnings))
