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
        The compiled dispatcher; its code is cached beside the source, else in numba's cache
        folder. Where neither can be written it is compiled again in every process.
    """
    if function is None:
        return lambda inner: kernel(inner, **options)
    settings = {"nogil": True, "fastmath": set(FASTMATH), **options}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return numba.njit(**settings)(function)
