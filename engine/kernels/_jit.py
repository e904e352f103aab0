"""The one decorator of every kernel: compiled once, cached on disk, free of the GIL.

The fast-math set leaves NaN and infinity alone: log-space code meets -inf all the time,
and with `nnan` or `ninf` a compiler may turn logaddexp(-inf, -inf) into NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

FASTMATH = frozenset({"nsz", "arcp", "contract", "afn"})


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function over contiguous arrays to machine code.

    Args:
        function: pure; no Python objects inside.
        options: more of numba.njit's options, for instance inline="always".
    Returns:
        The compiled dispatcher; it is cached beside the source or in numba's cache folder.
    """
    settings = {"cache": True, "nogil": True, "fastmath": set(FASTMATH), **options}
    if function is None:
        return lambda inner: numba.njit(**settings)(inner)
    return numba.njit(**settings)(function)
