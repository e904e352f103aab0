"""Hour-long audio: regions recognised by a pool of threads, put in order, cut into sentence-like segments.

Memory is the waveform plus one window a thread, whatever the length of the recording.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.errors import CancelledError, EngineError, OptionError
from engine.runtime.cancel import CancelToken
from engine.types import Hypothesis, Progress, Segment, Word

SEGMENT_PAUSE_S: Final = 0.8  # speakers pause this long between sentences, rarely inside one
CERTAIN_PAUSE_S: Final = 2.0  # ends a segment even after a single word
MIN_SEGMENT_WORDS: Final = 3  # a shorter part before or after a pause is a hesitation
MAX_SEGMENT_WORDS: Final = 40  # what the translator still takes as one sentence
QUEUED_PER_THREAD: Final = 2

Item = TypeVar("Item")
Result = TypeVar("Result")
Array = NDArray[np.float32]
Recognise = Callable[[NDArray[np.float32]], Hypothesis]
Finish = Callable[[list[Word]], list[Word]]


def transcribe_regions(  # noqa: PLR0913  - each by keyword
    waveform: NDArray[np.float32],
    regions: Sequence[tuple[float, float]],
    recognise: Recognise,
    *,
    sample_rate: int = 16_000,
    threads: int = 1,
    finish: Finish = list,
    progress: Progress | None = None,
    partial: Callable[[Sequence[Word]], None] | None = None,
    cancel: CancelToken | None = None,
) -> tuple[Segment, ...]:
    """Recognise regions of a recording.

    Args:
        waveform: float32 [n_samples], mono, at sample_rate Hz.
        regions: [(start_s, end_s)] in order, as detect_speech or fixed_windows give them.
        recognise: waveform of one region -> Hypothesis with times relative to it; called from
            several threads at once.
        threads: regions worked on at a time.
        finish: all words of the recording -> the same words as they are to be read.
        progress: called in this thread with (done_s, total_s) of the recording.
        partial: called in this thread with the words so far, after each region.
        cancel: ends the work between two regions; recognise may watch it as well.
    Returns:
        Segments in order of time, cut at pauses, each with words, times in the recording and
        the mean of its words' confidences. Empty where nothing was recognised.
    Raises:
        CancelledError: cancel was set. Whatever recognise raises, at the first region that fails.
    """

    def words_of(region: tuple[float, float]) -> list[Word]:
        if cancel is not None:
            cancel.raise_if_cancelled()
        start, end = (round(edge_s * sample_rate) for edge_s in region)
        return shift_words(recognise(waveform[start:end]).words, start / sample_rate)

    total_s = len(waveform) / sample_rate
    words: list[Word] = []
    results = _map_ordered(words_of, regions, min(threads, len(regions)))
    for region, result in zip(regions, results, strict=True):
        words.extend(result)
        if partial is not None:
            partial(words)
        if progress is not None:
            progress(min(region[1], total_s), total_s)
    if cancel is not None:
        cancel.raise_if_cancelled()
    if progress is not None:
        progress(total_s, total_s)
    return split_segments(finish(words))


def transcribe_together(
    recordings: Sequence[tuple[Array, Sequence[tuple[float, float]]]],
    compute_features: Callable[[Array], Array],
    encode: Callable[[list[Array]], list[Array]],
    decode: Callable[[Array], Hypothesis],
    *,
    sample_rate: int = 16_000,
    threads: int = 1,
    finish: Finish = list,
    progress: Progress | None = None,
) -> list[tuple[Segment, ...]]:
    """Recognise the regions of recordings where the encoder takes many at once, as on a GPU.

    Args:
        recordings: waveform and regions of each, as for transcribe_regions; sample_rate too.
        encode: features of all regions -> emissions of each.
        threads: features and hypotheses worked on at a time.
        finish: as for transcribe_regions, for each recording.
        progress: called with (done_s, total_s) of all recordings.
    Returns:
        Segments of each recording.
    """
    windows = [
        waveform[round(start * sample_rate) : round(end * sample_rate)]
        for waveform, regions in recordings
        for start, end in regions
    ]
    features = list(_map_ordered(compute_features, windows, threads))
    found = _map_ordered(decode, encode(features), threads)
    lengths_s = [len(waveform) / sample_rate for waveform, _ in recordings]
    total_s, before_s, results = sum(lengths_s), 0.0, []
    for (_, regions), length_s in zip(recordings, lengths_s, strict=True):
        words: list[Word] = []
        for start, end in regions:
            words.extend(shift_words(next(found).words, round(start * sample_rate) / sample_rate))
            if progress is not None:
                progress(before_s + min(end, length_s), total_s)
        before_s += length_s
        results.append(split_segments(finish(words)))
    if progress is not None:
        progress(total_s, total_s)
    return results


def run_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int = 1,
    cancel: CancelToken | None = None,
) -> Iterator[Result | EngineError]:
    """Apply a function to many items with some threads, and yield the results in order.

    Args:
        items: taken lazily, a few ahead of the results.
        cancel: ends all of it, between two items; function may watch it as well.
    Yields:
        A result, or the EngineError that the item raised.
    Raises:
        CancelledError: cancel was set. Whatever function raises that is no EngineError.
    """

    def guarded(item: Item) -> Result | EngineError:
        if cancel is not None:
            cancel.raise_if_cancelled()
        try:
            return function(item)
        except CancelledError:
            raise
        except EngineError as error:
            return error

    return _map_ordered(guarded, items, threads)


def fixed_windows(duration_s: float, *, max_window_s: float) -> list[tuple[float, float]]:
    """Cut a recording into the fewest windows of equal length.

    Returns:
        [(start_s, end_s)] that touch each other and cover all of it; empty for no audio.
    Raises:
        OptionError: max_window_s is not above zero.
    """
    if not max_window_s > 0:
        raise OptionError(f"windows of {max_window_s} s", "a length above zero", "raise max_window_s")
    n_windows = math.ceil(duration_s / max_window_s)
    edges_s = [duration_s * i / n_windows for i in range(n_windows)] + [duration_s]
    return [(edges_s[i], edges_s[i + 1]) for i in range(n_windows)]


def shift_words(words: Iterable[Word], offset_s: float) -> list[Word]:
    """The same words, offset_s seconds later."""
    return [replace(word, start_s=word.start_s + offset_s, end_s=word.end_s + offset_s) for word in words]


def split_segments(
    words: Sequence[Word],
    *,
    pause_s: float = SEGMENT_PAUSE_S,
    max_words: int = MAX_SEGMENT_WORDS,
) -> tuple[Segment, ...]:
    """Cut a stream of words into sentence-like segments.

    Args:
        words: in order of time.
        pause_s: a silence of this length ends a segment, unless that would leave fewer than
            MIN_SEGMENT_WORDS on one side of it; CERTAIN_PAUSE_S always does.
        max_words: a longer segment is cut at the longest pause well inside it.
    Returns:
        Segments that hold every word exactly once, in order.
    """
    parts: list[Sequence[Word]] = []
    for part in _split_at_pauses(words, pause_s):
        parts.extend(_split_long(part, max(2, max_words)))
    return tuple(make_segment(part) for part in parts)


def make_segment(words: Sequence[Word]) -> Segment:
    """Join at least one word to a segment."""
    confidence = sum(word.confidence for word in words) / len(words)
    text = " ".join(word.text for word in words)
    return Segment(text, words[0].start_s, words[-1].end_s, tuple(words), confidence)


def _split_at_pauses(words: Sequence[Word], pause_s: float) -> list[Sequence[Word]]:
    certain = _cut(words, [i for i in range(1, len(words)) if _pause(words, i) >= CERTAIN_PAUSE_S])
    parts: list[Sequence[Word]] = []
    for part in certain:
        cuts: list[int] = []
        for i in range(1, len(part)):
            long_enough = i - (cuts[-1] if cuts else 0) >= MIN_SEGMENT_WORDS
            if _pause(part, i) >= pause_s and long_enough and len(part) - i >= MIN_SEGMENT_WORDS:
                cuts.append(i)
        parts.extend(_cut(part, cuts))
    return parts


def _split_long(words: Sequence[Word], max_words: int) -> list[Sequence[Word]]:
    if len(words) <= max_words:
        return [words]
    margin = max(1, len(words) // 4)
    at = max(range(margin, len(words) - margin + 1), key=lambda i: _pause(words, i))
    return _split_long(words[:at], max_words) + _split_long(words[at:], max_words)


def _pause(words: Sequence[Word], i: int) -> float:
    return words[i].start_s - words[i - 1].end_s


def _cut(words: Sequence[Word], cuts: list[int]) -> list[Sequence[Word]]:
    edges = [0, *cuts, len(words)]
    return [words[a:b] for a, b in pairwise(edges) if b > a]


def _map_ordered(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    if threads <= 1:
        yield from map(function, items)
        return
    with _pool(threads) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= threads * QUEUED_PER_THREAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that on an error, or when its consumer leaves, starts nothing that still waits."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
