"""Arrays of callers, as kernels take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def plain_float32(array: Any) -> NDArray[np.float32]:
    """The array itself, or a copy: float32, C-contiguous, aligned and writable.

    numba takes a read-only or unaligned array for another type, and compiles every kernel anew for it.
    """
    return np.require(array, np.float32, ("C", "A", "W"))
