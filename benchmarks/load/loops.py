"""Loops of clients: closed (a request follows the last answer, maybe after a pause) and open (Poisson)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks.load.client import Answer, Client, Tally
from benchmarks.load.requests import Kind
from benchmarks.load.service import Service

Right = Mapping[str, Answer]
SENDERS: Final = 48  # threads that send what is due; more than the service takes at a time


def ask_in_turn(service: Service, kinds: Sequence[Kind], tick: Callable[[], object]) -> dict[str, Answer]:
    """Ask for every kind once, one after the other; the answers by the kinds' names."""
    answers = {}
    with Client(service) as client:
        for kind in kinds:
            answers[kind.name] = client.ask(kind)
            tick()
    return answers


def run_closed(
    service: Service, kinds: Sequence[Kind], right: Right, *, clients: int, requests: int,
    tick: Callable[[], object], until: Callable[[], bool] = lambda: False,
) -> tuple[Tally, float]:  # fmt: skip
    """So many clients, each with so many requests one after the other; each begins with another kind.

    Args:
        right: the sequential answers.
        tick: called after each request, one call at a time.
        until: ends the loop before, where it becomes true.
    Returns:
        The tally, and the seconds that it took.
    """
    total, lock = Tally(), threading.Lock()

    def work(number: int, stop: threading.Event) -> None:
        mine = Tally()
        with Client(service) as client:
            for index in range(requests):
                if stop.is_set() or until():
                    break
                kind = kinds[(number * len(kinds) // clients + index) % len(kinds)]
                mine.ask(client, kind, right, time.perf_counter())
                with lock:
                    tick()
        with lock:
            total.add(mine)

    began_s = time.perf_counter()
    _run_threads(work, clients)
    return total, time.perf_counter() - began_s


def run_open(
    service: Service, kinds: Sequence[Kind], right: Right, *, rate: float, n: int,
    tick: Callable[[], object], seed: int = 3,
) -> tuple[Tally, float]:  # fmt: skip
    """Poisson arrivals; a latency counts from when the request was to be sent.

    Args:
        rate: requests a second. n: how many.
    Returns:
        The tally, and the seconds from the first arrival to the last answer.
    """
    rng = np.random.default_rng(seed)
    due_s = np.cumsum(rng.exponential(1 / rate, n))
    order = rng.permutation(n) % len(kinds)
    total, lock, numbers = Tally(), threading.Lock(), iter(range(n))
    began_s = time.perf_counter() + 0.1

    def work(_: int, stop: threading.Event) -> None:
        mine = Tally()
        with Client(service) as client:
            while True:
                with lock:
                    index = next(numbers, None)
                if index is None or stop.wait(max(0.0, began_s + due_s[index] - time.perf_counter())):
                    break
                mine.ask(client, kinds[order[index]], right, began_s + float(due_s[index]))
                with lock:
                    tick()
        with lock:
            total.add(mine)

    _run_threads(work, min(SENDERS, n))
    return total, time.perf_counter() - began_s


def run_paced(
    service: Service, kinds: Sequence[Kind], right: Right, *, clients: int, pause_s: float, seconds: float,
    tick: Callable[[], object], seed: int = 7,
) -> tuple[Tally, float]:  # fmt: skip
    """So many clients, each of which pauses at random after an answer; a latency counts from the pause's end.

    Args:
        pause_s: mean of the pauses, which are exponentially distributed.
        seconds: after which nobody begins a request any more.
    Returns:
        The tally, and the seconds from the first pause to the last answer.
    """
    total, lock = Tally(), threading.Lock()
    began_s = time.perf_counter()

    def work(number: int, stop: threading.Event) -> None:
        rng, mine = np.random.default_rng((seed, number)), Tally()
        with Client(service) as client:
            while True:
                due_s = time.perf_counter() + rng.exponential(pause_s)
                if due_s > began_s + seconds or stop.wait(max(0.0, due_s - time.perf_counter())):
                    break
                mine.ask(client, kinds[int(rng.integers(len(kinds)))], right, due_s)
                with lock:
                    tick()
        with lock:
            total.add(mine)

    _run_threads(work, clients)
    return total, time.perf_counter() - began_s


def _run_threads(work: Callable[[int, threading.Event], None], count: int) -> None:
    """Run it on so many threads; an interrupt ends each after the request that it is in."""
    stop, errors = threading.Event(), list[BaseException]()

    def guarded(number: int) -> None:
        try:
            work(number, stop)
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    finally:
        stop.set()
    if errors:
        raise errors[0]
