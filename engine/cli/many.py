"""Many inputs in one run: finished ones are left out, Ctrl-C loses nothing, the end says how it went."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from engine.cli.inputs import STDIN, Found, Input, read_standard_input
from engine.cli.terminal import complain
from engine.errors import EngineError, OptionError
from engine.runtime.cancel import CancelToken

MAX_NAMED: Final = 10  # failed inputs that the last line names
SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))


class Work:
    """The inputs of a run, and how far it got."""

    def __init__(self, found: Found, outputs: Sequence[tuple[Path, ...]], *, skip_existing: bool) -> None:
        """Decide what is to be done.

        Args:
            found: all inputs. outputs: the paths of each; empty where results are printed.
            skip_existing: leave out an input all of whose outputs are there.
        Raises:
            OptionError: skip_existing without outputs.
        """
        if skip_existing and not all(outputs):
            raise OptionError("--skip_existing without --output_dir", "a folder", "add --output_dir DIR")
        self.n_total = len(found.inputs)
        self.todo = [
            (each, paths)
            for each, paths in zip(found.inputs, outputs, strict=True)
            if not (skip_existing and all(map(_is_file, paths)))
        ]
        self._writes = bool(outputs) and all(outputs)
        self._n_before = self.n_total - len(self.todo)
        self._n_done = 0
        self._failed: list[str] = []
        if found.n_left_out:
            files = "1 file that is" if found.n_left_out == 1 else f"{found.n_left_out} files that are"
            complain(f"engine: left out {files} not audio")

    def sources(self) -> list[Any]:
        """What is recognised for each input that is to be done: its path, bytes, or the error that it is."""
        return [_source(each) for each, _ in self.todo]

    def fail(self, one: Input, error: EngineError) -> None:
        """Report an input that could not be done."""
        self._failed.append(one.label)
        complain(f"engine: error: {one.label}: {error}")

    def succeed(self) -> None:
        """Count an input that is done."""
        self._n_done += 1

    def finish(self) -> int:
        """Say how it went where there was more than one input.

        Returns:
            The exit code: 1 where an input failed.
        """
        if self.n_total > 1 and self._failed:
            more = len(self._failed) - MAX_NAMED
            names = ", ".join(self._failed[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
            complain(f"engine: {self._progress()}, {len(self._failed)} failed: {names}")
        elif self._n_before:
            complain(f"engine: {self._progress()}")
        return 1 if self._failed else 0

    def interrupted(self) -> None:
        """Say how far it got, and how to go on."""
        if self.n_total > 1 and self._writes:
            complain(f"engine: {self._progress()}; run again with --skip_existing")

    def _progress(self) -> str:
        earlier = f" ({self._n_before} of them earlier)" if self._n_before else ""
        return f"{self._n_before + self._n_done} of {self.n_total} done{earlier}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _source(one: Input) -> Any:
    if one.error is not None:
        return one.error
    if one.path != STDIN:
        return one.path
    try:
        return read_standard_input()
    except EngineError as error:
        return error


@contextmanager
def ended_by_signals() -> Iterator[CancelToken]:
    """A token that Ctrl-C or SIGTERM sets before whatever else they do, so that no thread works on.

    Only the main thread takes signals, and only those are watched that somebody handles.
    """
    token = CancelToken()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        token.cancel()
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield token
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
