"""Ctrl-C in a long run: the step is finished, the state is saved, then the run ends."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

LOGGER = logging.getLogger("training.common.interrupt")


class Interrupt:
    """Inside its `with` block the first Ctrl-C only sets `asked`; the second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        LOGGER.warning("interrupted: the step is finished and saved first; Ctrl-C again ends at once")
