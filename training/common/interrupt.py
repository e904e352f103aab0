"""Ctrl-C or SIGTERM in a long run: the step is finished, the state is saved, then the run ends."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from engine.runtime.interrupts import SIGNALS, Stopped

LOGGER = logging.getLogger("training.common.interrupt")


class Interrupt:
    """Inside its `with` block the first signal only sets `asked`; the second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT  # of the signal
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise Stopped(number)
        self.asked, self.number = True, number
        LOGGER.warning("interrupted: the step is finished and saved first; a second signal ends at once")
