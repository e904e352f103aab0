"""Systems as the comparison sees them: in this process, or one of those that a peer's worker serves."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from benchmarks.errors import PeerError
from benchmarks.peers.encoder_worker import Run, timed

FOLDER = Path(__file__).parent
TIMEOUT_S = 900.0  # torch.compile takes minutes for its first call


@dataclass(frozen=True)
class Answer:
    """One call: seconds inside the clock, and the logits where they were asked for and given."""

    wall_s: float
    cpu_s: float
    logits: Any = None


class System(Protocol):
    """Something to time."""

    def call(self, values: Path, output: Path | None = None) -> Answer:
        """Run once on a .npy file; raises PeerError where it cannot."""
        ...


class LocalSystem:
    """A callable in this process."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def call(self, values: Path, output: Path | None = None) -> Answer:
        """Reading the file is outside the clock."""
        try:
            logits, wall_s, cpu_s = timed(self.run, np.load(values))
        except Exception as error:
            raise PeerError(f"{type(error).__name__}: {error}") from error
        return Answer(wall_s, cpu_s, logits if output else None)


class Worker:
    """A peer's process."""

    def __init__(
        self, script: str | Path, python: str, arguments: Sequence[str], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Start it and wait until its models are loaded.

        Args:
            script: a file of this folder, or a path.
            python: the interpreter of the peer's environment.
            timeout_s: longest wait for any answer, in seconds.
        Raises:
            PeerError: it cannot be started, or is not installed there.
        """
        self.timeout_s = timeout_s
        self._end = ""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  - close() closes it
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        try:
            self._process = subprocess.Popen(
                [python, str(FOLDER / script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise PeerError(f"{python} cannot be started ({error.strerror})") from error
        try:
            ready = self.ask(None)
        except PeerError:
            self.close()
            raise
        self.names = [str(name) for name in ready["systems"]]
        self.signature = str(ready["signature"])

    def ask(self, request: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request (None: only listen) and wait for its answer.

        Raises:
            PeerError: the process ended or is silent (then every later call raises the same), or it
                answered with an error.
        """
        if self._end:
            raise PeerError(self._end)
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its end is found below, with the reason
            if request is not None:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], self.timeout_s)[0]:
            self._process.kill()
            self._end = f"no answer in {self.timeout_s:g} s"
            raise PeerError(self._end)
        line = self._process.stdout.readline()
        if not line:
            self._end = f"its process ended with exit code {self._process.wait()} ({self._last_words()})"
            raise PeerError(self._end)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise PeerError(f"it wrote {line[:80]!r} instead of JSON") from error
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:200] if lines else "it wrote no reason"

    def close(self) -> None:
        """End the process; safe to repeat."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


class WorkerSystem:
    """One of the systems that a worker serves."""

    def __init__(self, worker: Worker, name: str) -> None:
        self.worker, self.name = worker, name

    def call(self, values: Path, output: Path | None = None) -> Answer:
        """The worker's own clock counts, so that the pipe and the files are not in it."""
        request = {"system": self.name, "input": str(values), "output": str(output) if output else None}
        answer = self.worker.ask(request)
        logits = np.load(answer["output"]) if answer.get("output") else None
        return Answer(float(answer["wall_s"]), float(answer["cpu_s"]), logits)


@dataclass(frozen=True)
class Peer:
    """How to start a peer: the script, its arguments, and the environment it wants by default."""

    script: str
    arguments: tuple[str, ...]
    python: str = sys.executable


def start_peers(peers: dict[str, Peer]) -> tuple[dict[str, System], list[Worker], dict[str, str]]:
    """Start every peer.

    Returns:
        The systems by name, the workers to close, and why each peer that is left out is left out.
    """
    systems: dict[str, System] = {}
    workers, left_out = [], {}
    for name, peer in peers.items():
        try:
            worker = Worker(peer.script, peer.python, peer.arguments)
        except PeerError as error:
            left_out[name] = str(error)
            continue
        workers.append(worker)
        systems |= {system: WorkerSystem(worker, system) for system in worker.names}
    return systems, workers, left_out
