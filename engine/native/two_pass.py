"""An exported attention decoder over an encoder's states, computed by our own kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import DecoderSpec, MemorySpec
from engine.bundle.schema import SecondPassConfig
from engine.kernels.encoder.layer import BLOCK_ROWS
from engine.kernels.seq2seq.layer import inherit
from engine.kernels.seq2seq.plan import OwnedNorm
from engine.kernels.seq2seq.rows import ABSENT, LANES
from engine.kernels.seq2seq.two_pass import Utterance, predict, remember
from engine.kernels.seq2seq.two_pass import Weights as DecoderWeights
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.native.packing import pack_together
from engine.native.seq2seq_parts import (
    ACTIVATIONS,
    Plan,
    count_scores,
    make_layer,
    make_work,
    read_embeddings,
    read_layer,
    rows_with_slack,
)
from engine.native.weights import Weights, beyond_kernels, expect, open_graph

F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]


class TwoPassKernels:
    """The two graphs of a second pass. Safe to call from many threads at once."""

    def __init__(
        self, memory: bytes, decoder: bytes, tables: Mapping[str, bytes], config: SecondPassConfig
    ) -> None:
        """Read and pack the weights.

        Args:
            memory, decoder: the ONNX files. tables: the files that they refer to, by name.
            config: of the second pass.
        Raises:
            LayoutError, OnnxFormatError: the graphs are not what the kernels compute.
        """
        self.config = config
        if config.head_dim % TILE_COLUMNS or config.hidden_size != config.n_heads * config.head_dim:
            raise beyond_kernels(f"{config.n_heads} heads of {config.head_dim} channels")
        self.memory = open_graph(memory, MemorySpec, self._read_memory, tables)
        open_graph(decoder, DecoderSpec, self._read_decoder, tables)

    def _read_memory(self, weights: Weights, spec: MemorySpec) -> Plan:
        d = self.config.hidden_size
        expect("decoder layers of the memory", len(spec.layers), self.config.n_layers)
        return Plan.of(pack_together([weights.product(layer, d, 2 * d).pack() for layer in spec.layers]))

    def _read_decoder(self, weights: Weights, spec: DecoderSpec) -> None:
        config, d = self.config, self.config.hidden_size
        expect("decoder layers", len(spec.layers), config.n_layers)
        for layer in spec.layers:
            expect("heads", layer.n_heads, config.n_heads)
        read = [read_layer(weights, layer, d, cross=True) for layer in spec.layers]
        head = weights.product(spec.head, d, config.vocab_size)
        *denses, packed_head = pack_together([*(one for layer, _ in read for one in layer), head.pack()])
        size = len(read[0][0])
        layers = [
            make_layer(
                denses[size * i : size * i + size], norms, config.n_heads, ACTIVATIONS[spec.activation],
                norm_first=True,
            )
            for i, (_, norms) in enumerate(read)
        ]  # fmt: skip
        self.widest = max(one.padded for one in denses)
        self.layers = Plan.of(layers)
        self.head = Plan.of([(OwnedNorm.of(weights.norm(spec.norm, d)), packed_head)])
        self.n_logits = packed_head.padded
        expect("positions", spec.embeddings.positions.n_rows, config.max_tokens)
        rows = read_embeddings(weights, spec.embeddings, config.vocab_size, d, config.max_tokens)
        self.weights = DecoderWeights(
            rows.codes, rows.scales, rows.positions, self.layers.numbers, self.head.numbers
        )

    def start(self, states: F32Array, max_rows: int, max_tokens: int) -> Decoding:
        """Begin to decode an utterance, float32 [n_frames, hidden_size]."""
        config = self.config
        bias = make_bias(len(states))
        n_positions = len(bias)
        keys, values = np.zeros((2, config.n_layers, n_positions * config.hidden_size), np.uint16)
        work = make_work(BLOCK_ROWS, config.hidden_size, 2 * config.hidden_size, 0, 0)
        remember(self.memory.numbers, states, config.n_heads, keys, values, bias, work)
        # Untouched pages cost nothing: most transcripts end long before the limit.
        shape = (max_tokens, config.n_layers, max_rows, 2 * config.hidden_size)
        return Decoding(self, Utterance(keys, values, bias, np.empty(shape, np.float32)))


def make_bias(n_frames: int) -> F32Array:
    """What is added to scores (engine.kernels.seq2seq.cross_attention): nothing where there is a frame."""
    n_positions = -(-n_frames // TILE_COLUMNS) * TILE_COLUMNS
    bias, half = np.full(n_positions, ABSENT, np.float32), n_positions // 2
    bias[: -(-n_frames // 2)] = 0.0  # even frames
    bias[half : half + n_frames // 2] = 0.0
    return bias


class Decoding:
    """The state of one utterance: what its rows share, and where each row's past lies."""

    def __init__(self, model: TwoPassKernels, utterance: Utterance) -> None:
        self._model, self._utterance = model, utterance
        max_tokens, _, max_rows, _ = utterance.cache.shape
        self._ancestors = [np.zeros((max_rows, max_tokens), np.int32) for _ in range(2)]
        self._n_tokens = 0

    def prefill(self, ids: I64Array) -> F32Array:
        """Log-probabilities behind each of the first tokens of one sequence, float32 [n, vocab_size]."""
        max_tokens, _, max_rows, _ = self._utterance.cache.shape
        self._make_room(max(len(ids), max_rows))
        self._n_tokens = len(ids)
        return self._predict(ids, np.arange(len(ids)), np.zeros((len(ids), max_tokens), np.int32))

    def step(self, ids: I64Array, parents: I64Array) -> F32Array:
        """Log-probabilities behind one more token of every row; see engine.two_pass.runners."""
        before, now = self._ancestors
        inherit(before, parents, self._n_tokens, now)
        self._ancestors = [now, before]
        positions = np.full(len(ids), self._n_tokens, np.int64)
        self._n_tokens += 1
        return self._predict(ids, positions, now)

    def _make_room(self, n_rows: int) -> None:
        model, max_tokens = self._model, len(self._utterance.cache)
        d, n_positions = model.config.hidden_size, len(self._utterance.bias)
        n_scores = max(count_scores(model.config.n_heads, max_tokens), TILE_ROWS * n_positions)
        self._work = make_work(n_rows, d, model.widest, max_tokens, n_scores, norm_first=True)
        self._hidden = rows_with_slack(n_rows, d)
        self._logits = rows_with_slack(n_rows, model.n_logits)
        self._out = np.zeros(n_rows * model.config.vocab_size + LANES, np.float32)

    def _predict(self, ids: I64Array, positions: I64Array, ancestors: NDArray[np.int32]) -> F32Array:
        n_rows, vocab_size = len(ids), self._model.config.vocab_size
        out = self._out[: n_rows * vocab_size].reshape(n_rows, vocab_size)
        predict(
            self._model.weights, self._utterance, ids, positions, ancestors, self._hidden[:n_rows],
            self._logits, out, self._work,
        )  # fmt: skip
        return out
