"""Requests and threads: a bounded number of both, and work that ends when its client leaves.

There are two lanes of threads, so that long recordings never keep short ones waiting for a thread; who of
those that have a thread computes next, is for the model's scheduler. Every job begins in the lane of short
ones; one that turns out to be long ends there at once with what is to be done in the other.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.errors import CancelledError, EngineError
from engine.runtime.cancel import CancelToken
from engine.serve.errors import BusyError, RequestTimeoutError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Long(Generic[Result]):
    """What a job gives that belongs into the lane of long ones: the job that does it there."""

    job: Callable[[CancelToken], Result]


class WorkQueue:
    """Runs jobs on a few threads and refuses what would wait too long."""

    def __init__(self, max_running: int, max_pending: int, timeout_s: float = math.inf) -> None:
        """Start without threads.

        Args:
            max_running: short jobs at a time, and as many long ones.
            max_pending: jobs that wait or run.
            timeout_s: for a job to wait and run.
        """
        self._timeout_s = timeout_s
        self.max_pending = max(max_pending, 1)
        self.pending = 0  # touched on the event loop only
        self._short, self._long = (
            ThreadPoolExecutor(max_running, thread_name_prefix=f"engine-serve-{lane}")
            for lane in ("short", "long")
        )
        self._running: dict[int, tuple[float, CancelToken]] = {}
        self._ids = itertools.count()
        self._ended: EngineError | None = None
        self._end = asyncio.Event()

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
        job: Callable[[CancelToken], Result | Long[Result]],
        left: Callable[[], Awaitable[Any]],
        at_end: Callable[[], Any] = lambda: None,
    ) -> Result:
        """Run a job on a thread and cancel it when its client leaves.

        Args:
            job: what to do, given a token that says when to stop.
            left: returns once the client has left.
            at_end: called once, when the job has ended or will never begin.
        Raises:
            CancelledError: the client left. RequestTimeoutError: it waited and ran too long.
            Whatever the job raises, or end_all was given.
        """
        token, last_s = CancelToken(), time.monotonic() + self._timeout_s
        leaving = asyncio.ensure_future(left())
        leaving.add_done_callback(_look_at)
        ending = asyncio.ensure_future(self._end.wait())
        future: Future[Any] = self._submit(self._short, job, token)
        try:
            found = await self._wait(future, token, leaving, ending, last_s)
            if isinstance(found, Long):
                future = self._submit(self._long, found.job, token)
                found = await self._wait(future, token, leaving, ending, last_s)
            result: Result = found
            return result
        finally:
            token.cancel()  # the server may be shutting down; harmless after the end
            future.cancel()
            future.add_done_callback(lambda _: at_end())
            leaving.cancel()
            ending.cancel()

    def _submit(self, pool: ThreadPoolExecutor, job: Callable[[CancelToken], Any], token: CancelToken) -> Any:
        return pool.submit(contextvars.copy_context().run, self._timed, job, token)

    async def _wait(
        self, future: Future[Any], token: CancelToken, leaving: asyncio.Future[Any],
        ending: asyncio.Future[Any], last_s: float,
    ) -> Any:  # fmt: skip
        """Wait for a job, its client's leaving, the end of the service, or the time limit."""
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_look_at)
        while not waiting.done():
            watched = {waiting, ending} if token.cancelled else {waiting, ending, leaving}
            left_s = None if math.isinf(last_s) else max(0.0, last_s - time.monotonic())
            done, _ = await asyncio.wait(watched, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                break
            if self._ended is not None:
                raise self._ended
            if not done:
                raise RequestTimeoutError(
                    "a request that was not finished in time", f"at most {self._timeout_s:g} s", "send less"
                )
            token.cancel()
            if future.cancel():
                raise CancelledError("the client left before its turn")
        if self._ended is not None and isinstance(waiting.exception(), CancelledError):
            raise self._ended
        return waiting.result()

    def longest_s(self) -> float:
        """Seconds for which the oldest running job has been running; 0 when idle."""
        now_s = time.monotonic()
        return max((now_s - began_s for began_s, _ in list(self._running.values())), default=0.0)

    @property
    def n_running(self) -> int:
        """Jobs on a thread now."""
        return len(self._running)

    def end_all(self, error: EngineError) -> None:
        """End every request with an error; jobs are cancelled, and end as soon as they notice.

        Called on the event loop.
        """
        self._ended = error
        self._end.set()
        for _, token in list(self._running.values()):
            token.cancel()

    def close(self) -> None:
        """Cancel everything and take no more."""
        for _, token in list(self._running.values()):
            token.cancel()
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

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
