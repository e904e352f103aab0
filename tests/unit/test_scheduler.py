"""The scheduler: bounded, urgent work first, nothing starves, nothing is held by who is cancelled."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import CancelledError, OptionError
from engine.runtime.cancel import CancelToken
from engine.runtime.scheduler import CLIP_S, PATIENCE_S, QUANTUM_S, CoreScheduler, Urgency, urgency_of

LONG_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def queue_up(scheduler: CoreScheduler, urgency: Urgency, done: list[str], name: str) -> threading.Thread:
    n_before = scheduler.n_waiting

    def work() -> None:
        with scheduler.turn(urgency):
            done.append(name)

    thread = start(work)
    until(lambda: scheduler.n_waiting > n_before)
    return thread


def test_urgent_work_goes_first_and_equals_in_the_order_they_came() -> None:
    scheduler, done = CoreScheduler(1, Clock()), []
    with scheduler.turn("file"):
        kinds: list[Urgency] = ["file", "partial", "clip", "final", "partial", "file"]
        threads = [queue_up(scheduler, kind, done, f"{kind} {i}") for i, kind in enumerate(kinds)]
    for thread in threads:
        thread.join(LONG_S)
    assert done == ["final 3", "partial 1", "partial 4", "clip 2", "file 0", "file 5"]
    assert (scheduler.n_running, scheduler.n_waiting) == (0, 0)


def test_a_file_gives_its_core_to_a_stream_at_the_next_layer_and_gets_it_back() -> None:
    scheduler, done = CoreScheduler(1, Clock()), []
    with scheduler.turn("file") as turn:
        turn.raise_if_cancelled()
        thread = queue_up(scheduler, "partial", done, "partial")
        assert done == []
        turn.raise_if_cancelled()
        assert done == ["partial"] and scheduler.n_running == turn.cores == 1
    thread.join(LONG_S)


def test_a_file_under_way_gives_way_to_a_clip_whenever_it_began() -> None:
    clock = Clock()
    scheduler, done = CoreScheduler(1, clock), []
    with scheduler.turn("file") as turn:
        clock.now_s = 0.9  # its deadline is near, but what it computes now is new work
        turn.raise_if_cancelled()
        thread = queue_up(scheduler, urgency_of(CLIP_S), done, "clip")
        turn.raise_if_cancelled()
        assert done == ["clip"]
    thread.join(LONG_S)


def test_clips_are_computed_one_after_the_other() -> None:
    clock = Clock()
    scheduler, done = CoreScheduler(1, clock), []
    with scheduler.turn("clip") as turn:
        thread = queue_up(scheduler, "clip", done, "second")
        clock.now_s = 0.3
        turn.raise_if_cancelled()
        assert done == []
    thread.join(LONG_S)
    assert done == ["second"] and urgency_of(CLIP_S + 0.01) == "file"


def test_a_stream_does_not_give_way_to_a_file() -> None:
    scheduler, done = CoreScheduler(1, Clock()), []
    with scheduler.turn("partial") as turn:
        thread = queue_up(scheduler, "file", done, "file")
        turn.raise_if_cancelled()
        assert done == []
    thread.join(LONG_S)
    assert done == ["file"]


def test_streams_that_want_every_core_leave_a_file_its_share() -> None:
    """Streams always have work; a file is served once its patience is over, for a quantum at a time."""
    clock = Clock()
    scheduler, computed = CoreScheduler(1, clock), {"file": 0.0, "partial": 0.0}
    stop = threading.Event()

    def work(urgency: Urgency, step_s: float, steps: int) -> None:
        while not stop.is_set():
            with scheduler.turn(urgency) as turn:
                for _ in range(steps):
                    clock.now_s += step_s  # only who holds the core moves the clock
                    computed[urgency] += step_s
                    turn.raise_if_cancelled()

    threads = [start(lambda: work("partial", 0.02, 5)) for _ in range(3)]
    threads.append(start(lambda: work("file", 0.02, 100)))
    until(lambda: clock.now_s > 60.0)
    stop.set()
    for thread in threads:
        thread.join(LONG_S)
    share = computed["file"] / clock.now_s
    # Far below QUANTUM_S / PATIENCE_S: on a busy machine a file that has ended is late to come again.
    assert 0.1 * QUANTUM_S / PATIENCE_S["file"] < share < 0.5, share


def test_who_waits_is_woken_by_its_cancellation_and_leaves_no_trace() -> None:
    scheduler, token, caught = CoreScheduler(1), CancelToken(), []

    def work() -> None:
        try:
            with scheduler.turn("final", token):
                raise AssertionError("it got a core")
        except CancelledError as error:
            caught.append(error)

    with scheduler.turn("file") as turn:
        thread = start(work)
        until(lambda: scheduler.n_waiting == 1)
        token.cancel()
        thread.join(LONG_S)
        assert len(caught) == 1 and scheduler.n_waiting == 0
        turn.raise_if_cancelled()
    with scheduler.turn("file"):
        assert scheduler.n_running == 1


def test_a_file_that_is_cancelled_while_a_stream_has_its_core_gives_it_back_once() -> None:
    scheduler, token, caught = CoreScheduler(1), CancelToken(), []
    held, hold = threading.Event(), threading.Event()

    def stream() -> None:
        with scheduler.turn("partial"):
            held.set()
            hold.wait(LONG_S)

    def file() -> None:
        try:
            with scheduler.turn("file", token) as turn:
                until(lambda: scheduler.n_waiting == 1)
                turn.raise_if_cancelled()
        except CancelledError as error:
            caught.append(error)

    threads = [start(file)]
    until(lambda: scheduler.n_running == 1)
    threads.append(start(stream))
    assert held.wait(LONG_S)
    assert not caught and scheduler.n_waiting == 1
    token.cancel()
    threads[0].join(LONG_S)
    assert len(caught) == 1 and scheduler.n_running == 1
    hold.set()
    threads[1].join(LONG_S)
    assert (scheduler.n_running, scheduler.n_waiting) == (0, 0)


def test_a_turn_takes_what_is_free_up_to_what_it_wants() -> None:
    scheduler = CoreScheduler(3)
    with scheduler.turn("file", cores=3) as wide:
        assert wide.cores == 3
    with scheduler.turn("file"), scheduler.turn("file", cores=3) as rest:
        assert rest.cores == 2
    assert scheduler.n_running == 0


def test_who_computes_alone_gives_all_cores_but_one_to_those_who_come() -> None:
    scheduler, done = CoreScheduler(3, Clock()), []
    with scheduler.turn("final", cores=3) as wide:
        threads = [queue_up(scheduler, "file", done, name) for name in ("a", "b")]
        assert (scheduler.n_running, done) == (3, [])
        wide.raise_if_cancelled()  # later deadlines: it goes on, with one core
        for thread in threads:
            thread.join(LONG_S)
        assert wide.cores == 1 and sorted(done) == ["a", "b"]
        wide.raise_if_cancelled()
        assert wide.cores == 1
    assert scheduler.n_running == 0


def test_who_needs_no_more_than_one_core_hands_the_others_back() -> None:
    scheduler = CoreScheduler(2)
    with scheduler.turn("file", cores=2) as wide:
        wide.narrow()
        with scheduler.turn("file") as other:
            assert wide.cores == other.cores == 1
        wide.narrow()
    assert scheduler.n_running == 0


def test_nobody_takes_two_cores_where_others_wait_for_one() -> None:
    scheduler, taken = CoreScheduler(2), []
    inside = threading.Barrier(2, timeout=LONG_S)

    def work() -> None:
        with scheduler.turn("file", cores=2) as turn:
            inside.wait()  # both at the same time
            taken.append(turn.cores)

    with scheduler.turn("file", cores=2) as first:
        threads = [start(work) for _ in range(2)]
        until(lambda: scheduler.n_waiting == 2)
        assert first.cores == 2
    for thread in threads:
        thread.join(LONG_S)
    assert taken == [1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_all_cores() -> None:
    scheduler, held, stop = CoreScheduler(1), threading.Event(), threading.Event()

    def work() -> None:
        with scheduler.turn("file"):
            held.set()
            stop.wait(LONG_S)

    thread = start(work)
    assert held.wait(LONG_S)
    if (child := os.fork()) == 0:
        signal.alarm(int(LONG_S))  # a child that hangs ends itself, with another status
        with scheduler.turn("file") as turn:
            os._exit(turn.cores)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert scheduler.n_running == 1
    stop.set()
    thread.join(LONG_S)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(st.sampled_from(["final", "partial", "clip", "file"]), st.integers(1, 4), st.booleans()),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_never_more_than_the_cores_and_everybody_ends(
    cores: int, jobs: list[tuple[Urgency, int, bool]]
) -> None:
    scheduler, lock, running, most, ended = CoreScheduler(cores), threading.Lock(), [0], [0], []

    def work(urgency: Urgency, wanted: int, fails: bool) -> None:
        try:
            with scheduler.turn(urgency, cores=wanted) as turn:
                for _ in range(3):
                    mine = turn.cores
                    with lock:
                        running[0] += mine
                        most[0] = max(most[0], running[0])
                    time.sleep(0)
                    with lock:
                        running[0] -= mine
                    turn.raise_if_cancelled()
                    assert 1 <= turn.cores <= mine
                if fails:
                    raise KeyError(urgency)
        except KeyError:
            pass
        ended.append(urgency)

    threads = [start(lambda job=job: work(*job)) for job in jobs]
    for thread in threads:
        thread.join(LONG_S)
    assert len(ended) == len(jobs) and most[0] <= cores
    assert (scheduler.n_running, scheduler.n_waiting) == (0, 0)


def test_wrong_use() -> None:
    with pytest.raises(OptionError, match="0 cores"):
        CoreScheduler(0)
    with pytest.raises(OptionError, match="urgency"), CoreScheduler(1).turn("soon"):  # type: ignore[arg-type]
        pass


def test_a_token_follows_its_parent_and_not_the_other_way_round() -> None:
    parent = CancelToken()
    child = CancelToken(parent)

    class Call:
        terminate = False

    call = Call()
    with child.ending(call):
        parent.cancel()
        assert call.terminate and child.cancelled
    with pytest.raises(CancelledError):
        child.raise_if_cancelled()
    other = CancelToken()
    CancelToken(other).cancel()
    assert not other.cancelled
