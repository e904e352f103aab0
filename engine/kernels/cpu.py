"""Which of the vector kernels this processor runs."""

from __future__ import annotations

import functools
import platform

import llvmlite.binding

BASE_FEATURES = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16")
MATRIX_FEATURE = "amx-int8"


@functools.cache
def has_vector_kernels() -> bool:
    """Whether the int8 and bfloat16 tiles run: x86-64 with AVX-512 VNNI and BF16."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    features = llvmlite.binding.get_host_cpu_features()
    return all(features.get(name, False) for name in BASE_FEATURES)


@functools.cache
def has_matrix_unit() -> bool:
    """Whether the processor multiplies matrices in a unit of its own (AMX), faster than these kernels."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get(MATRIX_FEATURE, False))
