"""Opens the two graphs of an exported translator or second pass, with each backend of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from engine.errors import LayoutError
from engine.kernels.vector.levels import has_vector_kernels
from engine.runtime.graph_pair import PairRoles
from engine.runtime.onnx_session import Session, open_session
from export.layout.describe import ensure_layout
from export.verification.verify import CPU

Runner = TypeVar("Runner")


def open_pair_sessions(folder: Path, names: Mapping[str, str], roles: PairRoles) -> tuple[Session, Session]:
    """An export's graphs with onnxruntime, on one CPU thread. names: of the files, by role."""
    once, step = (open_session(folder / names[role], CPU, threads=1) for role in (roles.once, roles.step))
    return once, step


def open_pair_kernels(
    folder: Path,
    names: Mapping[str, str],
    roles: PairRoles,
    make: Callable[[bytes, bytes, Mapping[str, bytes]], Runner],
) -> Runner | None:
    """An int8 export's graphs with the engine's own kernels.

    Args:
        names: of the files, by role.
        make: the two graphs and their tables, by file name -> the runner.
    Returns:
        None where the kernels do not compute this model on this machine.
    """
    if not has_vector_kernels():
        return None
    tables = {names[roles.tables]: (folder / names[roles.tables]).read_bytes()}
    once, step = (
        ensure_layout((folder / names[role]).read_bytes(), role, tables) for role in (roles.once, roles.step)
    )
    try:
        return make(once, step, tables)
    except LayoutError:
        return None
