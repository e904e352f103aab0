"""Speed that can be compared: seconds divided by the reference kernel's, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measures.bootstrap import Floats, Interval, ratio_interval, trimmed_mean
from benchmarks.measures.reference import PARTS

CLOCKS = ("cpu", "wall")
TINY_S = 1e-9
# Whoever had the core meanwhile leaves cold caches behind, which cost CPU time too, and not the same for all
# code: seen as shifts of some 5 % between runs on cores that two processes wanted (a waiting share of 1).
COLD_CACHES = 0.05
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12)
WINDOW = 9  # utterances over which the reference is averaged: it is short, and a scheduler's slice is not


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How many times longer one run took than another, by one clock.

    Attributes:
        clock: "cpu" or "wall".
        ratio: 1.1 is ten percent slower; low and high include the noise between passes.
        noise_floor: by how much passes over the same data with the same code differ, the larger of
            the two runs; None with a single pass.
        waiting: by how much the reference kernel's wall time exceeds its CPU time, as a share, the
            larger of the two runs. It never waits by itself: others had the core meanwhile.
    """

    clock: str
    ratio: Interval
    noise_floor: float | None
    waiting: float

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
    reference = reference_parts(utterances, clock).sum(axis=0)
    return np.maximum(times, TINY_S) / np.maximum(_smooth(reference), TINY_S)


def reference_parts(utterances: Sequence[Mapping[str, Any]], clock: str) -> Floats:
    """Times of the reference kernel's parts: float64 [n_parts, n_passes, n_utterances]."""
    rows = [[item[f"reference_{clock}_s"][name] for name in PARTS] for item in utterances]
    return np.maximum(np.moveaxis(np.array(rows, dtype=np.float64), 0, -1), TINY_S)


def _smooth(rows: Floats) -> Floats:
    """Centred moving average along each row; shorter at the ends."""
    padded = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    n = rows.shape[1]
    start = np.maximum(np.arange(n) - WINDOW // 2, 0)
    stop = np.minimum(np.arange(n) + WINDOW // 2 + 1, n)
    smoothed: Floats = (padded[:, stop] - padded[:, start]) / (stop - start)
    return smoothed


def pass_levels(times: Floats) -> Floats:
    """How slow each pass was against the mean of all passes: natural-log, float64 [n_passes].

    Args:
        times: float64 [n_passes, n_utterances].
    """
    logs = np.log(times)
    return trimmed_mean(logs - logs.mean(axis=0))


def noise_floor(times: Floats) -> float | None:
    """The largest difference between two passes over the same data, as a share; None for one pass."""
    if len(times) < 2:
        return None
    return float(np.exp(np.ptp(pass_levels(times))) - 1)


def compare_speed(
    current: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], clock: str
) -> Slowdown:
    """Compare two runs over the same utterances, in the same order.

    Resampling utterances does not see what changes between passes (frequency, neighbours, where
    memory came to lie), nor that the reference kernel corrects only roughly for a machine that has
    changed its speed, nor what others on the same core do to its caches; all of it widens the interval.
    """
    now, then = pass_times(current, clock), pass_times(baseline, clock)
    ratio = ratio_interval(np.median(now, axis=0), np.median(then, axis=0))
    floors = [floor for floor in (noise_floor(now), noise_floor(then)) if floor is not None]
    waiting = max(waiting_share(current), waiting_share(baseline))
    noise = math.hypot(
        _pass_noise(now, then), correction_error(current, baseline, clock), COLD_CACHES * waiting
    )
    return Slowdown(clock, _widen(ratio, noise), max(floors, default=None), waiting)


def waiting_share(utterances: Sequence[Mapping[str, Any]]) -> float:
    """Time that the reference kernel stood in the scheduler's queue, as a share of its CPU time."""
    wall, cpu = (float(reference_parts(utterances, clock).sum()) for clock in ("wall", "cpu"))
    return max(wall / cpu - 1, 0.0)


def _pass_noise(now: Floats, then: Floats) -> float:
    """Half the 95 % interval of the difference of two means of passes, by Student's t; 0 if unknown."""
    degrees = len(now) + len(then) - 2
    if not degrees:
        return 0.0
    squares = sum(float(np.sum((levels - levels.mean()) ** 2)) for levels in map(pass_levels, (now, then)))
    error = math.sqrt(squares / degrees * (1 / len(now) + 1 / len(then)))
    return STUDENT_T[min(degrees, len(STUDENT_T)) - 1] * error


def correction_error(
    current: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], clock: str
) -> float:
    """How far the correction for a faster or slower machine can be off, as a natural log.

    A neighbour that fills the memory bus slows the reference's parts unequally. If they do not agree
    on how much slower the machine has become, it is not known for the program either: the error is
    the mean distance of the parts from what they say together, each by its share of the time. A part
    that takes little time counts little; such a one changes by 15 % with where its memory came to lie.
    """
    now, then = (np.median(reference_parts(rows, clock), axis=(1, 2)) for rows in (current, baseline))
    shares = (now / now.sum() + then / then.sum()) / 2
    changes = np.log(now / then)
    return float(shares @ np.abs(changes - shares @ changes))


def _widen(ratio: Interval, noise: float) -> Interval:
    down = math.hypot(math.log(ratio.value / ratio.low), noise)
    up = math.hypot(math.log(ratio.high / ratio.value), noise)
    return Interval(ratio.value, ratio.value * math.exp(-down), ratio.value * math.exp(up), ratio.confidence)


def run_noise(utterances: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The noise floor of one run by each clock."""
    return {clock: noise_floor(pass_times(utterances, clock)) for clock in CLOCKS}
