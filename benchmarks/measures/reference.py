"""A fixed piece of work, timed beside every measurement, that says how fast the machine is just now.

Seconds mean little on a shared machine, and nothing on another one. Divided by the time of the
reference kernel, measured a moment before in the same process, they can be compared: a machine that
is twice as slow, or that lends half of its memory bandwidth to a neighbour, slows both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

# The shares of compute and memory traffic resemble those of an encoder whose weights come from the
# last-level cache: neither a pure multiply loop nor a pure copy slows down as it does.
FFT_SIZE = 4096
FFT_ROWS = 10
EXP_SIZE = 1 << 17
SORT_SIZE = 1 << 15
STREAM_SIZE = 1 << 20  # float32: 4 MiB, past a core's own caches, yet not the whole shared one
PARTS = ("fft", "exp", "sort", "stream")
KERNEL_VERSION = "fft+exp+sort+stream/2"


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment on two clocks, or a span between two moments, in seconds.

    Attributes:
        wall_s: real time.
        cpu_s: time that the cores spent on this process, all threads together.
    """

    wall_s: float
    cpu_s: float

    def __sub__(self, earlier: Clock) -> Clock:
        return Clock(self.wall_s - earlier.wall_s, self.cpu_s - earlier.cpu_s)


def now() -> Clock:
    """This moment."""
    return Clock(time.perf_counter(), time.process_time())


class ReferenceKernel:
    """The work itself; single-threaded, and the same bytes every time."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._waves = random.standard_normal((FFT_ROWS, FFT_SIZE)).astype(np.float32)
        self._exponents = random.standard_normal(EXP_SIZE).astype(np.float32)
        self._keys = random.integers(0, 1 << 30, SORT_SIZE)
        self._source = random.standard_normal(STREAM_SIZE).astype(np.float32)
        self._target = np.empty_like(self._source)
        for _ in range(3):  # page faults and the first plan of the FFT are not the machine's speed
            self.run()

    def run(self) -> dict[str, Clock]:
        """Do the work once.

        Returns:
            The time of each part: fft (arithmetic), exp (vector units), sort (branches), stream (memory).
        """
        parts = {}
        for name in PARTS:
            start = now()
            getattr(self, f"_{name}")()
            parts[name] = now() - start
        return parts

    def _fft(self) -> None:
        np.abs(np.fft.rfft(self._waves, axis=1)).sum()

    def _exp(self) -> None:
        np.exp(self._exponents).sum()

    def _sort(self) -> None:
        np.sort(self._keys)

    def _stream(self) -> None:
        np.multiply(self._source, 1.0001, out=self._target)


def time_reference(kernel: ReferenceKernel, runs: int) -> dict[str, Clock]:
    """The mean time of each part.

    The mean, not the best: time lost to neighbours is just what has to be seen here too.
    """
    every = [kernel.run() for _ in range(runs)]
    return {
        name: Clock(sum(r[name].wall_s for r in every) / runs, sum(r[name].cpu_s for r in every) / runs)
        for name in PARTS
    }
