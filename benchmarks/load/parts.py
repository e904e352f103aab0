"""The parts of the measurement, each with its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.errors import MeasurementError
from benchmarks.load import leaving
from benchmarks.load.client import Answer, Client, Tally, spread
from benchmarks.load.disturbers import disturbing, in_work
from benchmarks.load.loops import ask_in_turn, run_closed, run_open, run_paced
from benchmarks.load.queue import simulate_queue
from benchmarks.load.requests import TRANSCRIBE, TRANSLATE, Kind, Waveform, form
from benchmarks.load.service import Service
from benchmarks.load.sessions import hear, live, make_talks
from benchmarks.load.used import Used
from benchmarks.run import MakeProgress
from engine.runtime.cores import available_cores

WARM_REQUESTS: Final = 100  # before memory is compared
RSS_EVERY: Final = 50  # requests
CAPACITY_CLIENTS: Final = 8
MANY: Final = 1_000_000  # requests of a client, which something else ends
LEAVE_AFTER_S: Final = (0.1, 0.3, 0.8, 1.5, 2.5, 4.0, 5.5)  # of work: upload, reading, computing
LIVE_S: Final = 300.0  # of audio that a live client sends before it leaves
LONG_REQUESTS: Final = 100
READ_S: Final = 6.0  # of processor time, after which long files have been read and are recognised
ALONE_ROUNDS: Final = 3  # of requests alone, before each load and after it
PRACTICE: Final = 0.25  # of a load's time, before the clients with pauses are measured
QUEUED: Final = 50_000  # requests of the simulated queue
LEAVING: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("one pass", TRANSCRIBE, {"passes": "1"}),
    ("two passes", TRANSCRIBE, {"passes": "2"}),
    ("translation", TRANSLATE, {}),
    ("stream", TRANSCRIBE, {"stream": "true"}),
)


@dataclass(frozen=True)
class Bench:
    """What all parts need.

    Attributes:
        right: the sequential answers, by the kind's name.
        long_audio: a file that is in work for a while.
    """

    service: Service
    kinds: Sequence[Kind]
    right: dict[str, Answer]
    long_audio: bytes
    progress: MakeProgress


def learn(service: Service, kinds: Sequence[Kind], progress: MakeProgress) -> dict[str, Answer]:
    """The right answers: those of one client that asks twice, the second time warm.

    Raises:
        MeasurementError: an answer that is no text, or not the same twice.
    """
    tick = progress(2 * len(kinds), "one by one")
    first, second = (ask_in_turn(service, kinds, tick) for _ in range(2))
    for name, answer in second.items():
        if answer.status != 200:
            raise MeasurementError(f"{name}: {answer.status} {answer.body[:200]!r}", "200")
        if answer.body != first[name].body:
            raise MeasurementError(
                f"{name}: {answer.body[:200]!r} and {first[name].body[:200]!r}", "the same"
            )
    return second


def alone(bench: Bench) -> dict[str, Any]:
    """Latency of one client."""
    seconds = [answer.seconds for answer in bench.right.values()]
    return {"n": len(seconds), "latency_ms": spread([1000 * each for each in seconds])}


def closed(bench: Bench, clients: int, requests: int) -> dict[str, Any]:
    """Many clients without a pause: right texts, no errors, no growth."""
    service, n_done = bench.service, 0
    tick = bench.progress(clients * requests, f"{clients} clients")
    memory: list[tuple[int, float]] = []

    def count() -> None:
        nonlocal n_done
        n_done += 1
        if n_done == WARM_REQUESTS or n_done % RSS_EVERY == 0:
            memory.append((n_done, service.rss_mb()))
        tick()

    cpu_s = service.cpu_s()
    tally, seconds = run_closed(
        service, bench.kinds, bench.right, clients=clients, requests=requests, tick=count
    )
    service.wait_idle()
    memory.append((n_done, service.rss_mb()))
    warm = [mb for n, mb in memory if n >= WARM_REQUESTS]
    return {
        "clients": clients, "requests": requests, **tally.figures(), "seconds": seconds,
        "requests_per_s": n_done / seconds, "cpu_ms_per_request": 1000 * (service.cpu_s() - cpu_s) / n_done,
        "rss_mb": [[n, round(mb, 1)] for n, mb in memory[:: max(1, len(memory) // 100)]],
        "rss_growth_mb": round(max(warm) - warm[0], 1) if warm else None,
    }  # fmt: skip


def loaded(
    bench: Bench, share: float, seconds: float, clients: int, capacity: float | None = None
) -> dict[str, Any]:
    """Latency at a share of what the service can do: of Poisson arrivals, and of so many clients with pauses.

    Poisson arrivals come from more people than can be counted, who ask whether others wait or not.

    Args:
        seconds: of each of the two.
        capacity: requests a second; measured where None.
    """
    service = bench.service
    full, full_used = Tally(), Used(service)
    if capacity is None:
        capacity, full = _capacity(bench, full_used, seconds)
    n = max(1, round(share * capacity * seconds))
    alone = _alone(bench)
    with Used(service) as used:
        tally, took_s = run_open(
            service,
            bench.kinds,
            bench.right,
            rate=share * capacity,
            n=n,
            tick=bench.progress(n, f"load {share:g}"),
        )
    paced, paced_figures = _paced(bench, share, seconds, clients, capacity, float(np.mean(alone.seconds)))
    alone.add(_alone(bench))  # before and after: a machine that others use is not always as fast
    for each in (alone, paced):
        full.add(each)
    queue = _queue_alone(alone.seconds, capacity, share)
    return {
        "share": share, "capacity_per_s": capacity, "rate_per_s": share * capacity, **tally.figures(),
        "seconds": took_s, "cpu_s": used.service_s, "cores": used.figures(),
        "capacity_cores": full_used.figures(), "queue_ms": queue, "alone_ms": alone.figures()["latency_ms"],
        "n_wrong": tally.n_wrong + full.n_wrong, "wrong": tally.wrong + full.wrong,
        "p95_ratio": _p95_ratio(tally, alone),
        "paced": paced_figures | {"p95_ratio": _p95_ratio(paced, alone)},
    }  # fmt: skip


def _alone(bench: Bench) -> Tally:
    """Every kind of request, one after the other, several times.

    Raises:
        MeasurementError: there was none.
    """
    tally = Tally()
    with Client(bench.service) as client:
        for kind in ALONE_ROUNDS * list(bench.kinds):
            tally.ask(client, kind, bench.right, time.perf_counter())
    if not tally.seconds:
        n = ALONE_ROUNDS * len(bench.kinds)
        raise MeasurementError(f"no answer of {n} requests ({tally.wrong[:1]})", "a service that answers")
    return tally


def _paced(
    bench: Bench, share: float, seconds: float, clients: int, capacity: float, mean_s: float
) -> tuple[Tally, dict[str, Any]]:
    """Clients that pause so long that they ask for a share of the capacity together, and figures of theirs.

    Args:
        mean_s: that an answer takes alone.
    """
    tally, took_s = Tally(), seconds
    n = round(share * capacity * seconds * (1 + PRACTICE))
    tick = bench.progress(n, f"{clients} clients with pauses")
    for part in (PRACTICE, 1.0):  # the first tells how long an answer takes, which the pauses make up for
        pause_s = max(0.0, clients / (share * capacity) - mean_s)
        tally, took_s = run_paced(
            bench.service, bench.kinds, bench.right,
            clients=clients, pause_s=pause_s, seconds=part * seconds, tick=tick,
        )  # fmt: skip
        mean_s = float(np.mean(tally.seconds)) if tally.seconds else mean_s
    figures = tally.figures()
    rate = figures["n"] / max(took_s, seconds)
    return tally, {
        "clients": clients, "mean_pause_s": pause_s, "seconds": took_s, "rate_per_s": rate,
        "share": rate / capacity, **figures,
    }  # fmt: skip


def _p95_ratio(tally: Tally, before: Tally) -> float | None:
    loaded, alone = (spread(each.seconds) for each in (tally, before))
    return loaded["p95"] / alone["p95"] if loaded and alone else None


def _capacity(bench: Bench, used: Used, seconds: float) -> tuple[float, Tally]:
    """Requests a second of clients that do not pause, and what came of them; each kind four times or more."""
    least = 4 * len(bench.kinds)
    tick, n_done = bench.progress(0, "capacity"), 0
    last_s = time.perf_counter() + seconds

    def count() -> None:
        nonlocal n_done
        n_done += 1
        tick()

    with used:
        tally, took_s = run_closed(
            bench.service, bench.kinds, bench.right, clients=CAPACITY_CLIENTS, requests=MANY, tick=count,
            until=lambda: n_done >= least and time.perf_counter() > last_s,
        )  # fmt: skip
    return n_done / took_s, tally


def _queue_alone(seconds: Sequence[float], capacity: float, share: float) -> dict[str, float]:
    """Latencies in ms of a perfect queue before all cores that this process may use, as fast as the service.

    Args:
        seconds: of requests alone; what they take of a core follows from the capacity.
        capacity: requests a second.
    """
    cores = available_cores()
    mean_s = cores / capacity
    times = np.random.default_rng(1).choice(np.array(seconds) / np.mean(seconds) * mean_s, QUEUED)
    return simulate_queue(1000 * times, share, cores)


def left_alone(bench: Bench, waveforms: Sequence[Waveform], wyoming: Service | None) -> list[dict[str, Any]]:
    """Processor time that is spent on long requests, sessions and recordings after their clients have left.

    Args:
        wyoming: a service of that protocol, where there is one.
    """
    service, (talk, *_) = bench.service, make_talks(waveforms, LIVE_S)
    cases = [
        (service, name, leaving.request(service, Kind(name, path, form(bench.long_audio, fields))))
        for name, path, fields in LEAVING
    ]
    cases.append((service, "session", leaving.session(service, talk)))
    if wyoming is not None:
        cases.append((wyoming, "Wyoming", leaving.wyoming(wyoming, talk)))
    tick = bench.progress(len(cases) * len(LEAVE_AFTER_S), "clients that leave")
    found = []
    for service, name, begin in cases:
        pairs = []
        for after_s in LEAVE_AFTER_S:
            bench.service.wait_idle()
            pairs.append(leaving.leave(service, name, begin, after_s))
            tick()
        cpu_ms, wall_ms = ([round(1000 * pair[which], 1) for pair in pairs] for which in (0, 1))
        each = [list(row) for row in zip(LEAVE_AFTER_S, cpu_ms, wall_ms, strict=True)]
        found.append({"case": name, "cpu_ms": spread(cpu_ms), "wall_ms": spread(wall_ms), "each": each})
    return found


def uploads(bench: Bench, n_slow: int, n_endless: int, bytes_per_s: float, requests: int) -> dict[str, Any]:
    """Latency of one client, without and with uploads that do not end, in turn."""
    quiet, disturbed, n_bytes, n_connections = Tally(), Tally(), 0, 0
    tick = bench.progress(2 * requests, "slow and endless uploads")
    for start in range(0, requests, max(1, requests // 4)):
        count = min(max(1, requests // 4), requests - start)
        kinds = [bench.kinds[(start + index) % len(bench.kinds)] for index in range(count)]
        quiet.add(_one(bench, kinds, tick))
        with disturbing(bench.service, n_slow=n_slow, n_endless=n_endless, bytes_per_s=bytes_per_s) as sent:
            time.sleep(0.5)
            disturbed.add(_one(bench, kinds, tick))
        n_bytes, n_connections = n_bytes + sent.n_bytes, n_connections + sent.n_connections
    return {
        "n_slow": n_slow, "n_endless": n_endless, "mb_sent": round(n_bytes / 1e6, 1),
        "connections": n_connections, "without": quiet.figures(), "with": disturbed.figures(),
        "n_wrong": quiet.n_wrong + disturbed.n_wrong, "wrong": quiet.wrong + disturbed.wrong,
    }  # fmt: skip


def beside_long(bench: Bench, n_long: int) -> dict[str, Any]:
    """Latency of one client while the service works on long files."""
    before = _one(bench, bench.kinds[:LONG_REQUESTS], lambda: None)
    tick = bench.progress(LONG_REQUESTS, f"beside {n_long} long")
    long = [Kind("long", TRANSCRIBE, form(bench.long_audio, {}))] * n_long
    cpu_s = bench.service.cpu_s()
    with in_work(bench.service, long) as done:
        while bench.service.cpu_s() - cpu_s < READ_S and not done.wait(0.05):
            pass
        tally, seconds = run_closed(
            bench.service, bench.kinds, bench.right, clients=1, requests=LONG_REQUESTS, tick=tick,
            until=done.is_set,
        )  # fmt: skip
        ended = done.is_set()
    return {
        "n_long": n_long, **tally.figures(), "seconds": seconds, "long_ended": ended,
        "alone_ms": before.figures()["latency_ms"], "n_wrong": tally.n_wrong + before.n_wrong,
    }  # fmt: skip


def sessions(bench: Bench, waveforms: Sequence[Waveform], counts: Sequence[int], seconds: float) -> list[Any]:
    """Live sessions, so many at a time; their texts are compared with those of one at a time."""
    talks = make_talks(waveforms, seconds)
    tick = bench.progress(len(talks) + len(counts), "live sessions")
    right, found = [], []
    for talk in talks:
        right.append(hear(bench.service, talk).texts)
        tick()
    for count in counts:
        found.append(live(bench.service, talks, right, count))
        tick()
    return found


def _one(bench: Bench, kinds: Sequence[Kind], tick: Callable[[], object]) -> Tally:
    tally = Tally()
    with Client(bench.service) as client:
        for kind in kinds:
            tally.ask(client, kind, bench.right, time.perf_counter())
            tick()
    return tally
