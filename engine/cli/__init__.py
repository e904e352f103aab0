"""`engine transcribe | translate | merge | stream | info | warmup | serve`."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from engine.cli.parser import build_parser
from engine.cli.terminal import complain
from engine.errors import AudioWarning, EngineError

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when None.
    Returns:
        0 when all went well, 1 when something failed, 2 for wrong usage, 130 when interrupted.
    """
    logging.basicConfig(format="engine: %(message)s", stream=sys.stderr, level=logging.WARNING)
    options = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", AudioWarning)
            warnings.showwarning = _show_warning
            return int(options.run(options))
    except EngineError as error:
        complain(f"engine: error: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        complain("engine: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; there is nobody to tell
        return EXIT_FAILED


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    where = "" if issubclass(category, AudioWarning) else f"{filename}:{lineno}: {category.__name__}: "
    complain(f"engine: warning: {where}{message}")
