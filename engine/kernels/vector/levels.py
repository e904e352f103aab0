"""Instruction set levels: what kernels are compiled for, and which of them this processor runs.

A level is a set of instructions that many processors share. Code is made for a level and not for the
processor that compiles it: what one machine has compiled runs on every machine of the level.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from typing import NamedTuple

import llvmlite.binding

from engine.errors import DeviceError, OptionError

VARIABLE = "ENGINE_CPU_LEVEL"
NONE = "none"
_AMX = ("amx-tile", "amx-int8")
BF16_FEATURE = "avx512bf16"
_AVX2 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512cd", "avx512vl", "avx512vnni")


class Level(NamedTuple):
    """What code is made for.

    Attributes:
        name: "avx2", "avx-vnni", "avx512", "amx" or "none".
        processor: LLVM's name of the processor type; "" for the one that compiles.
        features: LLVM's names of instruction sets beyond those of the processor type.
    """

    name: str
    processor: str
    features: tuple[str, ...]

    def has(self, feature: str) -> bool:
        """Whether the features hold one."""
        return f"+{feature}" in self.features


# Lowest first. LLVM's x86-64-v4 would rather not use registers of 512 bits.
LEVELS = {
    "avx2": Level("avx2", "x86-64-v3", ()),
    "avx-vnni": Level("avx-vnni", "x86-64-v3", ("+avxvnni",)),
    "avx512": Level("avx512", "x86-64-v4", ("+avx512vnni", "+avx512bf16", "-prefer-256-bit")),
    "amx": Level(
        "amx", "x86-64-v4",
        ("+avx512vnni", "+avx512bf16", *(f"+{name}" for name in _AMX), "-prefer-256-bit"),
    ),
}  # fmt: skip
NAMES = (*LEVELS, NONE)
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64
HOST = Level(NONE, "", ())
_forced: list[Level] = []
_NEEDS = {
    "avx2": _AVX2, "avx-vnni": (*_AVX2, "avxvnni"), "avx512": _AVX512,
    "amx": (*_AVX512, BF16_FEATURE, *_AMX),
}  # fmt: skip


@functools.cache
def host_features() -> dict[str, bool]:
    """LLVM's names of what this processor and its operating system support."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {}
    return dict(llvmlite.binding.get_host_cpu_features())


@functools.cache
def available() -> tuple[str, ...]:
    """The levels that this processor runs, lowest first."""
    return tuple(name for name in LEVELS if _on_this_processor(name) is not None)


def _on_this_processor(name: str) -> Level | None:
    """A level in the form that this processor runs; None where there is none.

    AVX-512 without bfloat16 (Ice Lake) multiplies bfloat16 as float32. A processor with AVX-512 VNNI but
    not AVX-VNNI (Zen 4) has the 256-bit products in another encoding.
    """
    features = host_features()

    def has(needed: tuple[str, ...]) -> bool:
        return all(features.get(feature, False) for feature in needed)

    level = LEVELS[name]
    if name == "avx512" and has(_AVX512) and not features.get(BF16_FEATURE, False):
        return level._replace(features=("+avx512vnni", "-prefer-256-bit"))
    if name == "avx-vnni" and not has(_NEEDS[name]) and has(_AVX512):
        return level._replace(features=("+avx512f", "+avx512vl", "+avx512vnni", "+prefer-256-bit"))
    return level if has(_NEEDS[name]) and (name != "amx" or may_use_matrix_unit()) else None


@functools.cache
def may_use_matrix_unit() -> bool:
    """Whether the system gives the matrix unit's registers to this process; it is asked once.

    Linux gives them to all threads, whose states grow by 8 KB while they use them. It refuses where a thread
    has too small a stack for signals.
    """
    return _request_matrix_unit()


def _request_matrix_unit() -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def force(level: Level) -> None:
    """Compile for a level whatever the processor is; for a process that compiles and does not run."""
    _forced.append(level)
    active.cache_clear()


@functools.cache
def active() -> Level:
    """The level that kernels are compiled for: the highest of this processor, or ENGINE_CPU_LEVEL.

    Raises:
        OptionError: the variable names no level. DeviceError: the processor lacks the level that it names.
    """
    if _forced:
        return _forced[-1]
    wanted = os.environ.get(VARIABLE, "").strip()
    if not wanted:
        wanted = available()[-1] if available() else NONE
    if wanted not in NAMES:
        raise OptionError(f"{VARIABLE}={wanted!r}", f"one of {', '.join(NAMES)}", "unset the variable")
    if wanted == NONE:
        return HOST
    level = _on_this_processor(wanted)
    if level is None:
        raise DeviceError(
            f"{VARIABLE}={wanted}, which this processor or its system does not have",
            f"one of {', '.join((*available(), NONE))}",
            "unset the variable",
        )
    return level


def has_vector_kernels() -> bool:
    """Whether the kernels of the encoder and the translator run here."""
    return active().name != NONE
