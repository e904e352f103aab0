"""Python's warnings, as the engine gives them: at the caller's line, every time, and never kept."""

from __future__ import annotations

import sys
import warnings


def warn_caller(warning: Warning, depth: int = 0) -> None:
    """Warn at the line of a caller; warnings.warn would keep the texts of all files for ever.

    Args:
        depth: frames above the function that calls this one.
    """
    frame = sys._getframe(depth + 2)
    warnings.warn_explicit(warning, type(warning), frame.f_code.co_filename, frame.f_lineno, registry={})
