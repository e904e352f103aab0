"""The queue behind the service: two lanes of threads, clients that leave, an end, a limit of time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from engine.errors import CancelledError
from engine.runtime.cancel import CancelToken
from engine.serve.errors import RequestTimeoutError, ShuttingDownError
from engine.serve.work import Long, WorkQueue

LONG_S = 20.0


async def stays() -> None:
    await asyncio.Event().wait()


def wait_out(token: CancelToken, begun: threading.Event | None = None) -> str:
    """A job that ends when it is cancelled."""
    call = type("Call", (), {"terminate": False})()
    if begun is not None:
        begun.set()
    gate = threading.Event()
    with token.ending(call):
        for _ in range(int(LONG_S / 0.01)):
            if call.terminate:
                break
            gate.wait(0.01)
    token.raise_if_cancelled()
    return "nobody cancelled it"


def queued(body: Callable[[WorkQueue], Awaitable[Any]], **options: Any) -> Any:
    """Run a coroutine over a queue with one thread a lane."""

    async def run() -> Any:
        queue = WorkQueue(1, 8, **options)
        try:
            return await asyncio.wait_for(body(queue), LONG_S)
        finally:
            queue.close()

    return asyncio.run(run())


def test_long_jobs_never_keep_short_ones_from_a_thread() -> None:
    gate, ended = threading.Event(), []

    def long_job(_: CancelToken) -> str:
        assert gate.wait(LONG_S)
        return "long"

    async def body(queue: WorkQueue) -> list[str]:
        long = [
            asyncio.ensure_future(queue.run(lambda _: Long(long_job), stays, lambda: ended.append(1)))
            for _ in range(3)
        ]
        short = [await queue.run(lambda _, i=i: f"short {i}", stays) for i in range(3)]
        assert ended == []  # files of the long ones are still needed
        gate.set()
        return short + list(await asyncio.gather(*long))

    assert queued(body) == ["short 0", "short 1", "short 2", "long", "long", "long"]
    assert len(ended) == 3


@pytest.mark.parametrize("long", [False, True])
def test_a_client_that_leaves_ends_its_job_at_once_in_either_lane(long: bool) -> None:
    begun, ended = threading.Event(), []

    def job(token: CancelToken) -> str:
        return wait_out(token, begun)

    async def body(queue: WorkQueue) -> None:
        left = asyncio.Event()
        first = (lambda _: Long(job)) if long else job
        running = asyncio.ensure_future(queue.run(first, left.wait, lambda: ended.append(1)))
        await asyncio.to_thread(begun.wait, LONG_S)
        assert queue.n_running == 1
        left.set()
        with pytest.raises(CancelledError):
            await running
        assert queue.wait(LONG_S)

    queued(body)
    assert ended == [1]


def test_a_client_that_leaves_before_its_turn_costs_no_thread() -> None:
    begun, done = threading.Event(), []

    async def body(queue: WorkQueue) -> None:
        gone = asyncio.Event()
        first = asyncio.ensure_future(queue.run(lambda token: wait_out(token, begun), gone.wait))
        await asyncio.to_thread(begun.wait, LONG_S)
        left = asyncio.Event()
        second = asyncio.ensure_future(
            queue.run(lambda _: done.append("ran"), left.wait, lambda: done.append("end"))
        )
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(CancelledError, match="before its turn"):
            await second
        assert done == ["end"]
        gone.set()
        with pytest.raises(CancelledError):
            await first

    queued(body)
    assert done == ["end"]


def test_the_end_and_the_limit_of_time_reach_every_request() -> None:
    async def ends(queue: WorkQueue) -> None:
        begun = threading.Event()
        jobs = [asyncio.ensure_future(queue.run(lambda token: wait_out(token, begun), stays)) for _ in "ab"]
        await asyncio.to_thread(begun.wait, LONG_S)
        queue.end_all(ShuttingDownError())
        for job in jobs:
            with pytest.raises(ShuttingDownError):
                await job

    async def late(queue: WorkQueue) -> None:
        with pytest.raises(RequestTimeoutError):
            await queue.run(wait_out, stays)
        assert queue.wait(LONG_S)  # the job was cancelled with its request

    queued(ends)
    queued(late, timeout_s=0.05)
