"""Parts of encoder-decoder models for the kernels: packed layers, embeddings, scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import FIX, EmbeddingSpec, SequenceLayerSpec
from engine.errors import LayoutError
from engine.kernels.encoder.layer import BLOCK_ROWS, Norm
from engine.kernels.layers.dense import Dense
from engine.kernels.seq2seq.layer import Work, embed_rows
from engine.kernels.seq2seq.plan import CrossAttention, Layer, OwnedNorm
from engine.kernels.seq2seq.rows import LANES
from engine.kernels.vector.gemm import TILE_ROWS
from engine.native.weights import Weights, expect

ACTIVATIONS = {"relu": 0, "swish": 1, "gelu": 2}  # as activate_row numbers them
F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Embeddings:
    """A table: int8 [vocab, d], float32 [vocab] scales with the model's own in them, positions [n, d]."""

    codes: NDArray[np.int8]
    scales: F32Array
    positions: F32Array

    def rows(self, ids: I64Array, first: I64Array) -> F32Array:
        """Embedded tokens [len(ids), d], with slack behind them."""
        out = rows_with_slack(len(ids), self.codes.shape[1])
        embed_rows(self.codes, self.scales, ids, self.positions, first, out)
        return out


def rows_with_slack(n_rows: int, n_columns: int) -> F32Array:
    """Zeroed float32 rows, and behind them what tiles may write."""
    return np.zeros((n_rows + TILE_ROWS, n_columns), np.float32)[:n_rows]


def make_work(
    n_rows: int, d: int, widest: int, n_positions: int, n_scores: int, norm_first: bool = False
) -> Work:
    """Scratch for n_rows of d channels.

    Args:
        widest: outputs of a layer. n_positions: whose places are noted. n_scores: of attention at once.
        norm_first: whether norms come before the blocks.
    """
    return Work(
        prepared=np.zeros((BLOCK_ROWS + TILE_ROWS) * max(d, widest) * 2, np.uint8),
        scale=np.zeros(BLOCK_ROWS + TILE_ROWS, np.float32),
        offset=np.zeros(BLOCK_ROWS + TILE_ROWS, np.float32),
        wide=rows_with_slack(n_rows, widest),
        mixed=rows_with_slack(n_rows, d),
        branch=rows_with_slack(n_rows, d),
        normed=rows_with_slack(n_rows if norm_first else 0, d),
        places=np.zeros(n_positions, np.int64),
        weights=np.zeros(n_scores, np.float32),
    )


def count_scores(n_heads: int, n_positions: int) -> int:
    """Floats that attend_places needs for one row."""
    return n_heads * (n_positions + LANES)


@dataclass(frozen=True)
class Plan:
    """What layers are to the kernels (engine.kernels.seq2seq.plan), and the layers, which own the memory."""

    numbers: I64Array
    layers: tuple[Any, ...]

    @staticmethod
    def of(layers: Sequence[Any]) -> Plan:
        """A row for each layer, a tuple of numbers and of such tuples; floats are kept as their bits."""
        return Plan(np.array([list(_numbers(layer)) for layer in layers], np.int64), tuple(layers))


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for part in value:
            yield from _numbers(part)
    else:
        yield int(np.float64(value).view(np.int64)) if isinstance(value, float) else int(value)


def read_layer(
    weights: Weights, spec: SequenceLayerSpec, d: int, cross: bool
) -> tuple[list[Dense], list[Norm]]:
    """Linear layers in the order in which they are read, and norms, over rows of d channels.

    Args:
        cross: whether the layer attends to a source too.
    Raises:
        LayoutError: other parts or sizes.
    """
    expect("attention to a source", spec.cross is not None, cross)
    specs = [(spec.qkv, d, 3 * d), (spec.output, d, d)]
    norms = [spec.norm, spec.feed_norm]
    if spec.cross is not None:
        specs += [(spec.cross.query, d, d), (spec.cross.output, d, d)]
        norms.insert(1, spec.cross.norm)
    inner = spec.feed_in.n_out
    specs += [(spec.feed_in, d, inner), (spec.feed_out, inner, d)]
    denses = [weights.product(*one).pack() for one in specs]
    return denses, [weights.norm(norm, d) for norm in norms]


def read_embeddings(
    weights: Weights, spec: EmbeddingSpec, vocab_size: int, d: int, n_positions: int
) -> Embeddings:
    """Tokens in int8 with at least n_positions positions.

    Raises:
        LayoutError: other sizes.
    """
    expect("embedded tokens", spec.tokens.n_rows, vocab_size)
    for table in (spec.tokens, spec.positions):
        expect("channels of the embeddings", table.n_columns, d)
    if spec.positions.n_rows < n_positions:
        raise LayoutError(f"{spec.positions.n_rows} positions", f"at least {n_positions}", FIX)
    return Embeddings(*weights.codes(spec.tokens), weights.table(spec.positions))


def make_layer(
    denses: Sequence[Dense], norms: Sequence[Norm], n_heads: int, activation: int, norm_first: bool = False
) -> tuple[Layer, CrossAttention | None]:
    """What read_layer gave: two norms, or three where there is a second attention."""
    qkv, output, *cross, feed_in, feed_out = denses
    first, *between, last = [OwnedNorm.of(norm) for norm in norms]
    layer = Layer(qkv, output, first, feed_in, feed_out, last, n_heads, activation, int(norm_first))
    return layer, CrossAttention(cross[0], cross[1], between[0]) if cross else None
