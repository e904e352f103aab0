"""Many inputs in one run: finished ones are left out, Ctrl-C loses nothing, the end says how it went."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Final

from engine.cli.inputs import STDIN, Found, Input, read_standard_input
from engine.cli.terminal import complain
from engine.errors import CancelledError, EngineError, OptionError
from engine.runtime.cancel import CancelToken
from engine.runtime.interrupts import SIGNALS, restore_handlers, signals_held

MAX_NAMED: Final = 10  # failed inputs that the last line names


class Work:
    """The inputs of a run, and how far it got."""

    def __init__(self, found: Found, plan: Mapping[str, Sequence[Path]], *, skip_existing: bool) -> None:
        """Decide what is to be done.

        Args:
            found: all inputs. plan: the output paths of each; empty where results are printed.
            skip_existing: leave out an input all of whose outputs are there.
        Raises:
            OptionError: skip_existing without outputs.
        """
        if skip_existing and not plan:
            raise OptionError("--skip_existing without --output_dir", "a folder", "add --output_dir DIR")
        self.n_total = len(found.inputs)
        self.todo = [
            each for each in found.inputs if not (skip_existing and all(map(_is_file, plan[each.path])))
        ]
        self._writes = bool(plan)
        self._n_before = self.n_total - len(self.todo)
        self._n_done = 0
        self._failed: list[str] = []
        if found.n_left_out:
            files = "1 file that is" if found.n_left_out == 1 else f"{found.n_left_out} files that are"
            complain(f"engine: left out {files} not audio")

    def sources(self) -> list[Any]:
        """What is recognised for each input that is to be done: its path, bytes, or the error that it is."""
        return [_source(each) for each in self.todo]

    def fail(self, one: Input, error: EngineError) -> None:
        """Report an input that could not be done."""
        self._failed.append(one.label)
        complain(f"engine: error: {one.label}: {error}")

    def step(self) -> AbstractContextManager[None]:
        """Files and their count change together: Ctrl-C waits for that."""
        return signals_held() if self._writes else nullcontext()

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

    @contextmanager
    def stopping(self) -> Iterator[CancelToken]:
        """A token that Ctrl-C sets; where it comes, what is done is said, and how to go on."""

        def tell() -> None:
            if self.n_total > 1 and self._writes:
                complain(f"engine: {self._progress()}; run again with --skip_existing")

        with ended_by_signals(tell) as cancel:
            yield cancel

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
def ended_by_signals(tell: Callable[[], None]) -> Iterator[CancelToken]:
    """A token that Ctrl-C or SIGTERM sets before whatever else they do, so that no thread works on.

    Only the main thread takes signals, and only those are watched that somebody handles.

    Args:
        tell: says how far the work got; called when it was interrupted.
    """
    token = CancelToken()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        token.cancel()
        before[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if callable(handler)}
        for number in before:
            signal.signal(number, note)
    try:
        yield token
    except KeyboardInterrupt:
        tell()
        raise
    except CancelledError as error:
        tell()
        raise KeyboardInterrupt from error
    finally:
        restore_handlers(before)
