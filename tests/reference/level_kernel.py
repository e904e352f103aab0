"""Kernels of the tests: compiled for the active instruction set level, and never cached.

numba.njit would compile them for the processor; the cache does not know when a test changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.kernels._jit import kernel


def level_kernel(function: Callable[..., Any]) -> Any:
    """Compile a function as `engine.kernels._jit.kernel` does, anew in every process."""
    dispatcher = kernel(function)
    dispatcher._has_cache = True
    return dispatcher
