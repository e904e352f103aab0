"""Compiles kernels for the active instruction set level instead of for the processor that compiles them.

numba compiles everything for the processor it runs on. Our dispatcher gives numba another code generator
while it compiles or loads a kernel, and restores numba's own afterwards: other code that a process compiles
with numba is not affected.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core.codegen import JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher, cpu_target

from engine.kernels._disk_cache import KernelCache, find_cache
from engine.kernels.vector.levels import NONE, Level, active


class _LevelCodegen(JITCPUCodegen):
    """numba's code generator for a level's processor type and features."""

    def __init__(self, level: Level) -> None:
        self._level = level
        super().__init__("engine.kernels")  # type: ignore[no-untyped-call]

    def _get_host_cpu_name(self) -> str:
        return self._level.processor

    def _get_host_cpu_features(self) -> str:
        return ",".join(self._level.features)


@functools.cache
def _codegen(level: Level) -> _LevelCodegen:
    return _LevelCodegen(level)


@contextmanager
def compiling_for(level: Level) -> Iterator[None]:
    """Within the block, numba makes code for a level. Other threads that compile wait."""
    context: Any = cpu_target.target_context
    with global_compiler_lock:
        before = context._internal_codegen
        if level.name != NONE:
            context._internal_codegen = _codegen(level)
        try:
            yield
        finally:
            context._internal_codegen = before


_make_cache: list[Callable[[Any], Any]] = [lambda function: KernelCache(function, find_cache())]


def keep_code_in(make_cache: Callable[[Any], Any]) -> None:
    """From now on, use another cache; make_cache is called once for each kernel."""
    _make_cache.append(make_cache)


class KernelDispatcher(CPUDispatcher):
    """numba's dispatcher, with a level and a cache of our own; both are found at the first call."""

    _has_cache = False

    def compile(self, sig: Any) -> Any:
        """Machine code of one signature: loaded, or compiled and saved.

        Raises:
            OptionError, DeviceError: ENGINE_CPU_LEVEL is wrong.
        """
        with compiling_for(active()):
            if not self._has_cache:
                self._has_cache, self._cache = True, _make_cache[-1](self.py_func)
            return super().compile(sig)
