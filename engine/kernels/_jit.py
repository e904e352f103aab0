"""The one decorator of every kernel: compiled once, cached on disk, free of the GIL.

The fast-math set leaves NaN and infinity alone: log-space code meets -inf all the time,
and with `nnan` or `ninf` a compiler may turn logaddexp(-inf, -inf) into NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

FASTMATH = frozenset({"nsz", "arcp", "contract", "afn"})


def drop_stale_cache(folder: Path) -> None:
    """Delete cached machine code once any source in the folder has changed.

    numba renews a function's cache when its own file changes, not when a kernel that it calls in
    another file does; code for an old layout of arrays would then read outside of the new one.

    Args:
        folder: holds the sources, and numba's files in its __pycache__.
    """
    states = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.py"))
    ]
    stamp = f"{numba.__version__} {states}"
    cache = folder / "__pycache__"
    marker = cache / "kernels.stamp"
    with suppress(OSError):  # a folder that cannot be written holds no cache of ours
        if marker.is_file() and marker.read_text(encoding="utf-8") == stamp:
            return
        cache.mkdir(exist_ok=True)
        for path in cache.glob("*.nb[ci]"):
            path.unlink(missing_ok=True)
        marker.write_text(stamp, encoding="utf-8")


drop_stale_cache(Path(__file__).parent)


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


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function that only kernels call, as part of each of them.

    It gets no code of its own for calls from Python, and none of its own in the cache: half of what
    compiling a deep kernel took. Whole numbers written at the place of a call are taken as numbers of
    their type; `kernel` compiles the function once more for each of them.

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

    numba gives it as uint64; a variable that holds now the one, now the other becomes a float.
    """
    return np.int64(array.ctypes.data)
