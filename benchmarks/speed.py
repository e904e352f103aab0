"""Speed that can be compared: seconds divided by the reference kernel's, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bootstrap import Floats, Interval, ratio_interval, trimmed_mean

CLOCKS = ("cpu", "wall")
WINDOW = 9  # utterances over which the reference is averaged: it is short, and a scheduler's slice is not


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How many times longer one run took than another, by one clock.

    Attributes:
        clock: "cpu" or "wall".
        ratio: 1.1 is ten percent slower; low and high include the noise between passes.
        noise_floor: by how much passes over the same data with the same code differ, the larger of
            the two runs; None with a single pass.
    """

    clock: str
    ratio: Interval
    noise_floor: float | None

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the ratio."""
        return math.sqrt(self.ratio.high / self.ratio.low) - 1


def pass_times(utterances: Sequence[Mapping[str, Any]], clock: str) -> Floats:
    """Times in units of the reference kernel: float64 [n_passes, n_utterances].

    Args:
        utterances: the `utterances` of a result file, all with the same number of passes.
        clock: "cpu" or "wall".
    """
    times = np.array([item[f"{clock}_s"] for item in utterances], dtype=np.float64).T
    reference = np.array([item[f"reference_{clock}_s"] for item in utterances], dtype=np.float64).T
    return np.maximum(times, 1e-9) / np.maximum(_smooth(reference), 1e-9)


def _smooth(rows: Floats) -> Floats:
    """Centred moving average along each row; shorter at the ends."""
    padded = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    n = rows.shape[1]
    start = np.maximum(np.arange(n) - WINDOW // 2, 0)
    stop = np.minimum(np.arange(n) + WINDOW // 2 + 1, n)
    smoothed: Floats = (padded[:, stop] - padded[:, start]) / (stop - start)
    return smoothed


def noise_floor(times: Floats) -> float | None:
    """The largest difference between two passes over the same data, as a share; None for one pass.

    Args:
        times: float64 [n_passes, n_utterances].
    """
    if len(times) < 2:
        return None
    logs = np.log(times)
    levels = trimmed_mean(logs - logs.mean(axis=0))
    return float(np.exp(levels.max() - levels.min()) - 1)


def compare_speed(
    current: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], clock: str
) -> Slowdown:
    """Compare two runs over the same utterances, in the same order.

    Resampling utterances does not see what changes between passes (frequency, neighbours, where
    memory came to lie), so the spread between passes widens the interval.
    """
    now, then = pass_times(current, clock), pass_times(baseline, clock)
    ratio = ratio_interval(np.median(now, axis=0), np.median(then, axis=0))
    floors = [(noise_floor(times), len(times)) for times in (now, then)]
    # A range over n passes, divided by sqrt(n), is a generous standard error of their middle.
    noise = math.hypot(*(math.log1p(floor) / math.sqrt(n) for floor, n in floors if floor is not None))
    known = [floor for floor, _ in floors if floor is not None]
    return Slowdown(clock, _widen(ratio, noise), max(known, default=None))


def _widen(ratio: Interval, noise: float) -> Interval:
    down = math.hypot(math.log(ratio.value / ratio.low), noise)
    up = math.hypot(math.log(ratio.high / ratio.value), noise)
    return Interval(ratio.value, ratio.value * math.exp(-down), ratio.value * math.exp(up), ratio.confidence)


def run_noise(utterances: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The noise floor of one run by each clock."""
    return {clock: noise_floor(pass_times(utterances, clock)) for clock in CLOCKS}
