"""The child process that decodes: started by its path, reads jobs and files from a socket, until it closes.

It imports nothing of the engine but the decoders, has no working directory on its path, and none of its
parent's environment. It ends with its parent, when it is told so, and at its limits of memory and time.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
from types import ModuleType
from typing import Any, Final

HEADER: Final = struct.Struct("<cI")  # kind of message, bytes that follow
FORM: Final = struct.Struct("<dIq")
IDLE_S: Final = 60.0
BEAT_S: Final = 1.0
STALL_CPU_S: Final = 20.0  # of processor time without a sign of life
MEMORY_BYTES: Final = 1 << 30
FILE_BYTES: Final = 1 << 20  # of what decoder libraries may print
MESSAGE_BYTES: Final = 1 << 20


def run_worker(socket_fd: int, lifeline_fd: int) -> None:
    """Serve jobs until the socket closes."""
    _end_with_parent(lifeline_fd)
    _limit()
    printed = _catch_prints()
    with socket.socket(fileno=socket_fd) as connection:
        while True:
            connection.settimeout(IDLE_S)
            job, file_fd = _receive_job(connection)
            connection.settimeout(None)
            os.ftruncate(printed, 0)
            os.lseek(printed, 0, os.SEEK_SET)
            _answer(_Sender(connection, printed), job, file_fd)


def _answer(sender: _Sender, job: dict[str, Any], file_fd: int) -> None:
    from engine.errors import EngineError

    _allow_cpu(job.pop("cpu_s"))
    signal.setitimer(signal.ITIMER_PROF, STALL_CPU_S)
    try:
        with open(file_fd, "rb", buffering=0) as file:
            sender.done(_decode(file, job, sender))
    except EngineError as error:
        content = {"kind": type(error).__name__, "got": error.got, "want": error.want, "fix": error.fix}
        sender.send(b"E", json.dumps(content).encode())
    signal.setitimer(signal.ITIMER_PROF, 0)


def _decode(file: Any, job: dict[str, Any], sender: _Sender) -> int:
    from engine.audio.decoding import Job, damaged, find_decoder
    from engine.errors import EngineError

    wanted = Job(**job)
    try:
        return find_decoder(wanted.kind)(file, wanted, sender)
    except ConnectionError:
        os._exit(1)  # the parent has left
    except EngineError:
        raise
    except Exception as error:
        raise damaged(wanted.name, wanted.container, error) from error


class _Sender:
    """Sends what decoders deliver to the parent; see decoding.Output."""

    def __init__(self, connection: socket.socket, printed: int) -> None:
        self._connection, self._printed = connection, printed
        self._done = False
        self._form: tuple[float, int, int | None] | None = None
        self._sent_s = 0.0
        self.has_notes = False

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Send one message; a sign of life."""
        self._connection.sendall(HEADER.pack(kind, len(content)))
        if content:
            self._connection.sendall(content)
        self._sent_s = time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, STALL_CPU_S)

    def done(self, n_tracks: int) -> None:
        if self._done:
            return
        if not self.has_notes and _tells_damage(os.pread(self._printed, FILE_BYTES, 0)):
            self.note("its decoder reports damage; words may be lost")
        self.send(b"D", struct.pack("<I", n_tracks))
        self._done = True

    def beat(self) -> None:
        if time.monotonic() - self._sent_s > BEAT_S:
            self.send(b"H")

    def note(self, text: str) -> None:
        self.has_notes = True
        self.send(b"N", text.encode("utf-8", "replace")[:1000])

    def form(self, sample_rate: float, n_channels: int, n_frames: int | None = None) -> None:
        form = (sample_rate, n_channels, n_frames)
        if form != self._form:
            self._form = form
            self.send(b"F", FORM.pack(sample_rate, n_channels, -1 if n_frames is None else n_frames))

    def audio(self, data: Any, sample_rate: float, n_channels: int) -> None:
        content = memoryview(data).cast("B")
        step = MESSAGE_BYTES // (4 * n_channels) * (4 * n_channels)
        for first in range(0, len(content), step):
            self.send(b"A", struct.pack("<dI", sample_rate, n_channels) + content[first : first + step])

    def silence(self, duration_s: float) -> None:
        if duration_s > 0:
            self.send(b"S", struct.pack("<d", duration_s))


def _receive_job(connection: socket.socket) -> tuple[dict[str, Any], int]:
    try:
        head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(4))
        if len(head) < 4:
            sys.exit(0)
        length = struct.unpack("<I", head)[0]
        content = bytearray()
        while len(content) < length:
            part = connection.recv(length - len(content))
            if not part:
                sys.exit(0)
            content += part
    except (TimeoutError, ConnectionError):
        sys.exit(0)
    descriptors = array.array("i", ancillary[0][2][:4])
    return json.loads(content), descriptors[0]


def _end_with_parent(lifeline_fd: int) -> None:
    """A pipe of which only the parent holds the other end: its closing kills, even in a library's call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(OSError, AttributeError):
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(lifeline_fd, fcntl.F_GETFL)
        fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
        if os.read(lifeline_fd, 1) == b"":  # it ended before we began to listen
            os._exit(0)


def _limit() -> None:
    for name, value in (("AS", MEMORY_BYTES), ("CORE", 0), ("FSIZE", FILE_BYTES)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _allow_cpu(cpu_s: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + cpu_s) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _catch_prints() -> int:
    """Decoder libraries print to stderr: into a file without a name, whose size tells that they did."""
    if hasattr(os, "memfd_create"):
        printed = os.memfd_create("printed")
        os.dup2(printed, 2)
        return printed
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        return os.dup(file.fileno())


def _tells_damage(printed: bytes) -> bool:
    """Whether a decoder printed more than it does for the first frames of files that are in order."""
    errors = [line for line in printed.splitlines() if b"error" in line]
    usual = [line for line in errors if b"part2_3_length" in line]
    return len(errors) > min(len(usual), 2)


def _stub(name: str, folder: str) -> None:
    """A package of which nothing is imported but what is asked for."""
    module = ModuleType(name)
    module.__path__ = [folder]
    sys.modules[name] = module


def main(arguments: list[str]) -> None:
    """Arguments: descriptors of socket and lifeline, the folder of the package, then the search path."""
    sys.path += arguments[3:]
    _stub("engine", arguments[2])
    _stub("engine.audio", os.path.join(arguments[2], "audio"))  # noqa: PTH118 - pathlib takes its time
    run_worker(int(arguments[0]), int(arguments[1]))
    os._exit(0)  # nothing of the libraries' state is worth cleaning up


if __name__ == "__main__":
    main(sys.argv[1:])
