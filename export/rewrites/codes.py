"""Integer codes rounded again, so that neighbours along the inner dimension are pair-safe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.runtime.pair_safe import is_pair_safe, quantize_columns

Array = NDArray[Any]
# "matrix" [..., n_in, n_out]; "turned" [n_out, n_in]; "kernel" [n_out, n_in, width], of a convolution, whose
# rows the engine's own kernels read in the order (tap, input).
Layout = Literal["matrix", "turned", "kernel"]


@dataclass(frozen=True)
class Rounded:
    """New codes of a tensor.

    Attributes:
        codes: int8, in the layout of the file.
        factors: float32 [n_matrices, n_out], how many times as long the steps are; 1 where nothing changed.
    """

    codes: NDArray[np.int8]
    factors: NDArray[np.float32]
    layout: Layout

    @property
    def n_changed(self) -> int:
        """Columns with new codes."""
        return int((self.factors != 1).sum())


def round_codes(codes: NDArray[np.int8], layout: Layout) -> Rounded:
    """Round the columns that are not pair-safe, as if their codes were the weights; the others stay."""
    matrices = _as_matrices(codes, layout).copy()
    factors = np.ones((len(matrices), matrices.shape[2]), np.float32)
    for matrix, factor in zip(matrices, factors, strict=True):
        unsafe = ~is_pair_safe(matrix)
        if unsafe.any():
            matrix[:, unsafe], factor[unsafe] = quantize_columns(matrix[:, unsafe].astype(np.float32))
    return Rounded(_as_stored(matrices, codes.shape, layout), factors, layout)


def _as_matrices(codes: Array, layout: Layout) -> Array:
    """[n_matrices, n_in, n_out]."""
    if layout == "turned":
        return codes.T[None]
    if layout == "kernel":
        return codes.transpose(2, 1, 0).reshape(1, -1, len(codes))
    return codes.reshape(-1, *codes.shape[-2:])


def _as_stored(matrices: Array, shape: tuple[int, ...], layout: Layout) -> Array:
    if layout == "turned":
        return np.ascontiguousarray(matrices[0].T)
    if layout == "kernel":
        n_out, n_in, width = shape
        return np.ascontiguousarray(matrices[0].reshape(width, n_in, n_out).transpose(2, 1, 0))
    return matrices.reshape(shape)
