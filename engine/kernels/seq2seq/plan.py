"""Layers of an encoder-decoder model as rows of numbers, which cost a call nothing to pass.

A tuple of layers is unpacked number by number in every call from Python: 45 us for six layers, whose work
on one row took 1 ms (Xeon, level avx512). A row of the plan holds the fields of one layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import inner
from engine.kernels.encoder.layer import Norm
from engine.kernels.layers.dense import DenseFields

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]
DENSE, NORM = 10, 3  # numbers of each
CROSS = 4 * DENSE + 2 * NORM + 3  # where the fields of a CrossAttention begin: after those of a Layer


class RowNorm(NamedTuple):
    """Addresses of scale and shift, float32 [d], and what is added to the variance."""

    weight: int
    bias: int
    epsilon: float


class OwnedNorm(RowNorm):
    """A norm that owns its arrays: scale and shift, which the addresses point into."""

    arrays: tuple[F32Array, F32Array]

    @staticmethod
    def of(norm: Norm) -> OwnedNorm:
        """The same norm by addresses."""
        found = OwnedNorm(norm.weight.ctypes.data, norm.bias.ctypes.data, float(norm.epsilon))
        found.arrays = norm.weight, norm.bias
        return found


class Layer(NamedTuple):
    """Self-attention and feed-forward block.

    Attributes:
        activation: see engine.kernels.seq2seq.rows.activate_row.
        norm_first: norms before the blocks instead of after them.
    """

    qkv: DenseFields
    output: DenseFields
    attention_norm: RowNorm
    feed_in: DenseFields
    feed_out: DenseFields
    feed_norm: RowNorm
    n_heads: int
    activation: int
    norm_first: int


class CrossAttention(NamedTuple):
    """The decoder's attention over its source; keys and values are computed once per source."""

    query: DenseFields
    output: DenseFields
    norm: RowNorm


@inner
def dense_at(plan: I64Array, row: int, at: int) -> DenseFields:
    """The linear layer whose fields begin at a column."""
    return DenseFields(
        plan[row, at], plan[row, at + 1], plan[row, at + 2], plan[row, at + 3], plan[row, at + 4],
        plan[row, at + 5], plan[row, at + 6], plan[row, at + 7], plan[row, at + 8], plan[row, at + 9],
    )  # fmt: skip


@inner
def norm_at(plan: I64Array, row: int, at: int) -> RowNorm:
    """The norm whose fields begin at a column; its last one is the bits of a float64."""
    return RowNorm(plan[row, at], plan[row, at + 1], plan.view(np.float64)[row, at + 2])


@inner
def layer_at(plan: I64Array, row: int) -> Layer:
    """The layer that a row begins with."""
    feed, last = 2 * DENSE + NORM, CROSS - 3
    return Layer(
        dense_at(plan, row, 0), dense_at(plan, row, DENSE), norm_at(plan, row, 2 * DENSE),
        dense_at(plan, row, feed), dense_at(plan, row, feed + DENSE), norm_at(plan, row, feed + 2 * DENSE),
        plan[row, last], plan[row, last + 1], plan[row, last + 2],
    )  # fmt: skip


@inner
def cross_at(plan: I64Array, row: int) -> CrossAttention:
    """The attention over the source, after the layer's fields."""
    return CrossAttention(
        dense_at(plan, row, CROSS), dense_at(plan, row, CROSS + DENSE), norm_at(plan, row, CROSS + 2 * DENSE)
    )
