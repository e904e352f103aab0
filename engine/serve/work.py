"""Requests and threads: a bounded number of both, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from engine.errors import CancelledError, EngineError
from engine.runtime.cancel import CancelToken
from engine.serve.errors import BusyError, RequestTimeoutError

DISCONNECT_POLL_S: Final = 0.1
Result = TypeVar("Result")


class WorkQueue:
    """Runs jobs on a few threads and refuses what would wait too long."""

    def __init__(self, max_running: int, max_pending: int, timeout_s: float = math.inf) -> None:
        self._timeout_s = timeout_s
        self.max_pending = max(max_pending, 1)
        self.pending = 0  # touched on the event loop only
        self._pool = ThreadPoolExecutor(max_running, thread_name_prefix="engine-serve")
        self._running: dict[int, tuple[float, CancelToken]] = {}
        self._ids = itertools.count()
        self._ended: EngineError | None = None

    def check_room(self) -> None:
        """Refuse a request now that could not wait in the queue.

        Raises:
            BusyError: the queue is full. Whatever end_all was given.
        """
        if self._ended is not None:
            raise self._ended
        if self.pending >= self.max_pending:
            raise BusyError(
                f"{self.pending} requests are in work or waiting",
                f"fewer than {self.max_pending}",
                "try again in a moment",
            )

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a complete request until its answer.

        Raises:
            BusyError: the queue is full.
        """
        self.check_room()
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    async def run(
        self,
        job: Callable[[CancelToken], Result],
        is_disconnected: Callable[[], Awaitable[bool]],
        at_end: Callable[[], Any] = lambda: None,
    ) -> Result:
        """Run a job on a thread and cancel it when its client leaves.

        Args:
            job: what to do, given a token that says when to stop.
            is_disconnected: whether the client has left.
            at_end: called once, when the job has ended or will never begin.
        Raises:
            CancelledError: the client left. RequestTimeoutError: it waited and ran too long.
            Whatever the job raises, or end_all was given.
        """
        token, last_s = CancelToken(), time.monotonic() + self._timeout_s
        future = self._pool.submit(contextvars.copy_context().run, self._timed, job, token)
        future.add_done_callback(lambda _: at_end())
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_look_at)
        try:
            while not (await asyncio.wait({waiting}, timeout=DISCONNECT_POLL_S))[0]:
                if time.monotonic() > last_s:
                    raise RequestTimeoutError(
                        "a request that was not finished in time",
                        f"at most {self._timeout_s:g} s",
                        "send less",
                    )
                await self._check(token, future, is_disconnected)
            if self._ended is not None and isinstance(waiting.exception(), CancelledError):
                raise self._ended
            return waiting.result()
        finally:
            token.cancel()  # the server may be shutting down; harmless after the end
            future.cancel()

    async def _check(
        self, token: CancelToken, future: Future[Any], is_disconnected: Callable[[], Awaitable[bool]]
    ) -> None:
        if self._ended is not None:
            raise self._ended
        if not token.cancelled and await is_disconnected():
            token.cancel()
            if future.cancel():
                raise CancelledError("the client left before its turn")

    def longest_s(self) -> float:
        """Seconds for which the oldest running job has been running; 0 when idle."""
        now_s = time.monotonic()
        return max((now_s - began_s for began_s, _ in list(self._running.values())), default=0.0)

    @property
    def n_running(self) -> int:
        """Jobs on a thread now."""
        return len(self._running)

    def end_all(self, error: EngineError) -> None:
        """End every request with an error, at once; jobs are cancelled, and end as soon as they notice."""
        self._ended = error
        for _, token in list(self._running.values()):
            token.cancel()

    def close(self) -> None:
        """Cancel everything and take no more."""
        for _, token in list(self._running.values()):
            token.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wait(self, seconds: float) -> bool:
        """Wait for running jobs to end; whether all did."""
        last_s = time.monotonic() + seconds
        while self._running and time.monotonic() < last_s:
            time.sleep(0.02)
        return not self._running

    def _timed(self, job: Callable[[CancelToken], Result], token: CancelToken) -> Result:
        token.raise_if_cancelled()
        key = next(self._ids)
        self._running[key] = (time.monotonic(), token)
        try:
            return job(token)
        finally:
            del self._running[key]


def _look_at(future: asyncio.Future[Any]) -> None:
    """The result may have nobody left to look at it."""
    if not future.cancelled():
        future.exception()
