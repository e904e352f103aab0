"""`engine transcribe | translate | stream | info | warmup | serve`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from engine.cli.parser import build_parser
from engine.cli.terminal import complain
from engine.errors import EngineError

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
