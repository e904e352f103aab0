"""What streams show: finals as lines on standard output, the guess of the moment on a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from engine.cli.arguments import add_model, parse_boolean, parse_seconds
from engine.cli.interrupt import Interrupt
from engine.cli.settings import decoding_options, endpoint_options, load_model
from engine.cli.terminal import StatusLine, complain, say
from engine.errors import DeviceError
from engine.jobs.endpoints import EndpointOptions
from engine.jobs.streams import SpeechStream
from engine.output.events import event_to_dict
from engine.types import StreamEvent


class Audio(Protocol):
    """Chunks as they come in."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Those that come."""
        ...

    def rest(self) -> Iterator[NDArray[Any]]:
        """Those that have come and were not taken, when nobody waits for more."""
        ...


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """What `stream` and `listen` share."""
    parser.add_argument(
        "--task", choices=("transcribe", "translate"), default="transcribe", help="German text, or English"
    )
    parser.add_argument(
        "--output_format",
        choices=("txt", "jsonl"),
        default="txt",
        help="finals as lines, or every event as JSON",
    )
    parser.add_argument(
        "--pause_s", type=parse_seconds(0.1, 10.0), default=EndpointOptions().pause_s, metavar="S",
        help="silence that makes text final (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--hotwords", metavar="LIST", default="", help="words to favour, separated by commas")
    parser.add_argument(
        "--punctuation", type=parse_boolean, default=True, metavar="BOOL", help="capitals and punctuation"
    )
    parser.add_argument(
        "--numbers", choices=("words", "digits"), default="words", help="words as spoken, or digits"
    )
    add_model(parser)


def open_stream(options: argparse.Namespace, sample_rate: int) -> SpeechStream:
    """The stream that the command line describes."""
    settings, endpoint = decoding_options(options), endpoint_options(options)
    return load_model(options).open_stream(
        sample_rate, task=options.task, options=settings, endpoint=endpoint
    )


def show_stream(options: argparse.Namespace, stream: SpeechStream, audio: Audio) -> None:
    """Print what a stream says until its audio ends or Ctrl-C; then it is finished, and nothing is lost.

    Raises:
        OutputError, BrokenPipeError: as say(). DeviceError: the microphone is gone; after the last
            words. Whatever the stream raises. KeyboardInterrupt: again Ctrl-C.
    """
    with StatusLine(sys.stderr) as line, Interrupt() as interrupt:
        problem = None
        try:
            for chunk in interrupt.waiting(iter(audio)):
                _show(options, stream.feed(chunk), line)
        except DeviceError as error:  # a microphone that is gone; what it heard counts
            problem = error
        for chunk in audio.rest() if interrupt.stopped else ():
            _show(options, stream.feed(chunk), line)
        _show(options, stream.finish(), line)
    if problem is not None:
        raise problem


def _show(options: argparse.Namespace, events: list[StreamEvent], line: StatusLine) -> None:
    wanted = "translation" if options.task == "translate" else "final"
    for event in events:
        if event.kind != "speech_end":  # its final comes at once
            line.show(event.text if event.kind == "partial" else "")
        if options.output_format == "jsonl":
            say(json.dumps(event_to_dict(event), ensure_ascii=False))
        elif event.kind == wanted:
            say(event.text)
            for note in event.warnings:
                complain(f"engine: warning: {note}")
