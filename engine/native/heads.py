"""From the last layer's rows to logits: the final norm, an LSTM where there is one, the output layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.kernels.encoder.layer import BLOCK_ROWS, Norm, Scratch, dense_rows, normalize_rows
from engine.kernels.encoder.lstm import run_direction
from engine.kernels.layers.dense import Dense, to_bf16
from engine.kernels.vector.gemm import TILE_ROWS, VECTOR_COLUMNS
from engine.native.buffers import rows_of
from engine.native.packing import aligned, pack_bf16, pack_int8
from engine.native.scopes import Scopes, UnknownGraphError, expect_shape
from engine.native.workers import Workers

F32Array = NDArray[np.float32]
LSTM_SCOPE = "head/lstm_0"


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


def read_head(scopes: Scopes, d: int) -> Head:
    """The head of a graph, over rows of d channels.

    Raises:
        UnknownGraphError: one that the kernels do not compute.
    """
    norms = scopes.norms("final_norm", d) or scopes.norms("states", d)
    if len(norms) > 1 or scopes.nodes("states", "Reciprocal") or "head/layer_0" in scopes:
        raise UnknownGraphError("a mixture of states, their normalisation over time, or a transformer head")
    lstm = _read_lstm(scopes, d) if LSTM_SCOPE in scopes else None
    if "head/lstm_1" in scopes:
        raise UnknownGraphError("more than one LSTM layer")
    output = scopes.product("head/output", 2 * lstm.size if lstm is not None else d)
    return Head(norms[0] if norms else None, lstm, output.pack())


def _read_lstm(scopes: Scopes, d: int) -> Lstm:
    node = scopes.node(LSTM_SCOPE, "DynamicQuantizeLSTM", "LSTM")
    size = int(node.attributes["hidden_size"])
    if size < 1 or 4 * size % VECTOR_COLUMNS or node.attributes.get("direction") != b"bidirectional":
        raise UnknownGraphError(f"an LSTM of {size} units")
    both = np.array(scopes.constant(node.inputs[3]), np.float32)
    expect_shape(f"{LSTM_SCOPE}/bias", both, (2, 8 * size))
    bias = both.reshape(2, 2, -1).sum(axis=1)
    weights = [np.asarray(scopes.constant(name)) for name in node.inputs[1:3]]
    for array, n_in in zip(weights, (d, size), strict=True):
        columns_last = node.kind != "LSTM"
        wanted = (2, n_in, 4 * size) if columns_last else (2, 4 * size, n_in)
        expect_shape(f"{LSTM_SCOPE}/weight", array, wanted)
    if node.kind == "LSTM":
        rows = [array.astype(np.float32).transpose(0, 2, 1) for array in weights]
        project = pack_bf16(np.concatenate(list(rows[0]), axis=1), bias.reshape(-1))
        recurrent = rows[1]
    else:
        scales = [np.array(scopes.constant(node.inputs[at]), np.float32) for at in (8, 10)]
        for scale in scales:
            expect_shape(f"{LSTM_SCOPE}/scale", scale, (2, 4 * size))
        if any(scopes.constant(node.inputs[at]).any() for at in (9, 11)):
            raise UnknownGraphError("LSTM weights with a zero point")
        if any(array.dtype != np.int8 for array in weights):
            raise UnknownGraphError("LSTM weights that are not int8")
        joined = np.concatenate(list(weights[0]), axis=1)
        project = pack_int8(joined, scales[0].reshape(-1), bias.reshape(-1))
        recurrent = weights[1].astype(np.float32) * scales[1][:, None]
    packed = [_pack_recurrent(np.ascontiguousarray(matrix)) for matrix in recurrent]
    return Lstm(project, (packed[0], packed[1]), size)


def _pack_recurrent(weight: F32Array) -> NDArray[np.uint8]:
    """[size, 4 * size] as bfloat16 [panel of 128 columns, step, column, 2]."""
    size, columns = weight.shape
    split = to_bf16(weight).reshape(size // 2, 2, columns // VECTOR_COLUMNS, VECTOR_COLUMNS)
    return aligned(split.transpose(2, 0, 3, 1))
