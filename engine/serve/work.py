"""Requests and threads: a bounded number of both, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from engine.errors import CancelledError, EngineError
from engine.runtime.cancel import CancelToken

DISCONNECT_POLL_S: Final = 0.1
Result = TypeVar("Result")


class BusyError(EngineError, RuntimeError):
    """The service has as many requests as it takes."""


class WorkQueue:
    """Runs jobs on a few threads and refuses what would wait too long."""

    def __init__(self, max_running: int, max_pending: int) -> None:
        self.max_pending = max(max_pending, 1)
        self.pending = 0  # touched on the event loop only
        self._pool = ThreadPoolExecutor(max_running, thread_name_prefix="engine-serve")
        self._running: dict[int, tuple[float, CancelToken]] = {}
        self._ids = itertools.count()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request from its first byte to its answer.

        Raises:
            BusyError: the queue is full.
        """
        if self.pending >= self.max_pending:
            raise BusyError(
                f"{self.pending} requests are in work or waiting",
                f"fewer than {self.max_pending}",
                "try again in a moment",
            )
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    async def run(
        self, job: Callable[[CancelToken], Result], is_disconnected: Callable[[], Awaitable[bool]]
    ) -> Result:
        """Run a job on a thread and cancel it when its client leaves.

        Raises:
            CancelledError: the client left. BusyError: the server ends. Whatever the job raises.
        """
        token = CancelToken()
        future = self._pool.submit(self._timed, job, token)
        waiting = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait({waiting}, timeout=DISCONNECT_POLL_S))[0]:
                if not token.cancelled and await is_disconnected():
                    token.cancel()
                    if future.cancel():
                        raise CancelledError("the client left before its turn")
            return waiting.result()
        except asyncio.CancelledError:  # by the server, whose time to end is over
            raise BusyError(
                "the service is shutting down", "a service that runs", "try again in a moment"
            ) from None
        finally:
            token.cancel()  # the server may be shutting down; harmless after the end

    def longest_s(self) -> float:
        """Seconds for which the oldest running job has been running; 0 when idle."""
        now_s = time.monotonic()
        return max((now_s - began_s for began_s, _ in list(self._running.values())), default=0.0)

    @property
    def n_running(self) -> int:
        """Jobs on a thread now."""
        return len(self._running)

    def close(self) -> None:
        """Cancel everything and take no more."""
        for _, token in list(self._running.values()):
            token.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, job: Callable[[CancelToken], Result], token: CancelToken) -> Result:
        token.raise_if_cancelled()
        key = next(self._ids)
        self._running[key] = (time.monotonic(), token)
        try:
            return job(token)
        finally:
            del self._running[key]
