"""Decoding in a child process, so that no file can end, block or bloat this one.

A worker serves one file at a time and is used again when it says that it is done with it, for MAX_JOBS
files. A limit or a cancelled call ends it. One that dies over its first file has crashed over this file; one
that had decoded others before is replaced once, as an earlier file may have damaged it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from engine.audio.decoding import Job, Output
from engine.audio.sink import Sink
from engine.errors import (
    AudioDecodeError,
    AudioLimitError,
    DependencyError,
    EngineError,
)

AVAILABLE: Final = hasattr(socket, "send_fds") and sys.platform != "win32"
POLL_S: Final = 0.05  # how soon a cancelled call is noticed
SILENT_S: Final = 600.0  # by the clock; the child ends itself after 20 s of computing in vain
MAX_IDLE: Final = 4
MAX_JOBS: Final = 100
BASE_CPU_S: Final = 60.0
CPU_S_PER_S: Final = 0.1  # of processor time for each second of audio that the limits allow
MESSAGE_BYTES: Final = (1 << 20) + 64
HEADER: Final = struct.Struct("<cI")
FORM: Final = struct.Struct("<dIq")
AUDIO: Final = struct.Struct("<dI")
ENVIRONMENT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR")
PACKAGE: Final = Path(__file__).resolve().parents[1]
_KINDS: Final[dict[str, type[EngineError]]] = {
    kind.__name__: kind for kind in (AudioDecodeError, AudioLimitError, DependencyError)
}


class _DiedError(Exception):
    """The worker is gone."""


def decode_in_child(descriptor: int, job: Job, sink: Sink) -> int:
    """Decode a file in a worker.

    Args:
        descriptor: of the file, seekable.
        job: what to decode. sink: takes the audio, checks the limits and whether the call is cancelled.
    Returns:
        The number of audio tracks that can be decoded.
    Raises:
        AudioDecodeError: it cannot be decoded, or its decoder crashed.
        AudioLimitError: beyond a limit, or of memory or time.
        CancelledError: the sink's token was set; the worker is ended.
    """
    while True:
        worker = _take()
        used = worker.n_jobs > 0
        try:
            return worker.decode(descriptor, job, sink)
        except _DiedError:
            code = worker.end()
            if not used:
                raise _describe(code, job) from None
            sink.restart()
        finally:
            _give_back(worker)


class Worker:
    """One child process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        numbers = [str(theirs.fileno()), str(lifeline)]
        script = str(PACKAGE / "audio" / "worker.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", script, *numbers, str(PACKAGE), *_search_path()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
                | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                cwd="/",
            )  # fmt: skip
        except OSError as error:
            ours.close()
            os.close(self._lifeline)
            raise DependencyError(
                f"a process for decoding cannot be started ({error.strerror})",
                "permission to start processes, and sys.executable to be Python",
                "convert the file to wav or flac, which are decoded in this process",
            ) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._socket = ours
        self.n_jobs = 0
        self.ready = True

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def decode(self, descriptor: int, job: Job, sink: Sink) -> int:
        """Decode one file; the worker is ready for the next one only if this one came to its end."""
        self.ready = False
        self.n_jobs += 1
        cpu_s = BASE_CPU_S + CPU_S_PER_S * sink.limits.max_duration_s
        request = json.dumps({**job._asdict(), "cpu_s": cpu_s}).encode()
        self._socket.settimeout(None)
        try:
            socket.send_fds(self._socket, [struct.pack("<I", len(request))], [descriptor])
            self._socket.sendall(request)
        except OSError as error:
            raise _DiedError from error
        self._socket.settimeout(POLL_S)
        n_tracks = None
        while n_tracks is None:
            kind, content = self._receive(sink)
            self.ready = kind in (b"D", b"E")
            try:
                n_tracks = _deliver(kind, content, sink)
            except (struct.error, ValueError, LookupError, TypeError) as error:
                if isinstance(error, EngineError):
                    raise
                raise _DiedError from error  # what it sent is no message
        return n_tracks

    def end(self) -> int:
        """End the child at once; return its exit status, negative for the signal that ended it."""
        self.ready = False
        with contextlib.suppress(OSError):
            if self._process.poll() is None and not self._closing():
                self._process.kill()
        self._socket.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        return self._process.wait()

    def disown(self) -> None:
        """Close what a forked process inherited: it would keep the child alive without its parent."""
        self._socket.close()
        os.close(self._lifeline)
        self._lifeline = -1

    def _closing(self) -> bool:
        """Whether the child has closed its end, so that its own exit status is about to come."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(0)
            if self._socket.recv(1, socket.MSG_PEEK) == b"":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=1.0)
        return self._process.poll() is not None

    def _receive(self, sink: Sink) -> tuple[bytes, bytearray]:
        kind, length = HEADER.unpack(self._receive_bytes(HEADER.size, sink))
        if length > MESSAGE_BYTES:
            raise _DiedError
        return kind, self._receive_bytes(length, sink)

    def _receive_bytes(self, length: int, sink: Sink) -> bytearray:
        content = bytearray(length)
        view, n_read, heard_s = memoryview(content), 0, time.monotonic()
        while n_read < length:
            sink.beat()
            try:
                n_new = self._socket.recv_into(view[n_read:])
            except TimeoutError:
                if time.monotonic() - heard_s > SILENT_S:  # stopped, or waiting for a disk that is gone
                    raise AudioLimitError(
                        f"no answer from its decoder for {SILENT_S:g} s",
                        "a file that can be read",
                        "copy it to a local disk",
                    ) from None
                continue
            except OSError as error:
                raise _DiedError from error
            if n_new == 0:
                raise _DiedError
            n_read, heard_s = n_read + n_new, time.monotonic()
        return content


def _search_path() -> list[str]:
    """Where the decoder libraries are installed; never the working directory, where anybody may put files."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        here = None
    paths = [Path(entry) for entry in sys.path if entry]
    return [str(path) for path in paths if path.is_absolute() and path != here]


def _deliver(kind: bytes, content: bytearray, sink: Output) -> int | None:
    """Pass a message on; return the number of tracks with the last one."""
    if kind == b"A":
        sample_rate, n_channels = AUDIO.unpack_from(content)
        sink.audio(memoryview(content)[AUDIO.size :], sample_rate, n_channels)
    elif kind == b"F":
        sample_rate, n_channels, n_frames = FORM.unpack(content)
        sink.form(sample_rate, n_channels, None if n_frames < 0 else n_frames)
    elif kind == b"S":
        sink.silence(struct.unpack("<d", content)[0])
    elif kind == b"N":
        sink.note(content.decode("utf-8", "replace"))
    elif kind == b"E":
        error = json.loads(content)
        raise _KINDS[error["kind"]](error["got"], error["want"], error["fix"])
    elif kind == b"D":
        return int(struct.unpack("<I", content)[0])
    return None


def _describe(code: int, job: Job) -> EngineError:
    """The error for a worker that died over a file."""
    fix = "convert it, for instance `ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.flac`"
    if -code in (signal.SIGXCPU, signal.SIGPROF):
        return AudioLimitError(f"{job.name} takes too long to decode", "less work for its length", fix)
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return AudioDecodeError(
        f"{job.name} begins as {job.container} but cannot be decoded (its decoder crashed: {how})",
        f"a complete and undamaged {job.container} file",
        fix,
    )


_idle: list[Worker] = []
_lock = threading.Lock()


def _take() -> Worker:
    while True:
        with _lock:
            worker = _idle.pop() if _idle else None
        if worker is None:
            return Worker()
        if worker.alive:
            return worker
        worker.end()


def _give_back(worker: Worker) -> None:
    if worker.ready and worker.n_jobs < MAX_JOBS:
        with _lock:
            if len(_idle) < MAX_IDLE:
                _idle.append(worker)
                return
    worker.end()


def close_workers() -> None:
    """End all idle workers."""
    with _lock:
        workers, _idle[:] = _idle[:], []
    for worker in workers:
        worker.end()


def _forget() -> None:
    """After a fork the workers belong to the parent."""
    global _lock
    _lock = threading.Lock()
    for worker in _idle:
        worker.disown()
    _idle.clear()


atexit.register(close_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
