"""Weights as the kernels read them: quantised or rounded, in panels, aligned to cache lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels.layers.dense import BF16, INT8, NO_ORDER, Dense, pack_weight, to_bf16
from engine.kernels.layers.order import put_in_order
from engine.kernels.vector.gemm import TILE_COLUMNS
from engine.kernels.vector.instructions import instructions
from engine.runtime.pair_safe import is_pair_safe

ALIGNMENT = 64
F32Array = NDArray[np.float32]
I32Array = NDArray[np.int32]


def aligned(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The bytes of an array at an address that is a multiple of a cache line's."""
    data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    buffer = _at_line(np.empty, data.size)
    buffer[:] = data
    return buffer


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """So many zeros at an address that is a multiple of a cache line's."""
    return _at_line(np.zeros, size)


def _at_line(make: Any, size: int) -> NDArray[np.uint8]:
    buffer: NDArray[np.uint8] = make(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size]


def pack_int8(
    weight: NDArray[np.int8], scale: F32Array, bias: F32Array | None, in_order: bool = False
) -> Dense:
    """A quantised layer.

    Args:
        weight: int8 [n_in, n_out]; n_in is padded with zeros to a multiple of 32.
        scale: float32 [n_out], or one for all. bias: float32 [n_out], or None.
        in_order: keep its steps in order, for other tiles than those of multiply_rows.
    """
    weight = _pad_rows(weight)
    scale = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), weight.shape[1:])
    sums = scale * weight.sum(axis=0, dtype=np.int64)
    any_codes = not is_pair_safe(weight).all()
    if not in_order and not any_codes and instructions().saturates:
        packed, steps = put_in_order(_pad_columns(weight))
        return _dense(INT8, weight, packed, scale, sums, bias, steps=steps)
    return _dense(INT8, weight, pack_weight(weight, 4), scale, sums, bias, any_codes)


def pack_bf16(weight: F32Array, bias: F32Array | None) -> Dense:
    """A layer rounded to bfloat16; weight float32 [n_in, n_out]."""
    weight = _pad_rows(weight)
    ones = np.ones(weight.shape[1], np.float32)
    return _dense(BF16, weight, pack_weight(to_bf16(weight), 2), ones, ones, bias)


def pack_together(layers: Sequence[Dense]) -> list[Dense]:
    """The same layers with their weights one behind the other, in the order in which they are read.

    What a layer fetches ahead at its end is then the next one's beginning, and a buffer of many megabytes
    lies in large pages.
    """
    buffer = aligned_bytes(sum(layer.arrays[0].nbytes for layer in layers))
    moved, at = [], 0
    for layer in layers:
        weight, *columns = layer.arrays
        place = buffer[at : at + weight.nbytes]
        place[:] = weight
        at += weight.nbytes
        scale, sums, bias = columns
        any_codes, steps = bool(layer.any_codes), layer.steps
        moved.append(
            Dense.of(layer.kind, layer.n_in, layer.n_out, place, scale, sums, bias, any_codes, steps)
        )
    return moved


def no_layer() -> Dense:
    """Stands where a layer is absent."""
    return pack_bf16(np.zeros((0, 0), np.float32), None)


def _dense(
    kind: int,
    weight: NDArray[np.generic],
    packed: NDArray[np.generic],
    scale: F32Array,
    sums: NDArray[np.generic],
    bias: F32Array | None,
    any_codes: bool = False,
    steps: I32Array = NO_ORDER,
) -> Dense:
    n_in, n_out = weight.shape
    padded = -(-n_out // TILE_COLUMNS) * TILE_COLUMNS
    columns = [
        np.pad(np.asarray(values, np.float32), (0, padded - n_out))
        for values in (scale, sums, np.zeros(n_out) if bias is None else bias)
    ]
    return Dense.of(kind, n_in, n_out, aligned(packed), columns[0], columns[1], columns[2], any_codes, steps)


def _pad_columns(weight: NDArray[Any]) -> NDArray[Any]:
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % TILE_COLUMNS)))


def _pad_rows(weight: NDArray[Any]) -> NDArray[Any]:
    return np.pad(weight, ((0, -len(weight) % TILE_COLUMNS), (0, 0)))
