"""Ctrl-C while something is live: what came before it is still worked through."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")


class Interrupt:
    """The first Ctrl-C stops a stream, after which it is still finished; the second one ends the program.

    Use as a context manager, in the main thread; in another thread it does nothing.
    """

    def __init__(self) -> None:
        """Nothing is stopped."""
        self.stopped, self._waiting = False, False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def waiting(self, source: Iterator[Item]) -> Iterator[Item]:
        """The same items; a Ctrl-C while the next one is waited for ends them, and so does one before."""
        while not self.stopped:
            item = None
            try:
                self._waiting = True
                item = next(source, None)
                self._waiting = False
            except KeyboardInterrupt:
                self.stopped, self._waiting = True, False
            if item is None:
                return
            yield item

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again, self.stopped = self.stopped, True
        if again or self._waiting:
            raise KeyboardInterrupt
