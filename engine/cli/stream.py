"""`engine stream`: raw samples on standard input, text as it becomes certain."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import complain, say


def run_stream(options: argparse.Namespace) -> int:
    """Print text that will not change any more; on a terminal also the tentative tail."""
    translator = load_model(options)
    chunks = _read_chunks(max(1, round(options.chunk_s * options.sample_rate)))
    printed = ""
    live = sys.stderr.isatty()
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


def _read_chunks(n_samples: int) -> Iterator[NDArray[Any]]:
    left = b""
    while block := _read(2 * n_samples - len(left)):
        block = left + block
        whole = len(block) // 2 * 2
        left = block[whole:]
        yield np.frombuffer(block[:whole], dtype="<i2")


def _read(n_bytes: int) -> bytes:
    try:
        return sys.stdin.buffer.read(n_bytes)
    except KeyboardInterrupt:  # how a live stream is ended; what was said until then still counts
        return b""
