"""What a fuzzer found, case by case: outcomes, times, memory; written as JSON, from which it can go on."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

MAX_SECONDS = 2.0  # of one case
# A case that took MAX_SECONDS by the clock and less than this of the processor is run again.
NOISE_SECONDS = 1.0
HANG_SECONDS = 30.0  # of the processor; then it is broken off
WAITING = 8  # times as long by the clock: other programs may have the processor
MAX_GROWTH_MB = 64.0
RERUNS = 3


class HangError(BaseException):
    """A case that did not end; no handler of the code under test may catch it."""


class FuzzError(AssertionError):
    """A case that ended in anything but a result or a typed error, or that took too much."""


@dataclass
class Record:
    """Counts of a run, and what is needed to go on with it.

    Attributes:
        seed, done: case n of a seed is always the same; done: how many were run, from 0 on.
        outcomes: how many cases ended in what, by kind of input. slowest_s, slowest_cpu_s: of one case.
        growth_mb: the most memory of a case beyond that before it. reruns: of waiting cases.
        lines: lines that ran and all lines of functions, by module.
    """

    seed: int
    done: int = 0
    seconds: float = 0.0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_s: float = 0.0
    slowest_cpu_s: float = 0.0
    growth_mb: float = 0.0
    reruns: int = 0
    lines: dict[str, list[int]] = field(default_factory=dict)
    seen: dict[str, list[int]] = field(default_factory=dict)

    def count(self, kind: str, outcome: str) -> None:
        """Note the end of one case."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1
        self.done += 1

    def note(self, wall_s: float, cpu_s: float, growth_mb: float = 0.0) -> None:
        """Note what a case took."""
        self.slowest_s, self.slowest_cpu_s = max(self.slowest_s, wall_s), max(self.slowest_cpu_s, cpu_s)
        self.growth_mb = max(self.growth_mb, growth_mb)

    def total(self) -> Counter[str]:
        """Outcomes of all kinds."""
        return sum(self.outcomes.values(), Counter())

    def write(self, path: Path, command: str) -> None:
        """Write it, beside its place first."""
        seconds = ("seconds", "slowest_s", "slowest_cpu_s", "growth_mb")
        content: dict[str, Any] = {
            "command": command, "seed": self.seed, "done": self.done,
            "total": dict(self.total().most_common()),
            **{name: round(getattr(self, name), 3) for name in seconds},
            "reruns": self.reruns, "lines": self.lines, "share": self.share(),
            "outcomes": {kind: dict(found.most_common()) for kind, found in sorted(self.outcomes.items())},
            "python": platform.python_version(), "machine": platform.machine(), "seen": self.seen,
        }  # fmt: skip
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)

    def share(self) -> float:
        """Of all lines those that ran."""
        ran, all_lines = self.lines.get("all", [0, 0])
        return round(ran / max(1, all_lines), 4)

    @staticmethod
    def read(path: Path, seed: int) -> Record:
        """What was written, if it was of this seed; else an empty record."""
        if not path.is_file():
            return Record(seed)
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["seed"] != seed:
            return Record(seed)
        names = ("done", "seconds", "slowest_s", "slowest_cpu_s", "growth_mb", "reruns", "lines", "seen")
        outcomes = {kind: Counter(found) for kind, found in content["outcomes"].items()}
        return Record(seed, outcomes=outcomes, **{name: content[name] for name in names})


@contextmanager
def broken_off(seconds: float = HANG_SECONDS) -> Iterator[None]:
    """Raise HangError in the block when it computes for longer, or waits far longer; main thread only."""
    limits = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, WAITING * seconds),
    )

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError(f"no end after {seconds:g} s of the processor, or {WAITING * seconds:g} s")

    before = [signal.signal(number, stop) for _, number, _ in limits]
    for timer, _, limit in limits:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def timed(run: Callable[[], str], record: Record) -> str:
    """Run a case in this process; again where it waited for the processor, or was the first to load code.

    Raises:
        FuzzError: it took too long. Whatever the case raises.
    """
    for _ in range(RERUNS):
        wall, cpu = time.monotonic(), time.process_time()
        with broken_off():
            outcome = run()
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        if cpu <= MAX_SECONDS and (wall <= MAX_SECONDS or cpu > NOISE_SECONDS):
            break
        record.reruns += 1
    record.note(wall, cpu)
    if cpu > MAX_SECONDS:
        raise FuzzError(f"{cpu:.1f} s of the processor")
    return outcome


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform == "linux" else 1024**2)
