"""Who computes next: streams and files share the cores of one model.

A computation waits for a core, in the order of deadlines: when it came, plus the patience of its kind. So the
short work of a stream or of a clip goes before the windows of a long file, and nothing waits for ever. A
computation that has a core asks at every layer of an encoder and at every step of a decoder, where it also
looks whether it is cancelled, if somebody with an earlier deadline waits; then it hands its core over and
waits again.

Several cores are for a computation that is alone: it hands back all but one as soon as anybody waits,
whatever the deadlines. Two computations with a core each finish sooner than one after the other with both.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

from engine.errors import OptionError
from engine.runtime.cancel import CancelToken

Urgency = Literal["final", "partial", "clip", "file"]

PATIENCE_S: Final[dict[Urgency, float]] = {"final": 0.1, "partial": 0.2, "clip": 0.4, "file": 1.0}
QUANTUM_S: Final = 0.1  # what late work, or a file, may compute before it counts as new work again
CLIP_S: Final = 60.0  # of audio; a longer recording is a file

_ALL: weakref.WeakSet[CoreScheduler] = weakref.WeakSet()


class CoreScheduler:
    """Hands out a number of cores. Safe to share between threads.

    Attributes:
        cores: computations at a time, at most.
    """

    def __init__(self, cores: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with all cores free.

        Args:
            clock: seconds; another one in tests.
        Raises:
            OptionError: less than one core.
        """
        if cores < 1:
            raise OptionError(f"a scheduler of {cores} cores", "1 or more", "pass the number of cores")
        self.cores, self._clock = cores, clock
        self._numbers = itertools.count()
        self._start()
        _ALL.add(self)

    def _start(self) -> None:
        """All cores are free; in a forked process too: the threads that held them do not run there."""
        self._free = self.cores
        self._waiting: list[_Ticket] = []  # a heap
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, urgency: Urgency, cancel: CancelToken | None = None, cores: int = 1) -> Iterator[Turn]:
        """Wait for a core and hold it while the block runs. Never inside another turn of the same thread.

        Args:
            urgency: whose work it is.
            cancel: ends the waiting, and the block where it looks at its turn.
            cores: takes up to so many, as many as are free and nobody else waits for.
        Yields:
            A token to pass on as the `cancel` of whatever computes; its `cores`, which become fewer, says how
            many there are.
        Raises:
            CancelledError: cancel was set. OptionError: an unknown urgency.
        """
        turn = Turn(self, urgency, cancel)
        try:
            self._wait(turn, max(1, cores))
            yield turn
        finally:
            self._give_back(turn)

    @property
    def n_running(self) -> int:
        """Cores that compute now."""
        return self.cores - self._free

    @property
    def n_waiting(self) -> int:
        """Computations that wait for a core."""
        return len(self._waiting)

    def give_way(self, turn: Turn) -> None:
        """Let who waits have all cores but one, and an earlier deadline that one too; called by turns."""
        if self._waiting and turn.cores > 1:
            self.narrow(turn)
        now_s = self._clock()
        ages = turn.urgency == "file" or now_s > turn.deadline_s
        if ages and now_s - turn.began_s >= QUANTUM_S:
            turn.deadline_s = now_s + turn.patience_s
        first = next(iter(self._waiting), None)
        if turn.cores and first is not None and first.deadline_s < turn.deadline_s:
            self._wait(turn, 1)

    def narrow(self, turn: Turn) -> None:
        """Take back all cores of a turn but one; called by turns."""
        with self._lock:
            self._free += max(0, turn.cores - 1)
            turn.cores = min(turn.cores, 1)
            self._grant()

    def _wait(self, turn: Turn, most: int) -> None:
        """Queue, after handing back what the turn holds; nobody can slip in between."""
        ticket = _Ticket(turn.deadline_s, next(self._numbers), most)
        with self._lock:
            self._free += turn.cores
            turn.cores = 0
            heapq.heappush(self._waiting, ticket)
            self._grant()
        with turn.ending(ticket):
            ticket.ready.wait()
        with self._lock:
            turn.cores = ticket.granted
            if not ticket.granted:  # cancelled
                self._waiting.remove(ticket)
                heapq.heapify(self._waiting)
                self._grant()  # it may have been the first
        turn.began_s = self._clock()
        turn.raise_if_set()

    def _give_back(self, turn: Turn) -> None:
        with self._lock:
            self._free += turn.cores
            turn.cores = 0
            self._grant()

    def _grant(self) -> None:
        """Serve the queue from its head: a core each, and more only to the last of them."""
        while self._waiting and self._free:
            ticket = heapq.heappop(self._waiting)
            ticket.granted = max(1, min(ticket.most, self._free - len(self._waiting)))
            self._free -= ticket.granted
            ticket.ready.set()


def urgency_of(duration_s: float) -> Urgency:
    """Whose work a recording of so many seconds is."""
    return "clip" if duration_s <= CLIP_S else "file"


class Turn(CancelToken):
    """A core for one computation of one thread, and the token to pass on to it.

    Attributes:
        urgency: whose work it is.
        cores: how many it holds; 0 while it waits and after its end.
        deadline_s: by the scheduler's clock; the earliest goes first.
        began_s: when it got its core.
    """

    cores: int

    def __init__(self, scheduler: CoreScheduler, urgency: Urgency, cancel: CancelToken | None) -> None:
        """Come now; wait later."""
        super().__init__(cancel)
        if urgency not in PATIENCE_S:
            raise OptionError(f"urgency {urgency!r}", f"one of {', '.join(get_args(Urgency))}", "pass one")
        self._scheduler, self.urgency, self.patience_s = scheduler, urgency, PATIENCE_S[urgency]
        self.cores, self.began_s = 0, scheduler._clock()
        self.deadline_s = self.began_s + self.patience_s

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError once the call is cancelled; else let more urgent work go first."""
        self.raise_if_set()
        self._scheduler.give_way(self)

    def narrow(self) -> None:
        """Hand back all cores but one, where what follows uses no more."""
        if self.cores > 1:
            self._scheduler.narrow(self)

    def raise_if_set(self) -> None:
        """Raise CancelledError once the call is cancelled."""
        super().raise_if_cancelled()


class _Ticket:
    """A place in the queue: ordered by deadline, then by arrival."""

    def __init__(self, deadline_s: float, number: int, most: int) -> None:
        self.deadline_s, self.number = deadline_s, number
        self.most, self.granted = most, 0
        self.ready = threading.Event()

    def __lt__(self, other: _Ticket) -> bool:
        return (self.deadline_s, self.number) < (other.deadline_s, other.number)

    @property
    def terminate(self) -> bool:
        """Whether it no longer waits; a token sets it to wake who waits in vain."""
        return self.ready.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        if value:
            self.ready.set()


def _start_again() -> None:
    for scheduler in list(_ALL):
        scheduler._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_again)
