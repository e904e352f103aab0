"""Recognise speech while it arrives: text that will not change, and a tentative tail.

The open window, from the last pause to now, is decoded again and again; what that gives is
tentative. At a pause, or when the window is full, it is decoded once more as a whole and becomes
final. Borders are decided every STEP_S of audio, whatever the size of the chunks, so that the
final text does not depend on how the audio was cut on its way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audio import vad
from engine.audio.limits import AudioLimits, check_rate
from engine.audio.load import SAMPLE_RATE, StreamResampler, Waveform, downmix
from engine.errors import OptionError
from engine.jobs.longform import Recognise, shift_words, split_segments
from engine.runtime.cancel import CancelToken
from engine.types import Progress, Segment

HOP: Final = round(SAMPLE_RATE * vad.FRAME_S)  # samples a frame of the speech detector
STEP_FRAMES: Final = 20  # borders are decided every 200 ms
MAX_OPEN_S: Final = 15.0  # the whole open window is decoded for each partial result
UNDECIDED_S: Final = 3.0  # kept although it sounded like noise: speech may show only later
MEMORY_FRAMES: Final = 100 * vad.CONTEXT_BLOCKS  # of levels before the window, for the noise floor
DECODE_SHARE: Final = 0.5  # of real time that partial results may take


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known after a chunk.

    Attributes:
        stable_text: everything final since the start; it only ever grows.
        tentative_text: a guess at what was said since; may change or vanish.
        segments: the final segments, with times from the start of the stream.
    """

    stable_text: str
    tentative_text: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """Final and tentative text together."""
        return " ".join(part for part in (self.stable_text, self.tentative_text) if part)


class _Region(NamedTuple):
    """Frames of the stream to decode together; complete where no later audio can change them."""

    first: int
    last: int
    complete: bool


class StreamingTranscriber:
    """Turns chunks of audio into partial results; one object a stream, fed from one thread."""

    def __init__(
        self,
        recognise: Recognise,
        sample_rate: int = SAMPLE_RATE,
        *,
        guess: Recognise | None = None,
        max_window_s: float = MAX_OPEN_S,
        pause_s: float = 0.7,
        pad_s: float = 0.3,
        partial_interval_s: float = 0.5,
    ) -> None:
        """Start a stream.

        Args:
            recognise: float32 [n_samples], mono, 16 kHz -> Hypothesis with times relative to it.
            guess: the same for tentative text, where something faster will do.
            sample_rate: Hz of the chunks.
            max_window_s: longest stretch decoded at once; no more than MAX_OPEN_S is used.
            pause_s: silence that makes the text before it final.
            pad_s: audio kept around speech.
            partial_interval_s: seconds of new audio between tentative results; becomes longer
                where decoding would take more than DECODE_SHARE of real time.
        Raises:
            AudioLimitError: an impossible sample rate. OptionError: pause_s not above pad_s.
        """
        check_rate(sample_rate, "the stream", AudioLimits())
        if not 0 <= pad_s < pause_s or not max_window_s > 2 * pause_s:
            raise OptionError(
                f"pad_s {pad_s}, pause_s {pause_s}, max_window_s {max_window_s}",
                "0 <= pad_s < pause_s < max_window_s / 2",
                "keep the defaults",
            )
        self._recognise, self._quick = recognise, guess or recognise
        self._resampler = StreamResampler(sample_rate)
        self._max_s = min(max_window_s, MAX_OPEN_S)
        self._max_frames = int(self._max_s / vad.FRAME_S)
        self._pause_s, self._pad_frames = pause_s, round(pad_s / vad.FRAME_S)
        self._interval_s, self._wait_s = partial_interval_s, partial_interval_s
        self._waiting = np.zeros(0, np.float32)  # less than a step
        self._samples = _Tail(np.zeros(0, np.float32))
        self._power = _Tail(np.zeros((0, len(vad.BAND_EDGES_HZ) - 1), np.float32))
        self._open = 0  # frame at which the open window begins
        self._spoken: int | None = None  # frame at which its speech begins, if any
        self._segments: tuple[Segment, ...] = ()
        self._stable_text, self._tentative_text = "", ""
        self._decoded = 0  # sample up to which the tentative text goes
        self._finished = False

    def feed(self, chunk: NDArray[Any]) -> Partial:
        """Take the next audio.

        Args:
            chunk: as load_audio takes arrays, at the stream's rate; may be empty. One with
                several channels must hold more samples than channels.
        Returns:
            Partial, with a fresh tentative text at most every partial_interval_s.
        Raises:
            AudioShapeError, AudioValueError: a bad chunk; the stream goes on without it.
            OptionError: the stream is finished.
        """
        if self._finished:
            raise OptionError("audio after finish()", "an open stream", "start another StreamingTranscriber")
        self._advance(self._resampler.push(downmix(chunk)))
        if (self._samples.end - self._decoded) / SAMPLE_RATE >= self._wait_s:
            self._guess()
        return self._partial()

    def finish(self) -> Partial:
        """Make everything final: no tentative text is left."""
        if not self._finished:
            self._finished = True
            self._advance(self._resampler.flush())
            self._samples.append(self._waiting)
            self._measure(-(-self._samples.end // HOP))
            while region := self._find_region():
                self._close(region)
            self._tentative_text = ""
        return self._partial()

    def run(
        self,
        chunks: Iterable[NDArray[Any]],
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Partial]:
        """Feed chunks as they are taken, and finish after the last.

        Args:
            chunks: as for feed.
            progress: called with (done_s, total_s), seconds of audio; total_s is infinite until the end.
            cancel: ends the stream from another thread, before the next chunk.
        Yields:
            A Partial a chunk, and the last one, in which everything is final.
        Raises:
            CancelledError: cancel was set. Whatever feed raises.
        """
        for chunk in chunks:
            if cancel is not None:
                cancel.raise_if_cancelled()
            partial = self.feed(chunk)
            if progress is not None:
                progress(self._heard_s, math.inf)
            yield partial
        partial = self.finish()
        if progress is not None:
            progress(self._heard_s, self._heard_s)
        yield partial

    @property
    def _heard_s(self) -> float:
        return (self._samples.end + (0 if self._finished else len(self._waiting))) / SAMPLE_RATE

    def _advance(self, waveform: Waveform) -> None:
        self._waiting = np.concatenate([self._waiting, waveform])
        step = STEP_FRAMES * HOP
        n_steps = len(self._waiting) // step
        for i in range(n_steps):
            self._samples.append(self._waiting[i * step : (i + 1) * step])
            self._measure(self._samples.end // HOP - 1)
            self._decide()
        self._waiting = self._waiting[n_steps * step :].copy()

    def _measure(self, end: int) -> None:
        """Compute the band power of frames up to `end`."""
        first = self._power.end
        if end > first:
            samples = self._samples.slice(first * HOP, (end + 1) * HOP)
            self._power.append(vad.compute_band_power(samples, end - first, HOP))

    def _find_region(self) -> _Region | None:
        """The first stretch of speech in the open window, padded; cut where it is too long."""
        if not len(self._power.values):
            return None
        excess = vad.compute_excess(vad.smooth_levels(self._power.values))
        thresholds = vad.compute_thresholds(excess)
        begin = self._open - self._power.start
        excess = excess[begin:]
        inside = vad.Thresholds(thresholds.on[begin:], thresholds.off[begin:])
        runs = vad.find_runs(excess, inside, vad.MIN_SPEECH_S, self._pause_s)
        if not runs:
            return None
        start, end = runs[0]
        first, last = max(start - self._pad_frames, 0), min(end + self._pad_frames, len(excess))
        complete = len(excess) - end >= self._pause_s / vad.FRAME_S
        if last - first > self._max_frames:
            whole_s = (first * vad.FRAME_S, last * vad.FRAME_S)
            last = round(vad.split_windows([whole_s], excess, self._max_s)[0][1] / vad.FRAME_S)
            complete = True
        return _Region(first + self._open, last + self._open, complete)

    def _decide(self) -> None:
        """Close what a pause or a full window has ended, and forget what is long silent."""
        while region := self._find_region():
            if not region.complete:
                self._spoken = region.first
                return
            self._close(region)
        self._spoken = None
        self._forget(self._power.end - round(UNDECIDED_S / vad.FRAME_S))

    def _close(self, region: _Region) -> None:
        """Decode a region once, as a whole, and begin the next window after it."""
        waveform = self._samples.slice(region.first * HOP, region.last * HOP)
        words = shift_words(self._recognise(waveform).words, region.first * vad.FRAME_S)
        new = split_segments(words)
        self._segments += new
        self._stable_text = " ".join([self._stable_text, *(segment.text for segment in new)]).strip()
        self._tentative_text, self._spoken = "", None
        self._decoded = region.last * HOP
        self._forget(region.last)

    def _forget(self, frame: int) -> None:
        self._open = max(self._open, frame)
        self._samples.drop(min(self._open, self._power.end) * HOP)
        self._power.drop(self._open - MEMORY_FRAMES)

    def _guess(self) -> None:
        """Decode the open window as far as it has come."""
        self._decoded = self._samples.end
        if self._spoken is None:
            self._tentative_text = ""
            return
        began_s = time.perf_counter()
        waveform = self._samples.slice(self._spoken * HOP, (self._spoken + self._max_frames) * HOP)
        self._tentative_text = self._quick(waveform).text
        took_s = time.perf_counter() - began_s
        self._wait_s = max(self._interval_s, took_s / DECODE_SHARE)

    def _partial(self) -> Partial:
        return Partial(self._stable_text, self._tentative_text, self._segments)


class _Tail:
    """The end of a growing array, addressed by positions in the whole."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values, self.start = values, 0

    @property
    def end(self) -> int:
        return self.start + len(self.values)

    def append(self, values: NDArray[np.float32]) -> None:
        self.values = np.concatenate([self.values, values])

    def slice(self, first: int, last: int) -> NDArray[np.float32]:
        return self.values[max(first - self.start, 0) : max(last - self.start, 0)]

    def drop(self, before: int) -> None:
        if before > self.start:
            self.values = self.values[before - self.start :]
            self.start = before
