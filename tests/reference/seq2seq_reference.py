"""Slow twins of the kernels of encoder-decoder models: float64 and plain loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.reference.encoder_kernels_reference import from_bf16

F64Array = NDArray[np.float64]


def attend(
    query: NDArray[np.floating], keys: NDArray[np.floating], values: NDArray[np.floating], n_heads: int
) -> F64Array:
    """Attention of one row [d] over keys and values [n, d]."""
    head_dim, out = len(query) // n_heads, np.zeros(len(query))
    for head in range(n_heads):
        at = slice(head * head_dim, (head + 1) * head_dim)
        scores = keys[:, at].astype(np.float64) @ query[at].astype(np.float64) / np.sqrt(head_dim)
        weights = np.exp(scores - scores.max())
        out[at] = weights @ values[:, at].astype(np.float64) / weights.sum()
    return out


def log_softmax(logits: NDArray[np.floating]) -> F64Array:
    """Natural-log probabilities of one row."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def inherit(ancestors: list[list[int]], parents: list[int]) -> list[list[int]]:
    """The slots of each row's positions: those of its parent, then its own number."""
    return [[*ancestors[parent], row] for row, parent in enumerate(parents)]


def unpack_keys(keys: NDArray[np.uint16], n_frames: int, n_heads: int, head_dim: int) -> F64Array:
    """[n_frames, n_heads * head_dim] out of what engine.kernels.seq2seq.cross_attention describes."""
    n_positions = keys.size // (n_heads * head_dim)
    packed = from_bf16(keys).reshape(n_heads, n_positions // 32, head_dim // 2, 32, 2)
    out = np.zeros((n_frames, n_heads, head_dim))
    for frame in range(n_frames):
        column = frame // 2 + (n_positions // 2 if frame % 2 else 0)
        pairs = packed[:, column // 32, :, column % 32]
        out[frame] = np.concatenate([pairs[..., 0], pairs[..., 1]], axis=1)
    return out.reshape(n_frames, -1)


def unpack_values(values: NDArray[np.uint16], n_frames: int, n_heads: int, head_dim: int) -> F64Array:
    """[n_frames, n_heads * head_dim]."""
    n_positions = values.size // (n_heads * head_dim)
    packed = from_bf16(values).reshape(n_heads, head_dim // 32, n_positions // 2, 32, 2)
    out = np.zeros((n_frames, n_heads, head_dim // 32, 32))
    for frame in range(n_frames):
        out[frame] = packed[:, :, frame // 2, :, frame % 2]
    return out.reshape(n_frames, -1)
