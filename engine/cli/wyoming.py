"""`engine wyoming`: speech to text for home assistants."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import numpy as np

from engine._distribution import install_command
from engine.cli.arguments import (
    LONGEST_DRAIN_S,
    add_model,
    parse_boolean,
    parse_port,
    parse_positive,
    parse_seconds,
)
from engine.cli.settings import decoding_options, endpoint_options, load_model
from engine.errors import DependencyError, OptionError
from engine.jobs.endpoints import EndpointOptions

if TYPE_CHECKING:
    from engine.pipeline import SpeechTranslator
    from engine.serve.wyoming import WyomingServer, WyomingSettings

PURPOSE: Final = (
    "speech to text for Home Assistant and other clients of the Wyoming protocol (extra [wyoming])"
)
HOST, PORT = "127.0.0.1", 10_300
LOCAL: Final = ("127.0.0.1", "::1", "localhost")
EXIT_INTERRUPTED: Final = 130
LAST_S: Final = 1.0  # for cancelled work to notice
_log = logging.getLogger("engine.serve.wyoming")


def add_wyoming(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of the command."""
    parser = commands.add_parser("wyoming", help=PURPOSE, description=PURPOSE)
    parser.add_argument("--host", help=f"address to listen on ({HOST})")
    parser.add_argument("--port", type=parse_port, help=f"({PORT})")
    parser.add_argument("--uri", metavar="URI", help="tcp://HOST:PORT in place of both")
    parser.add_argument(
        "--zeroconf", nargs="?", const="", metavar="NAME",
        help="announce the server on the local network under this name (extra [zeroconf])",
    )  # fmt: skip
    parser.add_argument(
        "--task", choices=("transcribe", "translate"), default="transcribe", help="German text, or English"
    )
    parser.add_argument(
        "--pause_s", type=parse_seconds(0.1, 10.0), default=EndpointOptions().pause_s, metavar="S",
        help="silence that makes text final (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--end_at_pause", action="store_true",
        help="end the command at the first pause, even if the client does not",
    )  # fmt: skip
    parser.add_argument("--hotwords", metavar="LIST", default="", help="words to favour, separated by commas")
    parser.add_argument(
        "--numbers", choices=("words", "digits"), default="digits", help="digits, or words as spoken"
    )
    parser.add_argument(
        "--punctuation", type=parse_boolean, default=True, metavar="BOOL", help="capitals and punctuation"
    )
    parser.add_argument(
        "--full_stop", type=parse_boolean, default=False, metavar="BOOL",
        help="keep the full stop of a single sentence (false)",
    )  # fmt: skip
    parser.add_argument(
        "--max_clients",
        type=parse_positive,
        default=32,
        metavar="N",
        help="connections at the same time (32)",
    )
    parser.add_argument(
        "--max_duration_s",
        type=parse_positive,
        default=300,
        metavar="S",
        help="seconds of one recording (300)",
    )
    parser.add_argument(
        "--drain_s", type=parse_seconds(0.0, LONGEST_DRAIN_S), default=8.0, metavar="S",
        help="time for running recordings to finish at shutdown (8)",
    )  # fmt: skip
    parser.add_argument("--log_format", choices=("text", "json"), default="text")
    add_model(parser)
    parser.set_defaults(run=run_wyoming)


def run_wyoming(options: argparse.Namespace) -> int:
    """Load a model and serve it until told to end."""
    try:
        from engine.serve.wyoming import WyomingServer
    except ImportError as error:
        raise DependencyError(
            f"the Wyoming server needs a package that is missing ({error.name})",
            "the extra [wyoming]",
            install_command("wyoming"),
        ) from error
    from engine.serve.logs import configure_logs
    from engine.serve.transport.sockets import listen
    from engine.serve.wyoming.discovery import advertised, check_name, default_name, find_address

    host, port = read_address(options)
    if options.zeroconf is not None:
        find_address(host)
        check_name(options.zeroconf or default_name())
    sockets = listen(host, port)
    configure_logs(options.log_format)
    translator = load_model(options)
    settings = read_settings(options)
    warm_up(translator, settings)
    if host not in LOCAL:
        _log.warning("the protocol has no keys: everybody who reaches this port may use it")
    gc.freeze()  # a look of the collector through all that was imported stops every client for 0.1 s
    server = WyomingServer(translator, settings)
    advert = None
    if options.zeroconf is not None:
        advert = advertised(options.zeroconf or default_name(), host, sockets[0].getsockname()[1])
    server.run(sockets, advert)
    return _leave(server)


def read_address(options: argparse.Namespace) -> tuple[str, int]:
    """Host and port.

    Raises:
        OptionError: a URI that is none, or one beside the other two options.
    """
    if options.uri is None:
        return options.host or HOST, PORT if options.port is None else options.port
    if options.host is not None or options.port is not None:
        raise OptionError("--uri with --host or --port", "one way to say it", "leave one out")
    try:
        parts = urlsplit(options.uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme != "tcp" or host is None or port is None or parts.path.strip("/"):
        raise OptionError(f"--uri {options.uri!r}", "tcp://HOST:PORT", f"for instance tcp://0.0.0.0:{PORT}")
    return host, port


def read_settings(options: argparse.Namespace) -> WyomingSettings:
    """What the command line says, as the server takes it."""
    from engine.serve.wyoming import WyomingSettings

    usual = WyomingSettings()
    return WyomingSettings(
        task=options.task,
        decoding=decoding_options(options),
        endpoint=endpoint_options(options, usual.endpoint.partial_interval_s),
        ends_at_pause=options.end_at_pause,
        full_stop=options.full_stop,
        max_clients=options.max_clients,
        max_duration_s=options.max_duration_s,
        drain_s=options.drain_s,
    )


def warm_up(translator: SpeechTranslator, settings: WyomingSettings) -> None:
    """Load and run now what the first command would wait for."""
    call = translator.translate if settings.task == "translate" else translator.transcribe
    noise = np.random.default_rng(0).normal(0.0, 0.05, 16_000).astype(np.float32)
    call(noise, options=settings.decoding.replace(vad_filter=False))
    translator.open_stream(task=settings.task, options=settings.decoding).finish()


def _leave(server: WyomingServer) -> int:
    """The exit code; without threads that do not notice that their work is cancelled."""
    last_s = time.monotonic() + LAST_S
    while server.n_calls and time.monotonic() < last_s:
        time.sleep(0.02)
    code = EXIT_INTERRUPTED if server.interrupted else 0
    if server.n_calls:
        _log.warning("a recording did not end in time; the process ends without it")
        logging.shutdown()
        os._exit(code)
    if server.interrupted:
        raise KeyboardInterrupt
    return code
