"""Systems in turn in one run: ours in this process, peers in theirs.

A time is used only where the output is right.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.errors import PeerError, PeerRunError, WrongOutputError
from benchmarks.protocol.client import TIMEOUT_S, PeerAnswer, PeerProcess
from benchmarks.protocol.worker.peer_worker import Run, reason, timed

Inputs = Mapping[str, Any]
# Item number and outputs -> their error, or None where the error has no number.
Check = Callable[[int, Mapping[str, Any]], float | None]


class System(Protocol):
    """Something to time."""

    @property
    def signature(self) -> str:
        """Version and settings."""
        ...

    def run(self, inputs: Inputs) -> PeerAnswer:
        """Run once; raises PeerError where it cannot."""
        ...


class LocalSystem:
    """A function in this process, with the contract of a peer's Run."""

    def __init__(self, run: Run, signature: str = "") -> None:
        self._run, self.signature = run, signature

    def run(self, inputs: Inputs) -> PeerAnswer:
        """Only the call is timed."""
        try:
            outputs, wall_s, cpu_s = timed(self._run, inputs)
            return PeerAnswer(outputs() if callable(outputs) else outputs, wall_s, cpu_s)
        except Exception as error:
            raise PeerRunError(reason(error)) from error


class PeerSystem:
    """One capability of a peer."""

    def __init__(self, process: PeerProcess, what: str) -> None:
        self.process, self.what = process, what

    @property
    def signature(self) -> str:
        """The peer's."""
        return self.process.signature

    def run(self, inputs: Inputs) -> PeerAnswer:
        """The time is from the peer's own clock, so that it does not include pipe and files."""
        return self.process.run(self.what, inputs)


@dataclass(frozen=True)
class Roster:
    """How to start a peer: the script, its arguments and its interpreter."""

    script: Path
    arguments: tuple[str, ...]
    python: str
    threads: int = 1


@dataclass
class Timing:
    """One system's calls.

    Attributes:
        wall_s, cpu_s: seconds, [item][round].
        error: the largest that the check returned; None where it returned none.
        outputs: of the last round, by item.
    """

    wall_s: list[list[float]]
    cpu_s: list[list[float]]
    error: float | None = None
    outputs: list[Mapping[str, Any]] = field(default_factory=list)

    def best_s(self) -> float:
        """CPU seconds of all items, each in its fastest round."""
        return sum(map(min, self.cpu_s))

    def median_s(self) -> float:
        """CPU seconds of all items, each in its median round."""
        return sum(map(statistics.median, self.cpu_s))

    def rounds_s(self, clock: str = "cpu_s") -> list[float]:
        """Seconds of all items by round, by clock "cpu_s" or "wall_s"."""
        return [sum(times) for times in zip(*getattr(self, clock), strict=True)]


class Driver:
    """Runs systems in turn, so that other programs on the machine affect all of them equally."""

    def __init__(self, systems: Mapping[str, System] | None = None) -> None:
        """Args: systems: by name, those that need no start; start() adds peers."""
        self.systems: dict[str, System] = dict(systems or {})
        self.peers: list[PeerProcess] = []
        self.left_out: dict[str, str] = {}  # peers that could not be started, and why
        self.lost: dict[str, str] = {}  # systems that failed later, and why
        self._stack = ExitStack()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self, peers: Mapping[str, Roster], timeout_s: float = TIMEOUT_S) -> None:
        """Start and load peers; one that cannot be is left out, with the reason."""
        for name, peer in peers.items():
            try:
                process = PeerProcess(
                    peer.script, python=peer.python, arguments=peer.arguments, threads=peer.threads,
                    timeout_s=timeout_s,
                )  # fmt: skip
                self._stack.callback(process.close)
                process.load()
            except PeerError as error:
                self.left_out[name] = str(error)
                continue
            self.peers.append(process)
            self.systems |= {what: PeerSystem(process, what) for what in process.capabilities}

    def choose(self, names: Sequence[str] | None) -> None:
        """Select the systems of these names, in the systems' order; None: all.

        Raises:
            PeerError: a name that no system has.
        """
        unknown = set(names or ()) - set(self.systems)
        if unknown:
            left_out = "".join(f"; {name} is left out: {why}" for name, why in self.left_out.items())
            there = f"there are {', '.join(self.systems)}{left_out}"
            raise PeerError(f"no system is called {', '.join(sorted(unknown))}; {there}")
        if names is not None:
            self.systems = {name: self.systems[name] for name in self.systems if name in names}

    def run(
        self, items: Sequence[Inputs], rounds: int, check: Check, names: Sequence[str] | None = None
    ) -> dict[str, Timing]:
        """Run every system on every item in turn, after one round that is not timed.

        Args:
            items: inputs of the calls of one round.
            rounds: that are timed.
            check: called with every output, also of the timed rounds. Raises WrongOutputError.
            names: the systems that take part; None: all.
        Returns:
            By name, in the systems' order. A system that fails or whose output is wrong is in `lost`, with
            the reason, and not here; it is not called again.
        """
        timings = {
            name: Timing([[] for _ in items], [[] for _ in items], outputs=[{} for _ in items])
            for name in (self.systems if names is None else names)
            if name not in self.lost
        }
        for number, index, name in turns(list(timings), len(items), rounds + 1):
            if name in self.lost:
                continue
            try:
                answer = self.systems[name].run(items[index])
                error = check(index, answer.outputs)
            except PeerError as failure:
                self.lost[name] = str(failure)
                continue
            timing = timings[name]
            timing.outputs[index] = answer.outputs
            if error is not None:
                timing.error = max(error, timing.error or 0.0)
            if number:
                timing.wall_s[index].append(answer.wall_s)
                timing.cpu_s[index].append(answer.cpu_s)
        return {name: timing for name, timing in timings.items() if name not in self.lost}

    def signatures(self) -> list[str]:
        """Of the peers that were started."""
        return [peer.signature for peer in self.peers]

    def why_not(self) -> dict[str, str]:
        """Systems without figures, and why; systems with the same reason share an entry."""
        names: dict[str, list[str]] = {}
        for name, why in self.lost.items():
            names.setdefault(why, []).append(name)
        return {**self.left_out, **{", ".join(group): why for why, group in names.items()}}


def turns(names: Sequence[Any], n_items: int, rounds: int) -> Iterator[tuple[int, int, Any]]:
    """The order of turns: every system once for each item, each first equally often.

    Returns:
        Round, item and name, in order.
    """
    for number in range(rounds):
        for index in range(n_items):
            first = (number + index) % len(names) if names else 0
            for name in [*names[first:], *names[:first]]:
                yield number, index, name


def ratios(times: Mapping[str, Sequence[float]], ours: str) -> dict[str, float]:
    """How many times as long as ours each system takes: the median over calls made one after another.

    Args:
        times: seconds by name, call by call; the calls of one position belong together.
        ours: the name to compare with.
    """
    return {
        name: statistics.median(a / max(b, 1e-9) for a, b in zip(found, times[ours], strict=True))
        for name, found in times.items()
    }


def finite(name: str, values: Any) -> Any:
    """Check for an array of finite numbers.

    Raises:
        WrongOutputError: it is something else.
    """
    import numpy as np

    if not isinstance(values, np.ndarray) or not np.isfinite(values).all():
        shown = type(values).__name__ if not isinstance(values, np.ndarray) else "numbers that are not finite"
        raise WrongOutputError(f"{name}: {shown}", "an array of finite numbers")
    return values
