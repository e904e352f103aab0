"""Ending a call from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from engine.errors import CancelledError


class CancelToken:
    """Set from any thread to end running and later session calls; the buffers outlive the call.

    Raises CancelledError in the call that it stops.

    Attributes:
        cores: that the call may use now; None where nobody else wants them.
    """

    cores: int | None = None

    def __init__(self, parent: CancelToken | None = None) -> None:
        """Make a token.

        Args:
            parent: where it is cancelled, so is this one; not the other way round.
        """
        self._parent = parent
        self._event = threading.Event()
        self._running: set[Any] = set()
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether cancel() was called, on this token or its parent."""
        return self._event.is_set() or (self._parent is not None and self._parent.cancelled)

    def cancel(self) -> None:
        """Ask every call that holds this token to stop."""
        self._event.set()
        with self._lock:
            for call in self._running:
                call.terminate = True

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError once cancel() was called."""
        if self.cancelled:
            raise CancelledError("the call was cancelled")

    @contextmanager
    def ending(self, call: Any) -> Iterator[None]:
        """While the block runs, cancel() sets `call.terminate`: how a library's call under way is ended."""
        with self._lock:
            self._running.add(call)
        if self.cancelled:
            call.terminate = True
        try:
            with nullcontext() if self._parent is None else self._parent.ending(call):
                yield
        finally:
            with self._lock:
                self._running.discard(call)
