"""The one decorator of every kernel: compiled once, cached on disk, without the GIL.

The fast-math set does not contain `nnan` and `ninf`: -inf is common in log-space code, and with
them a compiler may turn logaddexp(-inf, -inf) into NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from engine.kernels._dispatch import KernelDispatcher

FASTMATH = frozenset({"nsz", "arcp", "contract", "afn"})


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function over contiguous arrays to machine code.

    Args:
        function: pure; no Python objects inside.
        options: more of numba.njit's options, for instance inline="always".
    Returns:
        The compiled dispatcher; its code is cached on disk, see engine.kernels._disk_cache. Where no
        folder can be written, it is compiled again in every process.
    """
    if function is None:
        return lambda inner: kernel(inner, **options)
    settings = {"nopython": True, "nogil": True, "boundscheck": None, "fastmath": set(FASTMATH), **options}
    return KernelDispatcher(function, targetoptions=settings)


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function that only kernels call, as part of each of them.

    It has no separate code for calls from Python and no entry in the cache: a sixth less time to compile
    the decoder. An integer constant in a call is passed as an int64; `kernel` compiles the function once
    more for each such constant.

    Args:
        function, options: as for `kernel`.
    Returns:
        The function itself: called from Python, it runs as Python.
    """
    if function is None:
        return lambda decorated: inner(decorated, **options)
    return register_jitable(
        nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath=set(FASTMATH), **options
    )(function)


@kernel(inline="always")
def address(array: Any) -> Any:
    """Where an array begins, as int64.

    numba gives it as uint64, and a variable that holds both types becomes a float.
    """
    return np.int64(array.ctypes.data)
