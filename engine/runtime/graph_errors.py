"""What onnxruntime and sentencepiece say as errors of ours, and outputs that are not what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeviceError, ModelError

MAX_SAID = 300  # characters of what another library says
FLOATS = (np.float32, np.float16)


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    lines = str(error).splitlines()
    return lines[0][:MAX_SAID] if lines else type(error).__name__


def failure_of(what: str, error: Exception, device: str) -> ModelError | DeviceError:
    """An error of onnxruntime as one of ours: the GPU's where it names CUDA, else the graph's."""
    got = f"{what} ({first_line(error)})"
    if device == "cuda" and "cuda" in str(error).lower():
        return DeviceError(
            got, "a GPU with memory to spare", "use --device cpu, or stop other programs that use the GPU"
        )
    return ModelError(
        got, "a graph whose operators it knows", "export the model again, or upgrade onnxruntime"
    )


def expect_floats(array: Any, shape: Sequence[int | None], what: str) -> NDArray[Any]:
    """An output, if it is of floats and of this shape; None is any size.

    Args:
        what: whose output it is, and its name, for the error.
    Raises:
        ModelError: it is not.
    """
    sizes = getattr(array, "shape", ())
    fits = len(sizes) == len(shape) and all(
        want in (None, have) for have, want in zip(sizes, shape, strict=True)
    )
    if fits and array.dtype in FLOATS:
        found: NDArray[Any] = array
        return found
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    kind = getattr(array, "dtype", type(array).__name__)
    raise ModelError(
        f"{what} of shape {list(sizes)} and type {kind}", f"floats [{wanted}]", "export the model again"
    )


def not_exact() -> DeviceError:
    """The error of a graph whose integer products would be wrong here."""
    return DeviceError(
        "int8 products saturate on this processor, which lacks VNNI; shared layers cannot be converted",
        "pair-safe weights, as engine-export makes them, or float32",
        "export the model again, or round the weights of its bundle with `engine-export pair-safe`",
    )
