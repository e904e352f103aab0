"""`engine stream`: raw samples on standard input, text as it becomes certain."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine.cli.arguments import parse_chunk, parse_positive
from engine.cli.live import add_stream_options, open_stream, show_stream
from engine.cli.terminal import complain
from engine.errors import OptionError

SAMPLE_BYTES: Final = 2
PIPE_BYTES: Final = 65_536  # that Linux keeps in a pipe
PURPOSE: Final = "transcribe or translate raw 16-bit mono samples from standard input as they arrive"


def add_stream(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of the command."""
    parser = commands.add_parser("stream", help=PURPOSE, description=PURPOSE)
    parser.add_argument("--sample_rate", type=parse_positive, default=16_000, metavar="HZ")
    parser.add_argument(
        "--chunk_s", type=parse_chunk, default=0.1, metavar="S", help="seconds read at a time, at most"
    )
    add_stream_options(parser)
    parser.set_defaults(run=run_stream)


def run_stream(options: argparse.Namespace) -> int:
    """Print text that will not change any more; on a terminal also the guess of the moment."""
    if sys.stdin is None or sys.stdin.isatty():
        raise OptionError(
            "standard input without audio", "raw 16-bit samples in a pipe",
            "ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | engine stream; for a microphone: engine listen",
        )  # fmt: skip
    stream = open_stream(options, options.sample_rate)
    most = max(1, round(options.chunk_s * options.sample_rate))
    show_stream(options, stream, SampleReader(sys.stdin.buffer, most))
    return 0


class SampleReader:
    """16-bit samples out of a pipe, as they come; iterate for int16 [n_samples]."""

    def __init__(self, source: BinaryIO, most: int) -> None:
        """Read at most so many samples at a time."""
        self._source, self._n_bytes, self._left = source, SAMPLE_BYTES * most, b""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Everything until the end of the pipe; says where that is in the middle of a sample."""
        while block := self._read(self._n_bytes - len(self._left)):
            yield from self._cut(block)
        if self._left:
            complain("engine: warning: the audio ended in the middle of a sample; are these 16-bit samples?")

    def rest(self) -> Iterator[NDArray[Any]]:
        """What waits in the pipe now."""
        try:
            os.set_blocking(self._source.fileno(), False)
        except (OSError, ValueError):  # no pipe
            return
        n_read = 0
        while n_read < PIPE_BYTES and (block := self._read(self._n_bytes)):
            n_read += len(block)
            yield from self._cut(block)

    def _read(self, n_bytes: int) -> bytes:
        return getattr(self._source, "read1", self._source.read)(n_bytes) or b""

    def _cut(self, block: bytes) -> Iterator[NDArray[Any]]:
        block = self._left + block
        whole = len(block) // SAMPLE_BYTES * SAMPLE_BYTES
        self._left = block[whole:]
        if whole:
            yield np.frombuffer(block[:whole], dtype="<i2")
