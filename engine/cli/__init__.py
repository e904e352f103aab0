"""`engine transcribe | translate | merge | stream | listen | info | warmup | serve | wyoming`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from engine.cli.terminal import complain
from engine.errors import AudioWarning, EngineError, HotwordWarning, OptionError, TranslationWarning
from engine.runtime.interrupts import run_program

OF_INPUT = (
    AudioWarning,
    HotwordWarning,
    TranslationWarning,
)  # warnings about what the user gave, not about the program
EXIT_OK, EXIT_FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process when None.
    Returns:
        0 when all went well, 1 when something failed, 2 for wrong usage, 130 or 143 when interrupted.
    """
    return run_program("engine", lambda: _run(arguments), whole_process=arguments is None)


def _run(arguments: Sequence[str] | None) -> int:
    logging.basicConfig(format="engine: %(message)s", stream=sys.stderr, level=logging.WARNING)
    try:
        _check_environment()
        from engine.cli.parser import build_parser  # it takes half a second, in which Ctrl-C may come

        options = build_parser().parse_args(arguments)
        with warnings.catch_warnings():
            for kind in OF_INPUT:
                warnings.simplefilter("always", kind)
            warnings.showwarning = _show_warning
            return int(options.run(options))
    except EngineError as error:
        complain(f"engine: error: {error}")
        return EXIT_FAILED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; there is nobody to tell
        return EXIT_FAILED
    except MemoryError:
        complain(
            "engine: error: memory is full; expected more of it; fix: lower --threads, or cut the recording"
        )
        return EXIT_FAILED
    except OSError as error:
        complain(f"engine: error: {error.filename or 'the system'}: {error.strerror or error}")
        return EXIT_FAILED


def _check_environment() -> None:
    """numba reads this when it is imported, and ends with a traceback."""
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not threads.isdecimal() or int(threads) < 1:
        raise OptionError(f"NUMBA_NUM_THREADS={threads!r}", "a whole number, 1 or more", "unset the variable")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    where = "" if issubclass(category, OF_INPUT) else f"{filename}:{lineno}: {category.__name__}: "
    complain(f"engine: warning: {where}{message}")
