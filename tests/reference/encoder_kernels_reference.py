"""Slow twins of the encoder's kernels: float64 and plain loops, each written from its definition."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

F64Array = NDArray[np.float64]
_LEVELS = 255
_SMALLEST_SPAN = 1e-20


def quantize_row(row: NDArray[np.float32]) -> tuple[F64Array, float, int]:
    """Codes before rounding, scale and zero point of float32 [n]: the range, 0 included, in 255 steps."""
    values = row.astype(np.float64)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    scale = max(high - low, _SMALLEST_SPAN) / _LEVELS
    zero = round(-low / scale)
    return values / scale + zero, scale, zero


def round_bf16(values: NDArray[np.floating]) -> F64Array:
    """The nearest number of eight significant bits, the even one of two; no limits to the exponent."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)  # rint takes the even one


def bits_of_bf16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """What round_bf16 gives, as the upper half of float32."""
    return (round_bf16(values).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> F64Array:
    """Bits to numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def gelu(values: NDArray[np.floating]) -> F64Array:
    """x * Phi(x), by the error function."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return np.array([x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in flat]).reshape(np.shape(values))


def sigmoid(values: NDArray[np.floating]) -> F64Array:
    """1 / (1 + e^-x)."""
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(values, np.float64))


def layer_norm(
    rows: NDArray[np.floating], weight: NDArray[np.floating], bias: NDArray[np.floating], epsilon: float
) -> F64Array:
    """Over the last axis."""
    values = rows.astype(np.float64)
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def multiply_int8(
    codes: NDArray[np.uint8],
    zeros: NDArray[np.int64],
    row_scale: NDArray[np.floating],
    weight: NDArray[np.int8],
    column_scale: NDArray[np.floating],
    bias: NDArray[np.floating],
) -> F64Array:
    """(codes - zeros) [n_rows, n_in] times int8 [n_in, n_out] in whole numbers, then the scales."""
    sums = (codes.astype(np.int64) - zeros[:, None]) @ weight.astype(np.int64)
    return sums * row_scale.astype(np.float64)[:, None] * column_scale.astype(np.float64) + bias


def convolve(
    rows: NDArray[np.floating], weight: NDArray[np.floating], bias: NDArray[np.floating], stride: int
) -> F64Array:
    """rows [n_rows, n_in], weight [width, n_in, n_out] -> [n_frames, n_out], without padding."""
    width = len(weight)
    n_frames = (len(rows) - width) // stride + 1
    out = np.tile(np.asarray(bias, np.float64), (n_frames, 1))
    for frame in range(n_frames):
        for tap in range(width):
            out[frame] += rows[frame * stride + tap].astype(np.float64) @ weight[tap].astype(np.float64)
    return out


def positional_conv(
    hidden: NDArray[np.floating], weight: NDArray[np.floating], bias: NDArray[np.floating], n_groups: int
) -> F64Array:
    """GELU of torch's grouped convolution, weight [d, d / n_groups, width], width // 2 zeros in front."""
    n_frames, d = hidden.shape
    size, width = d // n_groups, weight.shape[2]
    padded = np.zeros((n_frames + width, d))
    padded[width // 2 : width // 2 + n_frames] = hidden
    out = np.tile(np.asarray(bias, np.float64), (n_frames, 1))
    for group in range(n_groups):
        channels = slice(group * size, (group + 1) * size)
        for tap in range(width):
            rows = padded[tap : tap + n_frames, channels]
            out[:, channels] += rows @ weight[channels, :, tap].T.astype(np.float64)
    return gelu(out)


def group_norm(
    rows: NDArray[np.floating], weight: NDArray[np.floating], bias: NDArray[np.floating], epsilon: float
) -> F64Array:
    """One channel a group: over time, float64 [n_frames, n_channels]."""
    return layer_norm(rows.T, np.ones(1), np.zeros(1), epsilon).T * weight + bias


def attention(
    query: F64Array, key: F64Array, value: F64Array, bias: NDArray[np.floating], n_heads: int
) -> F64Array:
    """Rows [n, d]; queries carry their scale; bias [n_keys].

    Weights are rounded to bfloat16, their sum is not.
    """
    parts = []
    for q, k, v in zip(*(np.split(array, n_heads, axis=1) for array in (query, key, value)), strict=True):
        scores = q @ k.T + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(round_bf16(weights) @ v / weights.sum(-1, keepdims=True))
    return np.concatenate(parts, axis=1)


def lstm(projected: NDArray[np.floating], recurrent: F64Array, backwards: bool) -> F64Array:
    """One direction.

    Args:
        projected: [n_frames, 4 * size], gates in the order input, output, forget, cell.
        recurrent: [size, 4 * size]. The state is rounded to bfloat16 before it enters the product.
    """
    size = len(recurrent)
    cell, state = np.zeros(size), np.zeros(size)
    out = np.empty((len(projected), size))
    order = range(len(projected))
    for frame in reversed(order) if backwards else order:
        gates = projected[frame].astype(np.float64) + round_bf16(state) @ recurrent
        enter, leave, keep = (sigmoid(part) for part in np.split(gates, 4)[:3])
        cell = keep * cell + enter * np.tanh(gates[3 * size :])
        state = leave * np.tanh(cell)
        out[frame] = state
    return out


def attention_in_codes(
    query: F64Array,
    key: F64Array,
    codes: F64Array,
    scale: F64Array,
    bias: NDArray[np.floating],
    n_heads: int,
    segment: int,
) -> tuple[F64Array, F64Array]:
    """Attention over values codes * scale, and how far rounding its weights may move it.

    Weights times scales are rounded to 255 steps of the largest of each segment of positions, so every
    product with a code is off by half a step at most.

    Args:
        query, key: rows [n, d] as their codes have them; queries carry their factor.
        codes: whole numbers [n_keys, d]. scale: [n_keys, n_heads]. bias: [n_keys].
    Returns:
        Two arrays [n_rows, d]: the result with exact weights, and the largest error.
    """
    exact, error = np.empty_like(query), np.empty_like(query)
    size = query.shape[1] // n_heads
    for head in range(n_heads):
        columns = slice(size * head, size * (head + 1))
        scores = query[:, columns] @ key[:, columns].T + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        products = weights * scale[:, head]
        exact[:, columns] = products @ codes[:, columns] / total
        error[:, columns] = 0.0
        for start in range(0, len(key), segment):
            part = slice(start, start + segment)
            half_steps = products[:, part].max(-1, keepdims=True) / (2 * _LEVELS) / total
            error[:, columns] += half_steps * np.abs(codes[part, columns]).sum(0)
    return exact, error
