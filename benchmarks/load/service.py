"""The service that is measured: a child process of ours, or one that runs on this machine already."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.errors import BenchmarkError, MeasurementError

LOCAL: Final = ("127.0.0.1", "::1", "localhost")
START_S: Final = 300.0  # kernels may have to be compiled
END_S: Final = 20.0
LISTENING: Final = re.compile(r"listening on (?:http|tcp)(://\S+)")
PR_SET_PDEATHSIG: Final = 1
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Service:
    """Where it listens, and what its process takes.

    Attributes:
        url: http://host:port. host, port: the same in parts.
        pid: of the process, where it is ours.
    """

    def __init__(self, url: str, pid: int | None = None) -> None:
        """Look at a service that runs.

        Raises:
            BenchmarkError: an address that is not of this machine.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in LOCAL or not parts.port:
            raise BenchmarkError(
                f"the service {url!r}", "http://127.0.0.1:PORT", "load only what is your own"
            )
        self.url, self.host, self.port, self.pid = url.rstrip("/"), parts.hostname, parts.port, pid

    def rss_mb(self) -> float:
        """Resident memory of the process, without its decoders."""
        if self.pid is None:
            return self.metric("process_resident_memory_bytes") / 1e6
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6

    def cpu_s(self) -> float:
        """Processor time of the process with its living decoders, in steps of 10 ms."""
        if self.pid is None:
            return self.metric("process_cpu_seconds_total")
        return sum(_cpu_ticks(pid) for pid in (self.pid, *_children(self.pid))) * TICK_S

    def metric(self, name: str) -> float:
        """A figure of /metrics.

        Raises:
            MeasurementError: it is not there.
        """
        found = re.findall(rf"^{name} (\S+)$", self.get("/metrics"), re.MULTILINE)
        if not found:
            raise MeasurementError(f"/metrics without {name}", "a service of this version on Linux")
        return float(found[0])

    def get(self, path: str) -> str:
        """The body of a page.

        Raises:
            MeasurementError: the service does not answer, or not with 200.
        """
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return str(answer.read().decode())
        except OSError as error:  # URLError and HTTPError among them
            raise MeasurementError(f"{path} of the service: {error}", "200", "look at its log") from error

    def model(self) -> str:
        """The name of the model."""
        return str(json.loads(self.get("/v1/models"))["data"][0]["id"])

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Wait until no request is in work.

        Raises:
            MeasurementError: that takes too long.
        """
        self.wait_for("queue_pending", lambda n: n == 0, seconds)

    def wait_for(self, gauge: str, holds: Any, seconds: float = 60.0) -> None:
        """Wait until a gauge of the service has a value that is wanted."""
        last_s = time.monotonic() + seconds
        while not holds(self.metric(f"speech_engine_{gauge}")):
            if time.monotonic() > last_s:
                raise MeasurementError(f"{gauge} that does not become as expected in {seconds:g} s")
            time.sleep(0.02)

    def close(self) -> None:
        """Nothing: it is not ours."""

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ChildService(Service):
    """A service that is started for the measurement and ends with it."""

    def __init__(
        self, arguments: list[str], program: tuple[str, ...] = ("-m", "engine"), command: str = "serve"
    ) -> None:
        """Start it and wait until it listens.

        Args:
            arguments: of the command.
            program: of the interpreter, before them. command: serve, or wyoming.
        Raises:
            MeasurementError: it ended, or did not listen in time; the message has its last line.
        """
        address = ["--host", "127.0.0.1", "--port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, "-P", *program, command, *address, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            process_group=0,  # Ctrl-C is ours; close() tells the child
            preexec_fn=_end_with_parent(),
        )  # fmt: skip
        atexit.register(self.close)
        self._tail: deque[str] = deque(maxlen=20)
        self._address = ""
        self._listens = threading.Event()
        threading.Thread(target=self._read_log, daemon=True).start()
        if not self._listens.wait(START_S) or not self._address:
            self.close()
            last = self._tail[-1] if self._tail else "nothing"
            raise MeasurementError(f"a service that did not start; it wrote {last!r}", "", "start it by hand")
        super().__init__(self._address, self._process.pid)

    def close(self) -> None:
        """End the process; safe to repeat."""
        atexit.unregister(self.close)
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail.append(line.rstrip())
            if not self._address and (found := LISTENING.search(line)):
                self._address = f"http{found[1]}"
                self._listens.set()
        self._listens.set()  # it has ended


def _end_with_parent() -> Callable[[], object] | None:
    """What a child calls first, so that it does not outlive this process, however that ends."""
    if sys.platform != "linux":
        return None
    set_option = ctypes.CDLL(None).prctl
    return lambda: set_option(PR_SET_PDEATHSIG, signal.SIGTERM)


def _cpu_ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))  # user and system, its own and of children that have ended
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found
