"""`engine stream`: raw samples on standard input, text as it becomes certain."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.cli.live import add_stream_options, open_stream, show_stream
from engine.cli.terminal import complain
from engine.errors import OptionError

SAMPLE_BYTES: Final = 2
PURPOSE: Final = "raw 16-bit mono samples on standard input to German or English text as it arrives"


def add_stream(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of the command."""
    from engine.cli.parser import _chunk, _positive

    parser = commands.add_parser("stream", help=PURPOSE, description=PURPOSE)
    parser.add_argument("--sample_rate", type=_positive, default=16_000, metavar="HZ")
    parser.add_argument(
        "--chunk_s", type=_chunk, default=0.1, metavar="S", help="seconds read at a time, at most"
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
    source = sys.stdin.buffer
    show_stream(options, stream, read_samples(source, max(1, round(options.chunk_s * options.sample_rate))))
    return 0


def read_samples(source: io.BufferedIOBase | Any, most: int) -> Iterator[NDArray[Any]]:
    """Samples as they come, int16 [n_samples], at most so many at a time."""
    left = b""
    while block := source.read1(SAMPLE_BYTES * most - len(left)):
        block = left + block
        whole = len(block) // SAMPLE_BYTES * SAMPLE_BYTES
        left = block[whole:]
        if whole:
            yield np.frombuffer(block[:whole], dtype="<i2")
    if left:
        complain("engine: warning: the audio ended in the middle of a sample; are these 16-bit samples?")
