"""Ctrl-C and SIGTERM in our programs: the first signal ends the work in order, the next one at once.

Python's own way joins every thread before it ends, and a second signal meets libraries that are half taken
down, which then abort with a message of their own.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn, TextIO

GRACE_S: Final = 8.0  # for work that ends in order; container managers kill after 10 s
SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
FLUSH_S: Final = 1.0  # for a reader of the output who takes nothing
INTERRUPTED: Final = 128 + signal.SIGINT
AT_ONCE: Final = "ended at once; what was being written is not complete"


class Stopped(KeyboardInterrupt):
    """A signal asked to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell reports for the signal."""
        return 128 + self.number


def run_program(
    name: str,
    work: Callable[[], int],
    *,
    told: Callable[[], str] = lambda: "interrupted",
    whole_process: bool = True,
) -> int:
    """Run a program's work; Ctrl-C, SIGTERM or SIGHUP ends it with one line and 128 plus the signal's number.

    A second signal, or GRACE_S seconds after the first one, ends the process whatever it does. A signal that
    is ignored, as in the background of a shell, stays so.

    Args:
        name: of the program, before its messages.
        work: returns the exit code.
        told: what to say when it was interrupted.
        whole_process: end the process when interrupted, instead of returning. For a caller in the same
            process: False, and the handlers are as before.
    Returns:
        The exit code.
    """
    guard = _Guard(name)
    guard.install()
    try:
        return work()
    except KeyboardInterrupt as stopped:
        code = stopped.exit_code if isinstance(stopped, Stopped) else INTERRUPTED
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{name}: {told()}\n")
            sys.stderr.flush()
        if whole_process:
            _leave(code)
        return code
    finally:
        guard.remove()


@contextmanager
def signals_held() -> Iterator[None]:
    """A step that is done as a whole, as a file and its count: what a signal raises waits for its end.

    The signal's handler runs at once all the same, so that other threads end their work and the time that is
    left counts. The second signal does not wait. Only the main thread takes signals; others hold none.
    """
    held: list[BaseException] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except BaseException as error:
            if held:
                raise
            held.append(error)

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if callable(handler)}
        for number in before:
            signal.signal(number, note)
    try:
        yield
    finally:
        restore_handlers(before)
        if held:
            raise held[0]


def restore_handlers(before: Mapping[int, Any]) -> None:
    """Set the handlers of signals; all of them, also where a signal comes in between and is raised."""
    if before:
        number, *others = before
        try:
            signal.signal(number, before[number])
        finally:
            restore_handlers({other: before[other] for other in others})


class _Guard:
    """The handlers of one run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked = False
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def install(self) -> None:
        """Take the signals that are not ignored; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in wanted}

    def remove(self) -> None:
        """Give the handlers of before back."""
        if self._timer is not None:
            self._timer.cancel()
        restore_handlers(self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._end(number)
        self._asked = True
        self._timer = threading.Timer(GRACE_S, self._end, (number,))
        self._timer.daemon = True
        self._timer.start()
        raise Stopped(number)

    def _end(self, number: int) -> NoReturn:
        with suppress(OSError):
            os.write(2, f"{self._name}: {AT_ONCE}\n".encode())
        os._exit(128 + number)


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.flush()


def _leave(code: int) -> NoReturn:
    """End without joining threads: they may be in the middle of a long call."""
    for stream in (sys.stderr, sys.stdout):
        flusher = threading.Thread(target=_flush, args=(stream,), daemon=True)
        flusher.start()
        flusher.join(FLUSH_S)
    atexit._run_exitfuncs()  # ends child processes and deletes temporary folders
    os._exit(code)
