"""Where speech is: an adaptive energy detector that would rather keep noise than lose a word.

Each of five bands is compared with its own noise floor, so that a vowel shows through hiss and an "s"
through hum. Floor and thresholds follow the recording over some seconds. A recogniser that hears no
speech in noise writes nothing; speech that was cut away is lost: recall comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.runtime.cancel import CancelToken

Levels = NDArray[np.float32]
Waveform = NDArray[np.float32]

FRAME_S: Final = 0.01
BAND_EDGES_HZ: Final = (150, 500, 1000, 2000, 3500, 8000)  # voicing, vowels, fricatives
SMOOTHING_FRAMES: Final = 5
SILENCE_DB: Final = -95.0  # of a band: digital silence or the dither of 16 bits
BLOCK_FRAMES: Final = 100  # the noise floor and the speech level are read once a second
CONTEXT_BLOCKS: Final = 10  # ... and hold for this many seconds on either side
FLOOR_RANK: Final = 10  # of the frames of a block, in order of their level
SPEECH_RANK: Final = 90
MIN_SPEECH_S: Final = 0.08  # less sound than this is a click
MIN_PAUSE_S: Final = 1.0
PAD_S: Final = 0.3
MIN_JUDGED_S: Final = 0.5  # too short to tell a vowel from noise: kept unless silent
MIN_RANGE_DB: Final = 5.0  # a steady noise varies less
MAX_RANGE_DB: Final = 45.0  # weak fricatives lie about 40 dB below loud vowels
QUIET_S: Final = 0.2  # a cut wants a quiet stretch of this length around it
ROUNDING_S: Final = 1e-3  # a window in samples is not longer than the one in seconds
CHUNK_FRAMES: Final = 40 * BLOCK_FRAMES  # between two looks at the caller's wish to stop


class Thresholds(NamedTuple):
    """Levels in dB, float32 [n_frames] each: speech begins above `on` and lasts while above `off`."""

    on: Levels
    off: Levels


def detect_speech(
    waveform: Waveform,
    *,
    sample_rate: int = 16_000,
    max_window_s: float = 28.0,
    min_speech_s: float = MIN_SPEECH_S,
    min_pause_s: float = MIN_PAUSE_S,
    pad_s: float = PAD_S,
    cancel: CancelToken | None = None,
) -> list[tuple[float, float]]:
    """Find the stretches of a recording that hold speech.

    Args:
        waveform: float32 [n_samples], mono, [-1, 1], at sample_rate Hz.
        max_window_s: no stretch is longer; a longer one is cut at its quietest points.
        min_speech_s: stretches with less sound than this are clicks and are dropped.
        min_pause_s: shorter pauses stay inside a stretch.
        pad_s: kept before and after each stretch.
        cancel: ends the call from another thread.
    Returns:
        [(start_s, end_s)] in order, without overlap, inside the recording; empty where
        there is only silence or steady noise.
    Raises:
        CancelledError: cancel was set.
    """
    if not len(waveform):
        return []
    duration_s = len(waveform) / sample_rate
    band_levels = compute_band_levels(waveform, sample_rate, cancel)
    if duration_s < MIN_JUDGED_S:
        return [(0.0, duration_s)] if band_levels.max() > SILENCE_DB else []
    levels = compute_excess(band_levels, cancel)
    thresholds = compute_thresholds(levels, cancel)
    regions = find_regions(levels, thresholds, duration_s, min_speech_s, min_pause_s, pad_s)
    return split_windows(regions, levels, max_window_s - ROUNDING_S)


def find_regions(
    levels: Levels,
    thresholds: Thresholds,
    duration_s: float,
    min_speech_s: float = MIN_SPEECH_S,
    min_pause_s: float = MIN_PAUSE_S,
    pad_s: float = PAD_S,
) -> list[tuple[float, float]]:
    """Runs of frames with speech, padded: [(start_s, end_s)]; see detect_speech and find_runs."""
    regions: list[tuple[float, float]] = []
    for start, end in find_runs(levels, thresholds, min_speech_s, min_pause_s):
        start_s = max(start * FRAME_S - pad_s, regions[-1][1] if regions else 0.0)
        regions.append((start_s, min(end * FRAME_S + pad_s, duration_s)))
    return regions


def compute_band_levels(waveform: Waveform, sample_rate: int, cancel: CancelToken | None = None) -> Levels:
    """Compute the level of each band in each 10 ms frame, smoothed over 50 ms.

    Args:
        waveform: float32 [n_samples].
        cancel: looked at every 40 s of audio, as in all functions here that take it.
    Returns:
        float32 [n_frames, n_bands], dB relative to full scale, n_frames = ceil(n_samples / hop).
    """
    hop = max(1, round(sample_rate * FRAME_S))
    n_frames = -(-len(waveform) // hop)
    power = np.empty((n_frames, len(BAND_EDGES_HZ) - 1), np.float32)
    for part in _parts(n_frames, cancel):
        samples = waveform[part.start * hop : (part.stop + 1) * hop]
        power[part] = compute_band_power(samples, part.stop - part.start, hop)
    return smooth_levels(power, cancel)


def _parts(n_frames: int, cancel: CancelToken | None) -> Iterator[slice]:
    """All frames, so many at a time, unless the caller wants to stop."""
    for first in range(0, n_frames, CHUNK_FRAMES):
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield slice(first, min(first + CHUNK_FRAMES, n_frames))


def smooth_levels(power: Levels, cancel: CancelToken | None = None) -> Levels:
    """Average power over 50 ms and take its logarithm; float32 [n_frames, n_bands] -> dB, same shape."""
    n_frames = len(power)
    sums = np.zeros((n_frames + 1, power.shape[1]), np.float64)
    for part in _parts(n_frames, cancel):
        sums[part.start + 1 : part.stop + 1] = power[part]
        np.cumsum(sums[part.start : part.stop + 1], axis=0, out=sums[part.start : part.stop + 1])
    levels = np.empty(power.shape, np.float32)
    for part in _parts(n_frames, cancel):
        frames = np.arange(part.start, part.stop)
        low = np.maximum(frames - SMOOTHING_FRAMES // 2, 0)
        high = np.minimum(frames + SMOOTHING_FRAMES // 2 + 1, n_frames)
        smooth = (sums[high] - sums[low]) / (high - low)[:, None]
        levels[part] = 10 * np.log10(np.maximum(smooth, 1e-12))
    return levels


def compute_band_power(samples: Waveform, n_frames: int, hop: int) -> NDArray[np.float32]:
    """Power in each band of n_frames half-overlapping frames, float32 [n_frames, n_bands]."""
    padded = np.zeros((n_frames + 1) * hop, np.float32)
    padded[: len(samples)] = samples
    window = np.hanning(2 * hop).astype(np.float32) / np.float32(hop)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop] * window
    spectrum = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = np.round(np.array(BAND_EDGES_HZ) * 2 * FRAME_S).astype(int)
    edges = np.minimum(edges, spectrum.shape[1])
    return np.stack([spectrum[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)


def compute_excess(levels: Levels, cancel: CancelToken | None = None) -> Levels:
    """Compute how far each frame rises above the noise around it.

    Args:
        levels: float32 [n_frames, n_bands], dB, from compute_band_levels.
    Returns:
        float32 [n_frames], dB: the root-mean-square ratio over the bands, 0 at the noise floor.
    """
    quiet, loud = _ranked(levels, (FLOOR_RANK, SPEECH_RANK), cancel, least=SILENCE_DB)
    floor, level = _around(quiet, np.minimum), _around(loud, np.maximum)
    floor = np.maximum(floor, level - MAX_RANGE_DB)  # edited-in silence is no noise floor
    excess = np.empty(len(levels), np.float32)
    for part in _parts(len(levels), cancel):
        above = np.maximum(levels[part] - floor[_block_of(part)], 0.0)
        excess[part] = 5 * np.log10(np.mean(10 ** (above / 5), axis=1))
    return excess


def compute_thresholds(excess: Levels, cancel: CancelToken | None = None) -> Thresholds:
    """Place the two thresholds between the noise floor and the level of speech around each frame.

    Args:
        excess: float32 [n_frames], dB, from compute_excess.
    Returns:
        Thresholds; infinite where the signal is silent or varies too little to be speech.
    """
    (loud,) = _ranked(excess, (SPEECH_RANK,), cancel)
    level = _around(loud, np.maximum)
    on, off = np.clip(0.35 * level, 3.0, 12.0), np.clip(0.2 * level, 2.0, 8.0)
    on[level < MIN_RANGE_DB] = off[level < MIN_RANGE_DB] = np.inf
    each = _block_of(slice(0, len(excess)))
    return Thresholds(on[each].astype(np.float32), off[each].astype(np.float32))


def _ranked(
    values: Levels, ranks: Sequence[int], cancel: CancelToken | None, least: float = -np.inf
) -> list[Levels]:
    """What stands at each rank of each block, float32 [n_blocks, ...]; no value counts as below `least`."""
    found: list[list[Levels]] = [[] for _ in ranks]
    for part in _parts(len(values), cancel):
        blocks = _blocks(np.maximum(values[part], np.float32(least)))
        for rank, of_rank in zip(ranks, found, strict=True):
            of_rank.append(np.partition(blocks, rank, axis=1)[:, rank])
    return [np.concatenate(each) for each in found]


def _blocks(values: Levels) -> Levels:
    """Frames in blocks of one second, [n_blocks, BLOCK_FRAMES, ...]; the last frame fills the end."""
    missing = -len(values) % BLOCK_FRAMES
    padded = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
    return padded.reshape(-1, BLOCK_FRAMES, *values.shape[1:])


def _block_of(part: slice) -> NDArray[np.intp]:
    """The block of each frame."""
    return np.arange(part.start, part.stop) // BLOCK_FRAMES


def _around(values: Levels, extreme: np.ufunc) -> Levels:
    """The extreme of each block's neighbourhood, of the same shape."""
    padded = np.concatenate([values[:1]] * CONTEXT_BLOCKS + [values] + [values[-1:]] * CONTEXT_BLOCKS)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT_BLOCKS + 1, axis=0)
    return np.asarray(extreme.reduce(windows, axis=-1))


def find_runs(
    excess: Levels, thresholds: Thresholds, min_speech_s: float, min_pause_s: float
) -> list[tuple[int, int]]:
    """Runs of frames above `off`, joined over short pauses, that hold enough frames above `on`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], excess > thresholds.off, [False]])))
    starts, ends = edges[0::2], edges[1::2]
    if not len(starts):
        return []
    pauses = np.flatnonzero(starts[1:] - ends[:-1] >= min_pause_s / FRAME_S)
    starts = starts[np.concatenate([[0], pauses + 1])]
    ends = ends[np.concatenate([pauses, [len(ends) - 1]])]
    n_on = np.concatenate([[0], np.cumsum(excess > thresholds.on)])
    loud = n_on[ends] - n_on[starts] >= min_speech_s / FRAME_S
    return [(int(start), int(end)) for start, end in zip(starts[loud], ends[loud], strict=True)]


def split_windows(
    regions: list[tuple[float, float]], levels: Levels, max_window_s: float
) -> list[tuple[float, float]]:
    """Cut regions longer than max_window_s at their quietest points.

    Args:
        regions: [(start_s, end_s)] in order.
        levels: float32 [n_frames], dB, from compute_excess.
    Returns:
        [(start_s, end_s)]; the parts of a region touch each other.
    """
    quiet = np.convolve(levels, np.ones(max(1, round(QUIET_S / FRAME_S))), "same") if len(levels) else levels
    windows: list[tuple[float, float]] = []
    for start_s, end_s in regions:
        while end_s - start_s > max_window_s:
            cut_s = _quietest(quiet, start_s, end_s, max_window_s)
            windows.append((start_s, cut_s))
            start_s = cut_s
        windows.append((start_s, end_s))
    return windows


def join_regions(
    regions: Sequence[tuple[float, float]], max_window_s: float, max_pause_s: float
) -> list[tuple[float, float]]:
    """Join neighbours, so that what hears them knows what was said before.

    Args:
        regions: [(start_s, end_s)] in order.
        max_window_s: no joined region is longer. max_pause_s: regions further apart stay apart.
    """
    joined: list[tuple[float, float]] = []
    for start_s, end_s in regions:
        near = joined and start_s - joined[-1][1] <= max_pause_s
        if near and end_s - joined[-1][0] <= max_window_s:
            joined[-1] = (joined[-1][0], end_s)
        else:
            joined.append((start_s, end_s))
    return joined


def _quietest(quiet: NDArray[np.floating], start_s: float, end_s: float, max_window_s: float) -> float:
    """Where to end a window that begins at start_s; leaves no scrap behind when one cut is enough."""
    rest_s = end_s - start_s - max_window_s
    earliest_s = max(rest_s, 0.3 * max_window_s) if rest_s < max_window_s else 0.5 * max_window_s
    latest_s = min(max_window_s, end_s - start_s - 0.2 * max_window_s)
    first, last = round((start_s + earliest_s) / FRAME_S), int((start_s + latest_s) / FRAME_S)
    if last <= first or first >= len(quiet):
        return start_s + max_window_s
    cut_s = (first + int(np.argmin(quiet[first:last]))) * FRAME_S
    return min(max(cut_s, start_s + FRAME_S), start_s + max_window_s)
