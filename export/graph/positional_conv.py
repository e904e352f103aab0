"""wav2vec2's grouped positional convolution: as a convolution, or as one batched GEMM.

In onnxruntime's CPU kernels the GEMM is 1.2 to 1.5 times as slow (measured by
benchmarks/kernels/graph_rewrites.py).
It is for CUDA, where cuDNN would search for an algorithm at every new length.

A kernel of 128 taps over 16 groups of 48 channels is a poor shape for a convolution routine. With
128 = 8 * 16, sixteen shifted copies make rows of 16 * 48 values; one GEMM per group gives the partial
sums of the eight blocks of taps at once, and eight shifted slices of its result are added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.graph.builder import END, GraphBuilder
from export.graph.linear import FloatArray


@dataclass(frozen=True)
class PositionalConv:
    """torch's grouped convolution, weight [hidden, hidden / n_groups, width], padded to keep the length."""

    weight: FloatArray
    bias: FloatArray
    n_groups: int


def emit_positional_conv(graph: GraphBuilder, hidden: str, conv: PositionalConv) -> str:
    """GELU of the convolution over [batch, n_frames, hidden]; the same shape."""
    width = conv.weight.shape[2]
    pads = [width // 2, width - 1 - width // 2]
    weight, bias = graph.constant(conv.weight, "weight"), graph.constant(conv.bias, "bias")
    channels = graph.op("Transpose", hidden, perm=[0, 2, 1])
    sums = graph.op("Conv", channels, weight, bias, group=conv.n_groups, pads=pads)
    return graph.op("Gelu", graph.op("Transpose", sums, perm=[0, 2, 1]))


def emit_positional_gemm(graph: GraphBuilder, hidden: str, conv: PositionalConv) -> str:
    """The same by a product of every group's shifted rows."""
    n_hidden, size, width = conv.weight.shape
    taps = block_of_taps(width)
    n_blocks = width // taps
    pad = width // 2
    padded = graph.op("Pad", hidden, graph.integers(0, pad, 0, 0, width - 1 - pad, 0))
    split = graph.reshape(padded, 0, -1, conv.n_groups, size)
    groups = graph.op("Transpose", split, perm=[0, 2, 1, 3])
    shifted = [graph.slice(groups, tap, _end(tap, taps), 2) for tap in range(taps)]
    rows = graph.op("Concat", *shifted, axis=3)
    sums = graph.op("MatMul", rows, graph.constant(block_weights(conv, taps), "weight"))
    parts = []
    for block in range(n_blocks):
        in_time = graph.slice(sums, block * taps, _end(block * taps, width - taps + 1), 2)
        parts.append(graph.slice(in_time, block * size, (block + 1) * size, 3))
    total = parts[0] if n_blocks == 1 else graph.op("Sum", *parts)
    joined = graph.reshape(graph.op("Transpose", total, perm=[0, 2, 1, 3]), 0, -1, n_hidden)
    return graph.op("Gelu", graph.op("Add", joined, graph.constant(conv.bias, "bias")))


def block_of_taps(width: int) -> int:
    """The divisor of `width` at or above its square root that is nearest to it."""
    return next(taps for taps in range(math.isqrt(width - 1) + 1, width + 1) if width % taps == 0)


def block_weights(conv: PositionalConv, taps: int) -> FloatArray:
    """[n_groups, taps * size, n_blocks * size]: row (tap, input), column (block, output)."""
    n_hidden, size, width = conv.weight.shape
    parts = conv.weight.reshape(conv.n_groups, n_hidden // conv.n_groups, size, width // taps, taps)
    return np.ascontiguousarray(parts.transpose(0, 4, 2, 3, 1).reshape(conv.n_groups, taps * size, -1))


def _end(start: int, n_shifts: int) -> int:
    """Where a slice that starts at `start` ends, so that all `n_shifts` of them are equally long."""
    return END if start == n_shifts - 1 else start - n_shifts + 1
