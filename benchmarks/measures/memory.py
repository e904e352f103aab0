"""How much memory a run takes: the process's peak, and what it holds on GPUs as the driver counts it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

QUERY = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
INTERVAL_S = 5.0  # nvidia-smi takes up to a second and leaves cold caches: not after every utterance
RSS_UNIT = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes there, KiB elsewhere, to MiB
NO_DRIVER = "no nvidia-smi here: no NVIDIA GPU, or no driver"
NOT_LISTED = "the driver lists no GPU memory of this process: none in use, or a container hides its number"
NOT_COUNTED = "the driver does not count GPU memory by process here"


def peak_rss_mb() -> float:
    """The most memory this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / RSS_UNIT


def parse_gpu_memory(answer: str) -> dict[int, float | None]:
    """MiB by process, over all GPUs.

    Args:
        answer: lines `pid, MiB`, one for each process and GPU; the driver may say [N/A] instead of a number.
    Returns:
        None for a process with a line that is not a number. Lines that are no such pair are left out.
    """
    found: dict[int, float | None] = {}
    for line in answer.splitlines():
        owner, comma, amount = (part.strip() for part in line.partition(","))
        if not comma or not owner.isdecimal():
            continue
        held = found.get(int(owner), 0.0)
        known = amount.replace(".", "", 1).isdecimal()
        found[int(owner)] = held + float(amount) if known and held is not None else None
    return found


def query_driver() -> str:
    """What nvidia-smi says about compute processes; raises OSError or SubprocessError."""
    return subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=True).stdout


class GpuWatch:
    """The highest of the driver's figures, asked between utterances and never within one.

    A peak between two questions is not seen; onnxruntime's and torch's allocators keep what they took,
    so what a process holds afterwards is close to it.
    """

    def __init__(
        self, ask: Callable[[], str] = query_driver, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask nothing yet.

        Args:
            ask: returns nvidia-smi's lines.
            clock: in seconds.
        """
        self._ask, self._clock = ask, clock
        self._highest: dict[int, float | None] = {}
        self._failure: str | None = None
        self._next_s = float("-inf")

    def sample(self, at_once: bool = False) -> None:
        """Ask the driver, unless it was asked INTERVAL_S ago or cannot be asked at all."""
        if self._failure or (self._clock() < self._next_s and not at_once):
            return
        try:
            held = parse_gpu_memory(self._ask())
        except FileNotFoundError:
            self._failure = NO_DRIVER
            return
        except (OSError, subprocess.SubprocessError) as error:
            self._failure = f"nvidia-smi failed ({error})"
            return
        self._next_s = self._clock() + INTERVAL_S
        for pid, amount in held.items():
            before = self._highest.get(pid)
            self._highest[pid] = amount if before is None or amount is None else max(before, amount)

    def peak_mb(self, pid: int) -> tuple[float | None, str | None]:
        """The most that a process was seen to hold, in MiB; or None and the reason."""
        if pid not in self._highest:
            return None, self._failure or NOT_LISTED
        highest = self._highest[pid]
        return highest, None if highest is not None else NOT_COUNTED
