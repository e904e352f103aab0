"""One client: a connection that is kept open, and answers that are compared with the right ones."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.load.requests import Kind
from benchmarks.load.service import Service

TIMEOUT_S: Final = 300.0
MAX_TRIES: Final = 30  # of one request that is told to come again
IDLE_S: Final = 10.0  # an older connection is opened anew: the service closes idle ones
KEPT: Final = 10  # examples of what went wrong


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 where the connection broke."""

    status: int
    body: bytes
    retry_after: str | None
    seconds: float


class Client:
    """A connection to the service; not to be shared between threads."""

    def __init__(self, service: Service) -> None:
        self._connection = http.client.HTTPConnection(service.host, service.port, timeout=TIMEOUT_S)
        self._used_s = 0.0

    def ask(self, kind: Kind) -> Answer:
        """Send a request and read its answer."""
        began_s = time.perf_counter()
        if began_s - self._used_s > IDLE_S:
            self._connection.close()
        try:
            self._connection.request("POST", kind.path, kind.body, kind.headers)
            answer = self._connection.getresponse()
            body, retry_after = answer.read(), answer.getheader("Retry-After")
            self._used_s = time.perf_counter()
            return Answer(answer.status, body, retry_after, self._used_s - began_s)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Answer(0, repr(error).encode(), None, time.perf_counter() - began_s)

    def close(self) -> None:
        """Leave."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass
class Tally:
    """What many requests came to. Each thread adds to its own, or takes turns.

    Attributes:
        statuses: answers by status; "503 without Retry-After" apart, "broken" connections too.
        seconds: of each request that was answered with 200, with its waits for a busy service.
        slowdowns: the same as multiples of the request's time alone, where that is known.
        wrong: examples of answers that differ from the sequential one, or should not be.
        n_wrong: how many there are.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    n_wrong: int = 0

    def ask(self, client: Client, kind: Kind, right: Mapping[str, Answer], began_s: float) -> None:
        """Ask until the service is not busy, and note how that went.

        Args:
            right: the sequential answer by the kind's name.
            began_s: by the clock perf_counter, when the request was to be sent.
        """
        for _ in range(MAX_TRIES):
            answer = client.ask(kind)
            if answer.status != 503 or answer.retry_after is None:
                break
            self.statuses["503"] += 1
            time.sleep(float(answer.retry_after))
        self._note(answer, kind, right.get(kind.name), time.perf_counter() - began_s)

    def _note(self, answer: Answer, kind: Kind, expected: Answer | None, seconds: float) -> None:
        status = str(answer.status) if answer.status else "broken"
        if answer.status == 503 and answer.retry_after is None:
            status = "503 without Retry-After"
        if status != "503":  # counted with each try
            self.statuses[status] += 1
        if answer.status != 200:
            self._wrong(f"{kind.name}: {status} {answer.body[:200]!r}")
        elif expected is not None and answer.body != expected.body:
            self._wrong(f"{kind.name}: {answer.body[:200]!r}; sequential: {expected.body[:200]!r}")
        if answer.status == 200:
            self.seconds.append(seconds)
            if expected is not None:
                self.slowdowns.append(seconds / expected.seconds)

    def _wrong(self, what: str) -> None:
        self.n_wrong += 1
        if len(self.wrong) < KEPT:
            self.wrong.append(what)

    def add(self, other: Tally) -> None:
        """Count another's requests too."""
        self.statuses += other.statuses
        self.seconds += other.seconds
        self.slowdowns += other.slowdowns
        self.n_wrong += other.n_wrong
        self.wrong = (self.wrong + other.wrong)[:KEPT]

    def figures(self) -> dict[str, Any]:
        """For the result."""
        return {
            "n": sum(self.statuses.values()), "statuses": dict(sorted(self.statuses.items())),
            "n_wrong": self.n_wrong, "wrong": self.wrong,
            "latency_ms": spread([1000 * each for each in self.seconds]), "slowdown": spread(self.slowdowns),
        }  # fmt: skip


def spread(values: list[float]) -> dict[str, float] | None:
    """Mean, median, 95th and 99th percentile and maximum; None of nothing."""
    if not values:
        return None
    p50, p95, p99 = (round(float(each), 3) for each in np.percentile(values, [50, 95, 99]))
    mean = round(float(np.mean(values)), 3)
    return {"mean": mean, "p50": p50, "p95": p95, "p99": p99, "max": round(max(values), 3)}
