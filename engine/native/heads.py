"""From the last layer's rows to logits: the final norm, an LSTM where there is one, the output layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import EncoderSpec, LstmSpec
from engine.kernels.encoder.layer import BLOCK_ROWS, Norm, Scratch, dense_rows, normalize_rows
from engine.kernels.encoder.lstm import run_direction
from engine.kernels.layers.dense import Dense, to_bf16
from engine.kernels.vector.gemm import TILE_ROWS, vector_columns
from engine.native.buffers import rows_of
from engine.native.packing import aligned, pack_bf16, pack_int8
from engine.native.weights import Weights, beyond_kernels, expect
from engine.native.workers import Workers

F32Array = NDArray[np.float32]
MULTIPLE_COLUMNS = 128  # of an LSTM's gates: the columns of its tiles at any level


@dataclass(frozen=True)
class Lstm:
    """A bidirectional layer.

    Attributes:
        project: what the input contributes to the gates of both directions, with the biases.
        recurrent: packed bfloat16 bytes of each direction. size: of the state.
    """

    project: Dense
    recurrent: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    size: int

    def run(self, rows: F32Array, workers: Workers) -> F32Array:
        """float32 [n_frames, n] -> [n_frames, 2 * size]."""
        projected = multiply(self.project, rows)
        out = rows_of(len(rows), 2 * self.size)

        def run(worker: int, start: int, end: int) -> None:
            for direction in range(start, end):
                run_direction(projected, self.recurrent[direction], self.size, direction, out)

        workers.share(2, 1, run)
        return out


@dataclass(frozen=True)
class Head:
    """Final norm (None where the layers end with one), LSTM (or None), output."""

    norm: Norm | None
    lstm: Lstm | None
    output: Dense

    def run(self, hidden: F32Array, workers: Workers) -> F32Array:
        """float32 [n_frames, d], changed in place -> logits [n_frames, vocab_size]."""
        if self.norm is not None:
            n_frames, d = hidden.shape
            place = hidden.ctypes.data
            normalize_rows(self.norm, place, 4 * d, n_frames, d, place, 4 * d)
        if self.lstm is not None:
            hidden = self.lstm.run(hidden, workers)
        return np.ascontiguousarray(multiply(self.output, hidden)[:, : self.output.n_out])


def multiply(layer: Dense, rows: F32Array) -> F32Array:
    """A packed layer over float32 rows [n_rows, n_in] -> [n_rows, padded columns]."""
    n_rows, n = rows.shape
    out = rows_of(n_rows, layer.padded)
    none, slack = np.zeros((0, 0), np.float32), BLOCK_ROWS + TILE_ROWS
    scratch = Scratch(
        np.zeros(slack * n * 2, np.uint8), np.zeros(slack, np.float32), np.zeros(slack, np.float32),
        none, none, none, np.zeros(0, np.float32), np.zeros(0, np.uint16),
    )  # fmt: skip
    for at in range(0, n_rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, n_rows - at)
        source, target = rows[at:].ctypes.data, out[at:].ctypes.data
        dense_rows(layer, source, 4 * n, count, scratch, target, 4 * layer.padded)
    return out


def read_head(weights: Weights, spec: EncoderSpec, d: int) -> Head:
    """The head of a graph, over rows of d channels.

    Raises:
        LayoutError: one that the kernels do not compute.
    """
    norm = weights.norm(spec.norm, d) if spec.norm is not None else None
    lstm = _read_lstm(weights, spec.lstm, d) if spec.lstm is not None else None
    output = weights.product(spec.output, 2 * lstm.size if lstm is not None else d)
    return Head(norm, lstm, output.pack())


def _read_lstm(weights: Weights, spec: LstmSpec, d: int) -> Lstm:
    size = spec.size
    expect("inputs of the LSTM", spec.n_in, d)
    if 4 * size % MULTIPLE_COLUMNS:
        raise beyond_kernels(f"an LSTM of {size} units")
    both = np.array(weights.array(spec.bias, (2, 8 * size)), np.float32)
    bias = both.reshape(2, 2, -1).sum(axis=1)
    for name in (spec.weight, spec.recurrent):
        weights.own(name)
    if not spec.weight_scale:
        shapes = ((spec.weight, d), (spec.recurrent, size))
        floats = [np.asarray(weights.array(name, (2, 4 * size, n))) for name, n in shapes]
        rows = [array.astype(np.float32).transpose(0, 2, 1) for array in floats]
        project = pack_bf16(np.concatenate(list(rows[0]), axis=1), bias.reshape(-1))
        recurrent = rows[1]
    else:
        project, recurrent = _read_integers(weights, spec, bias)
    packed = [_pack_recurrent(np.ascontiguousarray(matrix)) for matrix in recurrent]
    return Lstm(project, (packed[0], packed[1]), size)


def _read_integers(weights: Weights, spec: LstmSpec, bias: F32Array) -> tuple[Dense, F32Array]:
    """The projection in int8, and the recurrent weights float32 [2, size, 4 * size]."""
    size = spec.size
    codes = [
        weights.array(name, (2, n, 4 * size), ("int8",))
        for name, n in ((spec.weight, spec.n_in), (spec.recurrent, size))
    ]
    scales = [
        np.array(weights.array(name, (2, 4 * size)), np.float32)
        for name in (spec.weight_scale, spec.recurrent_scale)
    ]
    for name in (spec.weight_zero, spec.recurrent_zero):
        weights.zeros(name)
    joined = np.concatenate(list(codes[0]), axis=1)
    project = pack_int8(joined, scales[0].reshape(-1), bias.reshape(-1))
    return project, codes[1].astype(np.float32) * scales[1][:, None]


def _pack_recurrent(weight: F32Array) -> NDArray[np.uint8]:
    """[size, 4 * size] as bfloat16 [panel of vector_columns(), step, column, 2]."""
    size = len(weight)
    split = to_bf16(weight).reshape(size // 2, 2, -1, vector_columns())
    return aligned(split.transpose(2, 0, 3, 1))
