"""Weights of a large model in a file that is mapped: they take memory only while they are read."""

from __future__ import annotations

import ctypes
import mmap
import sys
import tempfile
from collections.abc import Callable
from typing import Any, Final

from export.errors import ExportError

ALIGNMENT: Final = 64  # bytes


def map_weights(model: Any) -> Callable[[], None]:
    """Move a model's parameters and buffers into a temporary file that has no name and ends with the process.

    Args:
        model: a torch.nn.Module on the CPU; its values stay what they are, and are for reading.
    Returns:
        Lets the memory of the weights go, and what was freed elsewhere and not given back; whoever reads the
        weights next gets them from the file again.
    Raises:
        ExportError: the file cannot be written.
    """
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    try:
        with tempfile.TemporaryFile(prefix="export-") as file:
            starts = [_append(file, tensor.detach()) for tensor in tensors]
            file.flush()
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        size = sum(tensor.nbytes for tensor in tensors) / 1e9
        raise ExportError(
            f"the temporary file of the weights could not be written ({error})",
            f"{size:.1f} GB of free space in {tempfile.gettempdir()!r}",
            "free it, or set TMPDIR",
        ) from error
    for tensor, start in zip(tensors, starts, strict=True):
        if tensor.numel():
            flat = torch.frombuffer(view, dtype=tensor.dtype, count=tensor.numel(), offset=start)
            tensor.data = flat.view(tensor.shape)

    def let_go() -> None:
        if hasattr(mmap, "MADV_DONTNEED"):  # elsewhere the system takes pages when it needs them
            view.madvise(mmap.MADV_DONTNEED)
        trim_heap()

    let_go()
    return let_go


def trim_heap() -> None:
    """Give freed memory back where the C library keeps it: glibc does, of arrays up to 32 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _append(file: Any, tensor: Any) -> int:
    """Write a tensor's values, of any type; returns where they start."""
    import torch

    file.write(bytes(-file.tell() % ALIGNMENT))
    start: int = file.tell()
    if tensor.numel():
        file.write(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))
    return start
