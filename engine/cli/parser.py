"""Every option of the command line, in words that users of other recognisers already type."""

from __future__ import annotations

import argparse

from engine import __version__
from engine.cli.arguments import (
    LONGEST_DRAIN_S,
    add_model,
    parse_boolean,
    parse_integer,
    parse_port,
    parse_positive,
    parse_seconds,
)
from engine.cli.merge import add_merge
from engine.options import MAX_TRACK
from engine.output.formats import FORMATS


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as a parser."""
    from engine.cli.listen import add_listen
    from engine.cli.stream import add_stream
    from engine.cli.wyoming import add_wyoming

    parser = argparse.ArgumentParser(prog="engine", description="German speech to German and English text")
    parser.add_argument("--version", action="version", version=f"engine {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for task, purpose in (
        ("transcribe", "German speech to German text"),
        ("translate", "German speech, or text, to English text"),
    ):
        _add_task(commands.add_parser(task, help=purpose, description=purpose), task)
    add_merge(commands)
    add_stream(commands)
    add_listen(commands)
    _add_info(commands)
    _add_warmup(commands)
    _add_serve(commands)
    add_wyoming(commands)
    return parser


def _add_task(parser: argparse.ArgumentParser, task: str) -> None:
    from engine.cli.archive import add_inputs
    from engine.cli.files import run_files

    add_inputs(parser, required=task == "transcribe")
    if task == "translate":
        parser.add_argument(
            "--text_file",
            metavar="IN",
            help="translate a text file line by line, or subtitles: .srt, .vtt ('-': stdin)",
        )
        parser.add_argument(
            "--output", metavar="OUT", help="file for the translation of --text_file ('-': stdout)"
        )
        parser.add_argument("--bilingual", action="store_true", help="srt and vtt with German above English")
    parser.add_argument("--output_dir", metavar="DIR", help="write files there instead of printing")
    parser.add_argument(
        "--output_format",
        choices=(*FORMATS, "all"),
        default=None,
        help="default: txt; with --output_dir: all",
    )
    parser.add_argument(
        "--word_timestamps",
        action="store_true",
        help="word times in srt, vtt and tsv; json always has them",
    )
    parser.add_argument("--hotwords", metavar="LIST", default="", help="words to favour, separated by commas")
    parser.add_argument(
        "--channels",
        choices=("mix", "separate"),
        default="mix",
        help="separate: one speaker on each channel, as in calls; each is transcribed and labelled",
    )
    parser.add_argument(
        "--audio_track",
        type=_track,
        metavar="N",
        help="audio track of a video, counted from 1 (default: the first with speech)",
    )
    parser.add_argument(
        "--vad_filter", type=parse_boolean, default=True, metavar="BOOL", help="skip non-speech"
    )
    parser.add_argument(
        "--vad",
        default="energy",
        metavar="NAME",
        help="speech detector: energy, silero, or a Silero .onnx file",
    )
    parser.add_argument(
        "--punctuation", type=parse_boolean, default=True, metavar="BOOL", help="capitals and punctuation"
    )
    parser.add_argument(
        "--numbers", choices=("words", "digits"), default="words", help="words as spoken, or digits"
    )
    parser.add_argument("--verbose", action="store_true", help="German, English and stage timings")
    add_model(parser)
    parser.set_defaults(run=run_files, task=task)


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from engine.cli.info import run_info

    purpose = "describe a model, after checking its files"
    parser = commands.add_parser("info", help=purpose, description=purpose)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="bundle or .onnx file (the embedded bundle)"
    )
    parser.add_argument("--json", action="store_true", help="the manifest as JSON")
    parser.set_defaults(run=run_info)


def _add_warmup(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from engine.cli.warmup import run_warmup

    purpose = "compile kernels ahead of the first recording, for example while an image is built"
    parser = commands.add_parser("warmup", help=purpose, description=purpose)
    parser.add_argument(
        "--levels",
        nargs="+",
        metavar="LEVEL",
        help="also for these instruction set levels: avx2, avx-vnni, avx512, amx (this processor)",
    )
    add_model(parser)
    parser.set_defaults(run=run_warmup)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from engine.cli.serve import run_serve

    purpose = "HTTP service with OpenAI's audio endpoints"
    parser = commands.add_parser("serve", help=purpose, description=purpose)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=parse_port, default=8000)
    parser.add_argument(
        "--api_key", metavar="KEY", action="append",
        help="refuse requests without it; several times for several keys (better: ENGINE_API_KEY)",
    )  # fmt: skip
    parser.add_argument(
        "--cors_origins",
        metavar="LIST",
        default="",
        help="origins of web pages that may use the service, separated by commas, or *",
    )
    _add_bounds(parser)
    parser.add_argument("--log_format", choices=("text", "json"), default="text")
    add_model(parser)
    parser.set_defaults(run=run_serve)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    for name, default, unit, purpose in (
        ("--max_upload_mb", 25, "N", "MiB of one request"),
        ("--max_duration_s", 3600, "S", "seconds of one recording"),
        ("--max_pending", 32, "N", "complete requests waiting or running; further ones get 503"),
        (
            "--max_uploads",
            128,
            "N",
            "request bodies arriving at the same time; beyond that the slowest gets 503",
        ),
        ("--max_connections", 1000, "N", "open connections; beyond that an idle one is closed"),
        ("--upload_timeout_s", 120, "S", "time limit for a request body to arrive"),
        ("--request_timeout_s", 1800, "S", "time limit for answering a complete request"),
        ("--realtime_sessions", 16, "N", "WebSocket sessions at the same time; more are refused"),
        ("--realtime_idle_s", 300, "S", "a session that sends nothing for this long is closed"),
        ("--realtime_max_s", 3600, "S", "longest session"),
    ):
        parser.add_argument(
            name, type=parse_positive, default=default, metavar=unit, help=f"{purpose} ({default})"
        )
    parser.add_argument(
        "--drain_s",
        type=parse_seconds(0.0, LONGEST_DRAIN_S),
        default=8.0,
        metavar="S",
        help="time for running requests to finish at shutdown (8)",
    )


def _track(text: str) -> int:
    return parse_integer(text, 1, MAX_TRACK)
