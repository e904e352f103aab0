"""All sessions of a service: a bounded number, and the threads that work for them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import EngineError
from engine.serve.errors import BusyError
from engine.serve.settings import ServeSettings

if TYPE_CHECKING:
    from engine.serve.realtime.session import Session

Result = TypeVar("Result")


class Sessions:
    """Sessions that are open. Touched on the event loop only.

    Each computes on one thread at a time, where it mostly waits for a core: the scheduler of the model says
    which of them go first.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._most = settings.realtime_sessions
        self._open: set[Session] = set()
        self._pool = ThreadPoolExecutor(max(self._most, 1), thread_name_prefix="engine-realtime")
        self._lock = threading.Lock()
        self.n_running = 0  # jobs on threads

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Refuse a session before it is opened.

        Raises:
            BusyError: as many are open as this service takes.
        """
        if len(self._open) >= self._most:
            raise BusyError(
                f"{len(self._open)} sessions are open", f"fewer than {self._most}", "try again in a moment"
            )

    @contextmanager
    def admit(self, session: Session) -> Iterator[None]:
        """Count a session until it ends.

        Raises:
            BusyError: as many are open as this service takes.
        """
        self.check_room()
        self._open.add(session)
        try:
            yield
        finally:
            self._open.discard(session)

    async def run(self, job: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function on a thread.

        Raises:
            Whatever it raises.
        """
        loop = asyncio.get_running_loop()

        def call() -> Result:
            with self._counted():
                return job(*arguments)

        return await loop.run_in_executor(self._pool, contextvars.copy_context().run, call)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.n_running += 1
        try:
            yield
        finally:
            with self._lock:
                self.n_running -= 1

    def drain(self, why: EngineError) -> None:
        """Have every session finish what it has taken."""
        for session in list(self._open):
            session.end(why)

    def end_all(self, why: EngineError) -> None:
        """Have every session end at once."""
        for session in list(self._open):
            session.abort(why)

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wait(self, seconds: float) -> bool:
        """Wait for work under way to end; whether all did."""
        last_s = time.monotonic() + seconds
        while self.n_running and time.monotonic() < last_s:
            time.sleep(0.02)
        return not self.n_running
