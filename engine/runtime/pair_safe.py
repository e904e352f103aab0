"""Weights as int8 whose products with uint8 activations are exact on every x86-64 processor.

Processors without VNNI multiply uint8 by int8 with `pmaddubsw`, which adds the products of two neighbours
along the inner dimension in 16 bits and saturates. A single product always fits (255 * 127 < 2**15); a pair
fits if the sum of its two codes is at most 128 in magnitude, because activations are never negative. Codes
that keep to this bound are called pair-safe. For normally distributed weights it makes a quantisation step
1.3 times as long as that of plain int8, where 7-bit weights would make it twice as long.

Pairs are rows (0, 1), (2, 3), ... of a weight [n_in, n_out]; the last row of an odd number stands alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CODE = 127
MAX_PAIR = 128  # 255 * 128 = 32,640, and two more codes of one would be too many
_SMALLEST = 1e-12  # of a weight: a column of zeros needs a scale too

F32Array = NDArray[np.float32]


def quantize_columns(weight: F32Array, least_scale: float = 0.0) -> tuple[NDArray[np.int8], F32Array]:
    """Round a weight to pair-safe codes, with a scale for each column.

    Args:
        weight: float32 [n_in, n_out].
        least_scale: no scale is smaller; 1 keeps whole numbers that are small enough as they are.
    Returns:
        int8 [n_in, n_out] in [-127, 127], and float32 scales [n_out]: weight is about codes * scale, with an
        error of at most half a scale.
    """
    scale = np.maximum(_smallest_scales(weight), np.float32(least_scale))
    return _round(weight, scale), scale


def quantize_tensor(weight: F32Array) -> tuple[NDArray[np.int8], np.float32]:
    """Round a weight to pair-safe codes, with one scale: int8 [n_in, n_out] and float32.

    Args:
        weight: float32 [n_in, n_out].
    """
    scale = np.float32(_smallest_scales(weight).max(initial=np.float32(_SMALLEST / MAX_CODE)))
    return _round(weight, scale), scale


def quantize_stored(weight: F32Array) -> tuple[NDArray[np.int8], F32Array]:
    """Round what is int8 in the file only and multiplied in float: the shortest steps, not pair-safe.

    Args:
        weight: float32 [n_in, n_out], or a table [n_rows, n_columns].
    Returns:
        int8 of the same shape in [-127, 127], and float32 scales of the columns.
    """
    scale = (np.abs(weight).max(axis=0, initial=_SMALLEST) / MAX_CODE).astype(np.float32)
    return np.clip(np.rint(weight / scale), -MAX_CODE, MAX_CODE).astype(np.int8), scale


def is_pair_safe(codes: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Whether no pair of products with uint8 can leave 16 bits.

    Args:
        codes: int8 [n_in, n_out].
    Returns:
        bool [n_out], of each column.
    """
    # Codes of unlike signs cannot: at worst one of them is multiplied by zero.
    sums = np.add(codes[0 : len(codes) - 1 : 2], codes[1::2], dtype=np.int16)
    safe: NDArray[np.bool_] = np.all(np.abs(sums) <= MAX_PAIR, axis=0)
    return safe


def _smallest_scales(weight: F32Array) -> F32Array:
    """float32 [n_out]: the shortest steps with which both the codes and their pairs keep to the bounds."""
    weight = np.asarray(weight, np.float64)
    single = np.abs(weight).max(axis=0, initial=_SMALLEST) / MAX_CODE
    pair = np.abs(_pair_sums(weight)).max(axis=0, initial=0.0) / MAX_PAIR
    scales: F32Array = np.maximum(single, pair).astype(np.float32)
    return scales


def _round(weight: F32Array, scale: F32Array | np.float32) -> NDArray[np.int8]:
    exact = np.asarray(weight, np.float64) / scale
    codes = np.clip(np.rint(exact), -MAX_CODE, MAX_CODE).astype(np.int16)
    first, second = codes[0 : len(codes) - 1 : 2], codes[1::2]
    # The pair of exact values keeps to the bound, so its codes exceed it by one at most, where both were
    # rounded away from zero by half a step: there the one that was rounded further is rounded down instead.
    excess = np.abs(first + second) > MAX_PAIR
    away = np.abs(codes) - np.abs(exact)
    take_first = away[0 : len(codes) - 1 : 2] >= away[1::2]
    first -= np.sign(first) * (excess & take_first)
    second -= np.sign(second) * (excess & ~take_first)
    return codes.astype(np.int8)


def _pair_sums(array: NDArray[Any]) -> NDArray[Any]:
    """Sums of rows (0, 1), (2, 3), ..."""
    sums: NDArray[Any] = array[0 : len(array) - 1 : 2] + array[1::2]
    return sums
