"""`engine stream`: raw samples on standard input, text as it becomes certain."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import complain, say


def run_stream(options: argparse.Namespace) -> int:
    """Print text that will not change any more; on a terminal also the tentative tail."""
    translator = load_model(options)
    printed = ""
    live = sys.stderr.isatty()
    with _Microphone() as microphone:
        chunks = microphone.chunks(max(1, round(options.chunk_s * options.sample_rate)))
        for partial in translator.stream(chunks, options.sample_rate, options=decoding_options(options)):
            fresh = partial.stable_text[len(printed) :].strip()
            if fresh:
                say(fresh)
                printed = partial.stable_text
            if live:
                complain(f"\r\033[K… {partial.tentative_text[-100:]}", end="")
    if live:
        complain("\r\033[K", end="")
    return 0


class _Microphone:
    """Standard input, which a first Ctrl-C ends; what was said until then still counts.

    The signal interrupts a read that waits. While text is computed it is only noted, so that nothing is lost.
    """

    def __init__(self) -> None:
        self._reading = self._ended = False
        self._before: Any = None

    def __enter__(self) -> _Microphone:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def chunks(self, n_samples: int) -> Iterator[NDArray[Any]]:
        """Arrays int16 [n_samples] until the input ends or is ended; the last one may be shorter."""
        left = b""
        while block := self._read(2 * n_samples - len(left)):
            block = left + block
            whole = len(block) // 2 * 2
            left = block[whole:]
            yield np.frombuffer(block[:whole], dtype="<i2")

    def _read(self, n_bytes: int) -> bytes:
        try:
            self._reading = True  # before the question below: a signal between the two is not missed
            return b"" if self._ended else sys.stdin.buffer.read(n_bytes)
        except KeyboardInterrupt:
            self._ended = True
            return b""
        finally:
            self._reading = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._ended and callable(self._before):
            self._before(number, frame)  # a second one ends the program
        self._ended = True
        if self._reading:
            raise KeyboardInterrupt
