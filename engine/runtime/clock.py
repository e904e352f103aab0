"""Where the time of a call goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


class StageClock:
    """Seconds by stage, summed over threads."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add what the block takes to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

    def seconds(self, share: float = 1.0) -> Mapping[str, float]:
        """The sums so far; or a share of them, where several recordings were worked on together."""
        return {stage: share * seconds for stage, seconds in self._seconds.items()}

    def timed(self, stage: str, function: Callable[[Value], Result]) -> Callable[[Value], Result]:
        """The function, with its time added to a stage."""

        def run(value: Value) -> Result:
            with self.time(stage):
                return function(value)

        return run
