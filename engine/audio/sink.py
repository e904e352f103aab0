"""Decoded blocks -> the 16 kHz waveform, within limits; the only importer of soxr."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.audio.channels import CANCELLED_NOTE, mix_channels
from engine.audio.limits import (
    SAMPLE_RATE,
    AudioLimits,
    Waveform,
    check_channels,
    check_duration,
    check_length,
    check_rate,
    check_values,
)
from engine.errors import AudioLimitError
from engine.runtime.cancel import CancelToken

RESAMPLER_QUALITY: Final = "HQ"
MAX_NOTES: Final = 8
SEPARATE_CHANNELS: Final = 2  # of the longest duration that fit into memory, one by one
PUSH_FRAMES: Final = 1 << 16  # resampled between two looks at the caller's wish to stop


def resample(waveform: Waveform, sample_rate: float, to: float = SAMPLE_RATE) -> Waveform:
    """Resample float32 [n] at sample_rate Hz to another rate, 16 kHz if not given, in one call."""
    import soxr

    return np.asarray(soxr.resample(waveform, sample_rate, to, quality=RESAMPLER_QUALITY), np.float32)


class StreamResampler:
    """Mono chunks at any rate -> 16 kHz, without a seam between chunks.

    Args:
        sample_rate: Hz of the chunks.
    """

    def __init__(self, sample_rate: float) -> None:
        self.sample_rate = sample_rate
        self._stream: Any = None
        if sample_rate != SAMPLE_RATE:
            import soxr

            self._stream = soxr.ResampleStream(
                sample_rate, SAMPLE_RATE, 1, dtype="float32", quality=RESAMPLER_QUALITY
            )

    def push(self, chunk: Waveform) -> Waveform:
        """Resample float32 [n] and return what is ready, float32 [m]; lags some milliseconds."""
        return chunk if self._stream is None else self._call(chunk, last=False)

    def flush(self) -> Waveform:
        """Return the rest after the last chunk; the object is spent."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else self._call(empty, last=True)

    def _call(self, chunk: Waveform, last: bool) -> Waveform:
        return np.asarray(self._stream.resample_chunk(chunk, last=last), np.float32)


class _Lane:
    """One waveform that grows: the mean of all channels, or one channel."""

    def __init__(self) -> None:
        self.content = bytearray()  # grows in place: no second copy at the end
        self.resampler: StreamResampler | None = None

    def push(self, samples: Waveform, sample_rate: float) -> None:
        if self.resampler is None or self.resampler.sample_rate != sample_rate:
            self.flush()
            self.resampler = StreamResampler(sample_rate)
        self.content += self.resampler.push(np.ascontiguousarray(samples)).data

    def flush(self) -> None:
        if self.resampler is not None:
            rest, self.resampler = self.resampler.flush(), None
            self.content += rest.data


class Sink:
    """Takes what decoders find, and stops at the first limit that is passed or when the call is cancelled.

    Args:
        name: of the source, for messages.
        limits: bounds on what is decoded.
        cancel: ends decoding between two blocks.
        separate: keep each channel by itself instead of their mean.
    """

    def __init__(
        self, name: str, limits: AudioLimits, cancel: CancelToken | None = None, separate: bool = False
    ) -> None:
        self.name, self.limits, self.separate = name, limits, separate
        self.notes: list[str] = []
        self._cancel = cancel
        self._n_decoded = 0
        self.restart()

    def restart(self) -> None:
        """Forget the audio and the notes so far; the count of decoded samples goes on."""
        self.notes.clear()
        self._lanes = [_Lane()]

    def sibling(self) -> Sink:
        """An empty one with the same name, limits, token and count of decoded samples."""
        other = Sink(self.name, self.limits, self._cancel, self.separate)
        other._n_decoded = self._n_decoded
        return other

    @property
    def duration_s(self) -> float:
        """Seconds of audio so far; the resampler may hold back some milliseconds."""
        return len(self._lanes[0].content) / (4 * SAMPLE_RATE)

    def beat(self) -> None:
        """Raise CancelledError once the caller asked to stop."""
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()

    def done(self, n_tracks: int) -> None:
        """Nothing: what is here is complete only when finish is called."""

    def note(self, text: str) -> None:
        """Remember something that the caller should know about this audio; the same text counts once."""
        if text not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    def form(self, sample_rate: float, n_channels: int, n_frames: int | None = None) -> None:
        """Check what a header claims, before anything is decoded; n_frames is None where it is unknown."""
        check_channels(n_channels, self.name, self.limits)
        check_rate(sample_rate, self.name, self.limits)
        if n_frames is not None:
            check_duration(n_frames / sample_rate, self.name, self.limits)

    def audio(self, data: Any, sample_rate: float, n_channels: int) -> None:
        """Take float32 samples, interleaved, as bytes or an array; rate and channels may change."""
        self.form(sample_rate, n_channels)
        samples = np.frombuffer(data, np.float32)
        self._n_decoded += samples.size
        if self._n_decoded > self.limits.max_decoded_samples:
            raise AudioLimitError(
                f"{self.name} decodes to more than {self.limits.max_decoded_samples} samples",
                "fewer over all channels",
                "resample or cut it first, or raise AudioLimits.max_decoded_samples",
            )
        block = samples.reshape(-1, n_channels)
        for first in range(0, len(block), PUSH_FRAMES):
            self.beat()
            self._push(block[first : first + PUSH_FRAMES], sample_rate)

    def silence(self, duration_s: float) -> None:
        """Insert silence where the clock of the file says that there is none of its audio."""
        if duration_s > 0:
            self._flush()
            check_duration(self.duration_s + duration_s, self.name, self.limits)
            n_samples = round(duration_s * SAMPLE_RATE)
            for first in range(0, n_samples, PUSH_FRAMES):
                self.beat()
                for lane in self._lanes:
                    lane.content += bytes(4 * min(PUSH_FRAMES, n_samples - first))
                self._check_length()

    def finish(self) -> tuple[Waveform, ...]:
        """Return float32 [n_samples], or one a channel, of equal lengths; raise if it is too short."""
        self._flush()
        waveforms = [np.frombuffer(lane.content, np.float32) for lane in self._lanes]
        return tuple(check_length(waveform, self.name, self.limits) for waveform in waveforms)

    def _push(self, block: NDArray[np.float32], sample_rate: float) -> None:
        if self.separate:
            columns = [block[:, channel] for channel in range(block.shape[1])]
        else:
            mixed, cancelled = mix_channels(block)
            columns = [mixed]
            if cancelled:
                self.note(CANCELLED_NOTE)
        for column in columns:
            check_values(column, self.name)
        self._grow(len(columns))
        silent = np.zeros(len(block), np.float32)
        for number, lane in enumerate(self._lanes):
            lane.push(columns[number] if number < len(columns) else silent, sample_rate)
        self._check_length()

    def _grow(self, n_channels: int) -> None:
        """Begin more lanes, as where a stereo recording is joined to a mono one; they were silent so far."""
        if n_channels > len(self._lanes):
            self._flush()
            while len(self._lanes) < n_channels:
                lane = _Lane()
                lane.content += bytes(len(self._lanes[0].content))
                self._lanes.append(lane)

    def _flush(self) -> None:
        for lane in self._lanes:
            lane.flush()
        self._check_length()

    def _check_length(self) -> None:
        check_duration(self.duration_s, self.name, self.limits)
        total_s = self.duration_s * len(self._lanes)
        if total_s > SEPARATE_CHANNELS * self.limits.max_duration_s:
            raise AudioLimitError(
                f"{self.name} holds at least {total_s:.1f} s of audio over {len(self._lanes)} channels",
                f"at most {SEPARATE_CHANNELS} times {self.limits.max_duration_s:.1f} s",
                "mix the channels, cut it into parts, or raise AudioLimits.max_duration_s",
            )
