"""The command line: `engine-bench [options]`, and the subcommands in SUBCOMMANDS.

Exit codes: 0 measured (gate: passed), 1 some files failed (gate: regression), 2 could not measure,
130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import commands
from benchmarks.reports.provenance import provenance
from benchmarks.run import PARTIAL_SUFFIX
from benchmarks.studies import confidence as calibration
from benchmarks.studies import non_speech, phrases, serve, streams, text
from engine.errors import EngineError
from engine.runtime.interrupts import run_program

EXIT_UNMEASURED = 2
Configure = Callable[[argparse.ArgumentParser], None]
Command = Callable[[argparse.Namespace], int]
SUBCOMMANDS: dict[str, tuple[str, Configure, Command]] = {
    "": ("quality and speed of a German speech model", commands.configure_run, commands.run),
    "gate": (
        "compare with a baseline: exit 0 passed, 1 regression, 2 could not tell",
        commands.configure_gate,
        commands.gate,
    ),
    "sweep": (
        "speed over threads, batches, callers and lengths",
        commands.configure_sweep,
        commands.sweep,
    ),
    "text": ("BLEU, chrF, names and numbers of the translator on text alone", text.configure, text.run),
    "phrases": ("phrases that translators get wrong, with accepted answers", phrases.configure, phrases.run),
    "non-speech": ("words invented in sound without speech", non_speech.configure, non_speech.run),
    "stream": ("live streams: lag, CPU, errors and word times", streams.configure, streams.run),
    "serve": ("the HTTP service under load: texts, latency, memory", serve.configure, serve.run),
    "confidence": (
        "are words right as often as their confidence says",
        calibration.configure,
        calibration.run,
    ),
    "report": ("one HTML page from result files", commands.configure_report, commands.report),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments and arguments[0] in SUBCOMMANDS else ""
    purpose, configure, command = SUBCOMMANDS[name]
    parser = _parser(name, purpose)
    configure(parser)
    options = parser.parse_args(arguments[1:] if name else arguments)
    options.provenance = provenance("engine-bench", arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    return run_program(
        "engine-bench",
        lambda: _guarded(command, options),
        told=lambda: _interrupted(options),
        whole_process=argv is None,
    )


def _guarded(command: Command, options: argparse.Namespace) -> int:
    try:
        return command(options)
    except (EngineError, OSError) as error:
        print(f"engine-bench: {error}", file=sys.stderr)
        return EXIT_UNMEASURED


def _parser(name: str, purpose: str) -> argparse.ArgumentParser:
    others = [f"  {other:12}{SUBCOMMANDS[other][0]}" for other in SUBCOMMANDS if other]
    return argparse.ArgumentParser(
        prog=f"engine-bench {name}".strip(),
        description=f"Measure {purpose}." if not name else f"{purpose[0].upper()}{purpose[1:]}.",
        epilog="" if name else "\n".join(["subcommands (each has --help):", *others]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _interrupted(options: Any) -> str:
    if getattr(options, "json", None):
        kept = f"{options.json}{PARTIAL_SUFFIX}"
        return f"interrupted; what was measured is in {kept}; the same command continues from there"
    return "interrupted; nothing was saved (use --json OUT to save finished records)"


if __name__ == "__main__":
    sys.exit(main())
