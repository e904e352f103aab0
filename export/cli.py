"""`engine-export`: checkpoints in, verified ONNX out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from engine._distribution import install_command
from engine.errors import DependencyError, EngineError
from engine.runtime.interrupts import run_program
from export import commands

EXIT_FAILED = 1
INTERRUPTED = "interrupted; nothing was written"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(
        "engine-export", lambda: _guarded(arguments), told=lambda: INTERRUPTED, whole_process=argv is None
    )


def _guarded(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        missing = DependencyError(
            f"{error.name} is not installed", "the extra [export]", install_command("export")
        )
        print(f"engine-export: {missing}", file=sys.stderr)
        return EXIT_FAILED
    except (EngineError, OSError) as error:
        print(f"engine-export: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="engine-export", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands.COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        if command.name in arguments[:1]:  # a command may import torch to list its options
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return int(options.run(options))
