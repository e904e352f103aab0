"""Our side of the protocol: a peer's process, from its start to its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import (
    PeerEndedError,
    PeerError,
    PeerLoadError,
    PeerNotInstalledError,
    PeerProtocolError,
    PeerRunError,
    PeerTimeoutError,
)
from benchmarks.protocol.worker.peer_worker import PROTOCOL, pack, unpack

WORKER_FOLDER = Path(__file__).parent / "worker"
OFFLINE = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}  # a peer's models are local folders
TIMEOUT_S = 900.0  # torch.compile takes minutes for its first call
END_TIMEOUT_S = 10.0
MAX_LINE_BYTES = 64 * 2**20
BY_HAND = f"run its script by hand with PYTHONPATH={'/'.join(WORKER_FOLDER.parts[-3:])}"


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What one run returned.

    Attributes:
        outputs: by name; JSON values and numpy arrays.
        wall_s, cpu_s: seconds by the peer's own clock, so that the pipe is not in them; CPU seconds are
            those of all threads of its process.
        peak_rss_mb: most memory of its process so far, in MiB; None where it does not report it.
    """

    outputs: dict[str, Any]
    wall_s: float
    cpu_s: float
    peak_rss_mb: float | None = None


class PeerProcess:
    """A peer that runs in its own process and environment."""

    def __init__(
        self,
        script: Path,
        *,
        python: str = sys.executable,
        arguments: Sequence[str] = (),
        threads: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Start a peer and ask it for its name and capabilities; load() loads its model.

        Args:
            script: the peer's script.
            python: the interpreter of the environment that the peer needs.
            arguments: passed on to the script.
            threads: that the peer may use; 0 is its own default.
            timeout_s: longest wait for any answer, in seconds.
        Raises:
            PeerError: it cannot be started, is not installed there, or speaks another protocol.
        """
        self.script, self.timeout_s = script, timeout_s
        self.name = script.stem
        self.load_time_s = 0.0
        self._dead: PeerError | None = None
        self._n_requests = 0
        self._folder = tempfile.TemporaryDirectory(prefix="peer_")
        self._stderr_path = Path(self._folder.name) / "stderr.txt"
        command = [python, str(script), *arguments, "--threads", str(threads)]
        self._process = self._start(command, _environment(threads))
        self.pid = self._process.pid
        # A peer that hangs is ended when the interpreter ends.
        self._finalizer = weakref.finalize(self, _end, self._process, self._folder)
        try:
            self._read_hello(self._ask({"ask": "hello"}))
        except PeerError:
            self.close()
            raise

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        try:
            with self._stderr_path.open("wb") as stderr:
                return subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                    env=environment, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._folder.cleanup()
            raise PeerError(
                f"{command[0]} cannot be started ({error.strerror})",
                "the interpreter of the peer's environment",
                "name another --peer_python",
            ) from error

    def _read_hello(self, hello: Mapping[str, Any]) -> None:
        if hello.get("protocol") != PROTOCOL:
            raise PeerProtocolError(
                f"{self.name} speaks protocol {hello.get('protocol')}", str(PROTOCOL), BY_HAND
            )
        self.name = str(hello.get("name", self.name))
        self.kind = str(hello.get("kind", ""))
        self.version = str(hello.get("version", ""))
        self.capabilities = tuple(map(str, hello.get("capabilities", ())))
        self.settings: dict[str, Any] = dict(hello.get("settings", {}))

    def load(self) -> None:
        """Load the peer's model.

        Raises:
            PeerError: it cannot be loaded; its process has ended.
        """
        try:
            answer = self._ask({"ask": "load"})
        except PeerError:
            self.close()
            raise
        self.load_time_s = float(answer.get("load_time_s", 0.0))
        self.settings = {**answer.get("settings", {}), **self.settings}

    @property
    def signature(self) -> str:
        """Name, settings and versions: "name:whisper|model:...|threads:1|level:...|version:..."."""
        parts = {"name": self.name, **self.settings, "version": self.version}
        return "|".join(f"{name}:{value}" for name, value in parts.items())

    def run(self, what: str, inputs: Mapping[str, Any]) -> PeerAnswer:
        """Run once.

        Args:
            what: one of the capabilities.
            inputs: by name; JSON values and numpy arrays.
        Raises:
            PeerRunError: it answered with an error; it can be asked again.
            PeerError: it ended, does not answer, or wrote something else; every later call raises the same.
        """
        folder = self._folder.name
        request = {"ask": "run", "what": what, "folder": folder}
        answer = self._ask({**request, "inputs": pack(inputs, Path(folder), "in")})
        try:
            memory = answer.get("peak_rss_mb")
            return PeerAnswer(
                unpack(answer["outputs"]),
                float(answer["wall_s"]),
                float(answer["cpu_s"]),
                None if memory is None else float(memory),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            shown = {key: value for key, value in answer.items() if key != "outputs"}
            raise self._give_up(
                PeerProtocolError(
                    f"{self.name} answered {str(shown)[:120]} ({type(error).__name__}: {error})",
                    "outputs, wall_s and cpu_s",
                    BY_HAND,
                )
            ) from error

    def close(self) -> None:
        """End the process and remove its temporary files; safe to repeat."""
        if self._dead is None:
            with contextlib.suppress(OSError):
                self._send({"ask": "end", "id": None})
            self._dead = PeerEndedError(f"{self.name} was closed")
        self._finalizer()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._dead is not None:
            raise self._dead
        self._n_requests += 1
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            _kill(self._process)

        timer = threading.Timer(self.timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(OSError):  # its end, with the reason, is found below
                self._send({**request, "id": self._n_requests})
            line = _pipe(self._process.stdout).readline(MAX_LINE_BYTES)
        finally:
            timer.cancel()
        if expired.is_set():
            self._process.wait()
            raise self._give_up(
                PeerTimeoutError(f"{self.name} gave no answer in {self.timeout_s:g} s", fix=BY_HAND)
            )
        return self._read_answer(line)

    def _send(self, request: Mapping[str, Any]) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(json.dumps(request).encode() + b"\n")
        pipe.flush()

    def _read_answer(self, line: bytes) -> dict[str, Any]:
        if not line:
            raise self._give_up(self._ended())
        try:
            answer = json.loads(line)
            error = answer.get("error")
            if answer.get("id") != self._n_requests:
                raise ValueError(f"id {answer.get('id')} to request {self._n_requests}")
        except (ValueError, AttributeError) as problem:
            raise self._give_up(
                PeerProtocolError(
                    f"{self.name} wrote {line[:80].decode('utf-8', 'replace')!r}",
                    "one JSON object per line, with the request's id",
                    BY_HAND,
                )
            ) from problem
        if error is not None:
            raise self._told(error)
        return dict(answer)

    def _told(self, error: Any) -> PeerError:
        """The exception for an error answer."""
        kind, message = "failed", str(error)
        if isinstance(error, dict):
            kind, message = str(error.get("type")), str(error.get("message"))
        if kind == "not_installed":
            return PeerNotInstalledError(f"{self.name} is not installed: {message}", fix=_INSTALL)
        if kind == "not_loaded":
            return PeerLoadError(f"{self.name} did not load: {message}", fix="correct its arguments")
        return PeerRunError(f"{self.name}: {message}")

    def _ended(self) -> PeerError:
        """Why the process ended: the last line that it wrote."""
        try:
            code = self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # it closed its output and is still running
            _kill(self._process)
            code = self._process.wait()
        lines = self._stderr_path.read_text("utf-8", "replace").strip().splitlines()
        words = lines[-1][:200] if lines else "it wrote no reason"
        if words.startswith(("ModuleNotFoundError", "ImportError")):
            return PeerNotInstalledError(f"{self.name} is not installed: {words}", fix=_INSTALL)
        return PeerEndedError(f"{self.name} ended with exit code {code} ({words})", fix=BY_HAND)

    def _give_up(self, error: PeerError) -> PeerError:
        """Remember why the peer cannot be asked again, and end it."""
        self._dead = error
        _kill(self._process)
        self._process.wait()
        return error


_INSTALL = "install benchmarks/peers/requirements into an environment and name its --peer_python"


def _environment(threads: int) -> dict[str, str]:
    """The worker's folder is the only addition to the peer's own path."""
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(WORKER_FOLDER)}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _pipe(pipe: Any) -> Any:
    assert pipe is not None
    return pipe


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that has not been waited for, and what it has started."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    """Wait a moment for a process to end, then end it and everything it has started."""
    with contextlib.suppress(OSError):
        _pipe(process.stdin).close()
    try:
        process.wait(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()
    _pipe(process.stdout).close()
    folder.cleanup()
