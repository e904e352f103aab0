"""Many recordings: groups that share work, and results in order, one recording's failure being its own.

A GPU encodes the regions of several files in one call, and a translator's step costs little more for
thirty sentences than for one; so files are gathered, within bounds on memory and on the wait for the
first result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.model import AcousticModel
from engine.errors import CancelledError, EngineError
from engine.jobs import longform
from engine.runtime.cancel import CancelToken
from engine.runtime.clock import StageClock
from engine.types import (
    Hypothesis,
    Progress,
    Transcript,
)

MAX_FILES: Final = 64
MAX_ENCODED_S: Final = 960.0  # audio that is held before a GPU sees it: 61 MB
MAX_TRANSLATED_S: Final = 240.0  # speech whose transcripts wait for each other

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio that is ready for the encoder.

    Attributes:
        waveform: float32 [n_samples]. regions: [(start_s, end_s)] of speech.
        clock: what reading it took.
        notes: what is wrong with it, or was chosen. channel: its number, from 1; None where all are mixed.
    """

    waveform: NDArray[np.float32]
    regions: list[tuple[float, float]]
    duration_s: float
    clock: StageClock
    notes: tuple[str, ...] = ()
    channel: int | None = None


def run_groups(
    items: Iterable[Item | EngineError],
    work: Callable[[Sequence[Item]], Sequence[Result]],
    duration_s: Callable[[Item], float],
    *,
    max_s: float,
    max_items: int = MAX_FILES,
) -> Iterator[Result | EngineError]:
    """Do work on many items at a time.

    Args:
        items: taken lazily, a group at a time; an error among them is passed on in its place.
        work: a group of items -> a result each. Where it fails, it is called once more for each item
            alone, so that only the item that is at fault has no result.
        duration_s: of an item.
        max_s: a group ends with the item that reaches this length.
    Yields:
        The results in the order of the items.
    Raises:
        CancelledError, and whatever work raises that is no EngineError.
    """
    group: list[Item | EngineError] = []
    gathered_s = 0.0
    for item in items:
        group.append(item)
        gathered_s += 0.0 if isinstance(item, EngineError) else duration_s(item)
        if len(group) >= max_items or gathered_s >= max_s:
            yield from _run_group(group, work)
            group, gathered_s = [], 0.0
    yield from _run_group(group, work)


def _run_group(
    group: Sequence[Item | EngineError], work: Callable[[Sequence[Item]], Sequence[Result]]
) -> Iterator[Result | EngineError]:
    good = [item for item in group if not isinstance(item, EngineError)]
    results = iter(_run_or_split(good, work))
    for item in group:
        yield item if isinstance(item, EngineError) else next(results)


def _run_or_split(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]
) -> Sequence[Result | EngineError]:
    if not items:
        return []
    try:
        return work(items)
    except CancelledError:
        raise
    except EngineError as error:
        if len(items) == 1:
            return [error]
        return [result for item in items for result in _run_or_split([item], work)]


def run_around_errors(
    items: Iterable[Item | EngineError],
    batch: Callable[[Iterable[Item]], Iterator[Result | EngineError]],
) -> Iterator[Result | EngineError]:
    """Call a batch on items some of which are errors already.

    Args:
        items: taken lazily.
        batch: takes the others, in order, and gives a result for each, in order.
    Yields:
        A result or an error for each item, in order.
    """
    taken: deque[EngineError | None] = deque()

    def others() -> Iterator[Item]:
        for item in items:
            if isinstance(item, EngineError):
                taken.append(item)
            else:
                taken.append(None)
                yield item

    for result in batch(others()):
        while (error := taken.popleft()) is not None:
            yield error
        yield result
    yield from (error for error in taken if error is not None)


def transcribe_together(
    recordings: Sequence[Recording], acoustic: AcousticModel,
    decode: Callable[[NDArray[np.float32]], Hypothesis], finish: longform.Finish, threads: int,
    progress: Progress | None = None, cancel: CancelToken | None = None,
) -> list[Transcript]:  # fmt: skip
    """Recognise recordings whose regions share the encoder's calls.

    Each transcript's stages are its share, by length, of what all of them took.
    """
    clock = StageClock()
    found = longform.transcribe_together(
        [(recording.waveform, recording.regions) for recording in recordings],
        clock.timed("features", acoustic.compute_features),
        clock.timed("encoder", lambda batch: acoustic.compute_log_probs_batch(batch, cancel)),
        clock.timed("decode", decode),
        sample_rate=acoustic.sample_rate,
        threads=threads,
        finish=clock.timed("punctuate", finish),
        progress=progress,
    )
    total_s = sum(recording.duration_s for recording in recordings) or 1.0
    results = []
    for recording, segments in zip(recordings, found, strict=True):
        stages = {**recording.clock.seconds(), **clock.seconds(recording.duration_s / total_s)}
        results.append(Transcript(segments, recording.duration_s, stages_s=stages, warnings=recording.notes))
    return results
