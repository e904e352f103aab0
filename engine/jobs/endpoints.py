"""Where the utterances of a stream begin and end: decided every 100 ms of audio, whatever its chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audio import vad
from engine.audio.limits import SAMPLE_RATE, Waveform
from engine.errors import OptionError

HOP: Final = round(SAMPLE_RATE * vad.FRAME_S)  # samples a frame of the speech detector
STEP_FRAMES: Final = 10  # borders are decided every 100 ms
UNDECIDED_S: Final = 3.0  # kept although it sounded like noise: speech may show only later
MEMORY_FRAMES: Final = 100 * vad.CONTEXT_BLOCKS  # of levels before the window, for the noise floor
LONGEST_S: Final = 60.0
LONGEST_WINDOW_S: Final = 28.0


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """When text becomes final, in seconds.

    Attributes:
        pause_s: silence that ends an utterance: 0.1 to 10. Shorter is quicker, and cuts sentences.
        max_window_s: speech without a pause is cut after so long, between words: more than twice pause_s, up
            to 28 or the longest utterance that the model takes.
        pad_s: audio kept before (pre-roll) and after the speech that was detected; less than pause_s.
        min_speech_s: less sound than this is a click, no speech: 0.02 to 1.
        partial_interval_s: new audio between two partial results: 0.1 to 60. It becomes longer where partial
            results would take more than half of the time.
    Raises:
        OptionError: values outside these ranges; names all of them.
    """

    pause_s: float = 0.7
    max_window_s: float = 15.0
    pad_s: float = 0.3
    min_speech_s: float = vad.MIN_SPEECH_S
    partial_interval_s: float = 0.5

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        problems = [f"{name} {value!r}" for name, value in values.items() if not _is_number(value)]
        if problems:
            raise OptionError(", ".join(problems), "numbers, in seconds", "keep the defaults")
        ranges = {
            "pause_s": (0.1, 10.0),
            "max_window_s": (2 * self.pause_s + vad.FRAME_S, LONGEST_WINDOW_S),
            "pad_s": (0.0, self.pause_s - vad.FRAME_S),
            "min_speech_s": (0.02, 1.0),
            "partial_interval_s": (0.1, LONGEST_S),
        }
        wrong = {name: (low, high) for name, (low, high) in ranges.items() if not low <= values[name] <= high}
        if wrong:
            raise OptionError(
                ", ".join(f"{name} {values[name]:g}" for name in wrong),
                ", ".join(f"{name} between {low:g} and {high:g}" for name, (low, high) in wrong.items()),
                "keep the defaults",
            )


class Region(NamedTuple):
    """Frames of the stream to decode together.

    Attributes:
        first, last: with padding. start, end: of the speech in it.
        closed: whether no later audio can change it. paused: whether a pause ended it.
    """

    first: int
    last: int
    start: int
    end: int
    closed: bool
    paused: bool


class Tail:
    """The end of a growing array, addressed by positions in the whole."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        """Begin with values, at position 0."""
        self.values, self.start = values, 0

    @property
    def end(self) -> int:
        """The position behind the last value."""
        return self.start + len(self.values)

    def append(self, values: NDArray[np.float32]) -> None:
        """Grow."""
        self.values = np.concatenate([self.values, values])

    def slice(self, first: int, last: int) -> NDArray[np.float32]:
        """What is still there of [first, last)."""
        return self.values[max(first - self.start, 0) : max(last - self.start, 0)]

    def drop(self, before: int) -> None:
        """Forget what is before a position."""
        if before > self.start:
            self.values = self.values[before - self.start :]
            self.start = before


class Endpointer:
    """Finds utterances in samples at 16 kHz that arrive bit by bit.

    Attributes:
        samples: those of the open window, and what waits. max_frames: of a window.
    """

    def __init__(self, options: EndpointOptions) -> None:
        """Begin at frame 0."""
        self._options = options
        self.max_frames = int(options.max_window_s / vad.FRAME_S)
        self._pad_frames = round(options.pad_s / vad.FRAME_S)
        self._waiting = np.zeros(0, np.float32)  # not looked at yet
        self.samples = Tail(np.zeros(0, np.float32))
        self._power = Tail(np.zeros((0, len(vad.BAND_EDGES_HZ) - 1), np.float32))
        self._open = 0  # frame at which the open window begins
        self._ended = False

    @property
    def heard(self) -> int:
        """Samples that arrived."""
        return self.samples.end + len(self._waiting)

    def push(self, waveform: Waveform) -> None:
        """Take samples, float32 [n_samples]; nothing is decided yet."""
        self._waiting = np.concatenate([self._waiting, waveform])

    def advance(self) -> bool:
        """Look at the next step; False where it has not arrived."""
        step = STEP_FRAMES * HOP
        if len(self._waiting) < step:
            return False
        self.samples.append(self._waiting[:step])
        self._waiting = self._waiting[step:].copy()
        self._measure(self.samples.end // HOP - 1)
        return True

    def end(self) -> None:
        """Look at all the rest: nothing will come."""
        self._ended = True
        self.samples.append(self._waiting)
        self._waiting = np.zeros(0, np.float32)
        self._measure(-(-self.samples.end // HOP))

    def find(self) -> Region | None:
        """The first utterance in the open window, padded; cut where it is too long."""
        if not len(self._power.values):
            return None
        levels = vad.smooth_levels(self._power.values)
        if (
            self._ended
            and self._power.start == self._open == 0
            and len(levels) < vad.MIN_JUDGED_S / vad.FRAME_S
        ):
            return self._judge_short(levels)
        excess = vad.compute_excess(levels)
        thresholds = vad.compute_thresholds(excess)
        begin = self._open - self._power.start
        excess = excess[begin:]
        inside = vad.Thresholds(thresholds.on[begin:], thresholds.off[begin:])
        runs = vad.find_runs(excess, inside, self._options.min_speech_s, self._options.pause_s)
        return self._pad(*runs[0], excess) if runs else None

    def _pad(self, start: int, end: int, excess: vad.Levels) -> Region:
        first, last = max(start - self._pad_frames, 0), min(end + self._pad_frames, len(excess))
        paused = self._ended or len(excess) - end >= self._options.pause_s / vad.FRAME_S
        cut = last - first > self.max_frames
        if cut:
            whole_s = (first * vad.FRAME_S, last * vad.FRAME_S)
            windows = vad.split_windows([whole_s], excess, self._options.max_window_s)
            last = end = round(windows[0][1] / vad.FRAME_S)
        at = self._open
        return Region(first + at, last + at, start + at, end + at, paused or cut, paused and not cut)

    def _judge_short(self, levels: vad.Levels) -> Region | None:
        """Too short to tell a vowel from noise: speech unless it is silent, as in whole recordings."""
        long_enough = len(levels) * vad.FRAME_S >= self._options.min_speech_s
        if not long_enough or levels.max() <= vad.SILENCE_DB:
            return None
        return Region(0, len(levels), 0, len(levels), True, True)

    def close(self, region: Region) -> None:
        """Begin the next window behind a region."""
        self._forget(region.last)

    def forget_silence(self) -> None:
        """Forget what is long past and held no speech."""
        self._forget(self._power.end - round(UNDECIDED_S / vad.FRAME_S))

    def _forget(self, frame: int) -> None:
        self._open = max(self._open, frame)
        self.samples.drop(min(self._open, self._power.end) * HOP)
        self._power.drop(self._open - MEMORY_FRAMES)

    def _measure(self, end: int) -> None:
        """Compute the band power of frames up to `end`."""
        first = self._power.end
        if end > first:
            samples = self.samples.slice(first * HOP, (end + 1) * HOP)
            self._power.append(vad.compute_band_power(samples, end - first, HOP))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
