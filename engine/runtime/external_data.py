"""Weights that an ONNX file keeps in other files: read, so that what happens to these later does not matter.

onnxruntime maps them, and a mapped file that is cut ends the process at the next touch (SIGBUS).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from engine.runtime.integer_products import Neighbours
from engine.runtime.onnx_file import read_graph

MAX_BYTES: Final = 256 << 20  # what is larger stays mapped, and must stay as it is while it is used


def read_external(model: Path) -> dict[str, bytes]:
    """The contents of the files beside a model that its tensors lie in, by name; not of very large ones.

    Empty for a model that cannot be read here: onnxruntime says why.
    """
    files = Neighbours(model.parent)
    try:
        read_graph(model.read_bytes(), files, nodes=False)
        paths = [model.parent / name for name in files]
        return {path.name: path.read_bytes() for path in paths if path.stat().st_size <= MAX_BYTES}
    except (OSError, ValueError, TypeError, LookupError):
        return {}
