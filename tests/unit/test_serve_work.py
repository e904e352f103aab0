"""The queue behind the service: two lanes of threads, clients that leave, an end, a limit of time."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from tone_service import ToneTranslator, wav

from engine.errors import CancelledError
from engine.runtime.cancel import CancelToken
from engine.serve import create_app
from engine.serve.errors import RequestTimeoutError, ShuttingDownError
from engine.serve.recognition import Recognition
from engine.serve.requests import AudioRequest
from engine.serve.work import OVERTAKEN_S, OVERTAKEN_SHARE, CheapestFirst, Long, Short, WorkQueue
from tests.reference.tone_speech import silence

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


def test_the_cheapest_goes_first_whoever_came_first() -> None:
    lane, order = CheapestFirst(1, "lane"), list[float]()
    held, gate = threading.Event(), threading.Event()
    futures = [lane.submit(lambda: held.set() or gate.wait(LONG_S), 0.0)]
    assert held.wait(LONG_S)
    futures += [lane.submit(lambda cost=cost: order.append(cost), cost) for cost in (3.0, 1.0, 2.0, 0.0, 1.0)]
    gate.set()
    for future in futures:
        future.result(LONG_S)
    assert order == [0.0, 1.0, 1.0, 2.0, 3.0]
    lane.shutdown()


def test_a_job_goes_on_in_the_lane_that_it_names() -> None:
    async def body(queue: WorkQueue) -> list[str]:
        jobs = [queue.run(lambda _, i=i: Short(lambda _: f"short {i}", float(i)), stays) for i in range(5)]
        return list(await asyncio.gather(*jobs))

    assert queued(body) == [f"short {i}" for i in range(5)]


def test_length_passes_and_english_are_what_a_recording_costs() -> None:
    service = create_app(ToneTranslator()).state.service

    def begin(seconds: float, task: str = "transcribe", **wanted: Any) -> Any:
        audio = io.BytesIO(wav(silence(seconds)))
        request = AudioRequest(audio, "json", frozenset(), (), **wanted)
        return Recognition(service, request, task).begin(CancelToken())

    found = [
        begin(1.0), begin(1.0, "translate"), begin(1.0, passes=2), begin(3.0),
        begin(3.0, "translate", passes=2),
    ]  # fmt: skip
    costs = [each.cost for each in found]
    assert costs[0] == pytest.approx(1.0)
    assert costs == sorted(costs) and len(set(costs)) == len(costs)
    assert {type(each) for each in found} == {Short} and isinstance(begin(61.0), Long)


def test_who_has_waited_for_long_is_not_overtaken_any_more() -> None:
    now_s, order = [0.0], list[str]()
    lane = CheapestFirst(1, "lane", lambda: now_s[0])
    held, gate = threading.Event(), threading.Event()
    futures = [lane.submit(lambda: held.set() or gate.wait(LONG_S), 0.0)]
    assert held.wait(LONG_S)
    for at_s, name, cost in (
        (0.0, "dearest", 90.0),
        (0.0, "dear", 9.0),
        (0.8, "late", 5.0),
        (0.9, "cheap", 1.0),
    ):
        now_s[0] = at_s
        futures.append(lane.submit(lambda name=name: order.append(name), cost))
    now_s[0] = OVERTAKEN_S + 9 * OVERTAKEN_SHARE  # the second has waited for too long, the others have not
    gate.set()
    for future in futures:
        future.result(LONG_S)
    assert order == ["dear", "cheap", "late", "dearest"]
    lane.shutdown()


def test_what_waits_in_a_lane_can_be_cancelled_and_errors_come_back() -> None:
    lane = CheapestFirst(1, "lane")
    held, gate = threading.Event(), threading.Event()
    first = lane.submit(lambda: held.set() or gate.wait(LONG_S), 0.0)
    assert held.wait(LONG_S)
    gone, fails, rest = lane.submit(lambda: 1, 1.0), lane.submit(lambda: 1 / 0, 2.0), lane.submit(int, 3.0)
    assert gone.cancel()
    gate.set()
    assert first.result(LONG_S)
    with pytest.raises(ZeroDivisionError):
        fails.result(LONG_S)
    assert rest.result(LONG_S) == 0
    lane.shutdown()
    with pytest.raises(RuntimeError):
        lane.submit(int, 0.0)


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
