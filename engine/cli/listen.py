"""`engine listen`: what is said into a microphone, as it becomes certain."""

from __future__ import annotations

import argparse
from typing import Final

from engine.cli.live import add_stream_options, open_stream, show_stream
from engine.cli.terminal import say

PURPOSE: Final = "transcribe or translate speech from a microphone (extra [microphone])"


def add_listen(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of the command."""
    parser = commands.add_parser("listen", help=PURPOSE, description=PURPOSE)
    parser.add_argument(
        "--microphone", metavar="NAME", help="number or part of the name (default: the system's)"
    )
    parser.add_argument("--list_microphones", action="store_true", help="print the microphones and exit")
    add_stream_options(parser)
    parser.set_defaults(run=run_listen)


def run_listen(options: argparse.Namespace) -> int:
    """Print what is said until Ctrl-C."""
    from engine.cli.microphone import Microphone, list_devices

    if options.list_microphones:
        for device in list_devices():
            default = ", default" if device.is_default else ""
            say(f"{device.number}  {device.name} ({device.sample_rate} Hz{default})")
        return 0
    microphone = Microphone(options.microphone)  # which says that there is none before a model is loaded
    stream = open_stream(options, microphone.device.sample_rate)
    with microphone:
        show_stream(options, stream, microphone)
    return 0
