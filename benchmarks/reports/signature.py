"""The signature of a figure: what was measured, on which data and machine, with which settings."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.data.manifest import Utterance
from benchmarks.measures.metrics import scorer_signature
from benchmarks.measures.reference import KERNEL_VERSION
from benchmarks.reports.provenance import commit
from engine.bundle.signature import cpu_model
from engine.kernels.vector.levels import active

VERSIONED = ("numpy", "numba", "onnxruntime-gpu", "onnxruntime", "jiwer", "sacrebleu")
VECTOR_UNITS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),  # ARM
)


def data_digest(utterances: Sequence[Utterance]) -> str:
    """Eight hex digits that change with any reference, file name, file size or part."""
    digest = hashlib.sha256()
    for item in utterances:
        parts = [item.id, str(item.path.stat().st_size), item.text_de, item.text_en or ""]
        if item.is_part:
            parts += [str(item.offset_s), str(item.duration_s)]
        digest.update("\t".join(parts).encode() + b"\n")
    return digest.hexdigest()[:8]


def sign(system: str, task: str, digest: str, n_utterances: int, warmup: int, repeats: int) -> str:
    """The whole signature, in the form name:value|name:value, the system's own first."""
    return "|".join(
        [
            system,
            f"task:{task}",
            f"data:{digest}",
            f"n:{n_utterances}",
            f"warmup:{warmup}",
            f"repeats:{repeats}",
            scorer_signature(),
            f"reference:{KERNEL_VERSION}",
            f"commit:{commit()}",
        ]
    )


def environment() -> dict[str, Any]:
    """Machine, versions and time, for the result file."""
    return {
        "cpu": cpu_model(),
        "vector_units": vector_units(),
        "level": active().name,
        "python": platform.python_version(),
        "system": platform.system(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: found for name in VERSIONED if (found := _version(name))},
    }


def vector_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str] | None:
    """Which of VECTOR_UNITS the processor has: the name on cloud machines is often only "AMD EPYC".

    Returns:
        None where the system does not report them.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):  # x86, ARM
            return [name for name in VECTOR_UNITS if name in line.split()]
    return None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
