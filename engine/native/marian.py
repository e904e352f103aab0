"""An exported Marian translator, computed by our own kernels: the encoder once, the decoder step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import MarianDecoderSpec, MarianEncoderSpec
from engine.bundle.schema import TranslationConfig
from engine.errors import TranslationError
from engine.kernels.layers.dense import Dense
from engine.kernels.seq2seq.layer import dense, inherit
from engine.kernels.seq2seq.marian import decode_layers, encode_layers
from engine.kernels.seq2seq.rows import log_softmax_rows
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
)
from engine.native.weights import Weights, beyond_kernels, expect, open_graph

LANES = 16
F32Array = NDArray[np.float32]
I64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Memory:
    """What the decoder needs of a batch of sources.

    Attributes:
        states: keys and values of each decoder layer, float32 [n_layers, source rows + 12, 2 * d].
        offsets: int64 [n_sentences + 1], where each sentence's rows begin.
    """

    states: F32Array
    offsets: I64Array


class MarianKernels:
    """The two graphs of a translator. Safe to call from many threads at once."""

    def __init__(
        self, encoder: bytes, decoder: bytes, tables: Mapping[str, bytes], config: TranslationConfig
    ) -> None:
        """Read and pack the weights.

        Args:
            encoder, decoder: the ONNX files. tables: the files that they refer to, by name.
            config: of the translator.
        Raises:
            LayoutError, OnnxFormatError: the graphs are not what the kernels compute.
        """
        self.config = config
        self.d = config.n_heads * config.head_dim
        if self.d % TILE_COLUMNS or config.head_dim % LANES:
            raise beyond_kernels(f"a model of width {self.d} with {config.n_heads} heads")
        open_graph(encoder, MarianEncoderSpec, self._read_encoder, tables)
        open_graph(decoder, MarianDecoderSpec, self._read_decoder, tables)

    def _read_encoder(self, weights: Weights, spec: MarianEncoderSpec) -> None:
        config, d = self.config, self.d
        self.source = read_embeddings(
            weights, spec.embeddings, config.vocab_size, d, config.max_source_tokens
        )
        heads = [layer.n_heads for layer in spec.layers]
        if not heads or any(d % (n * LANES) for n in heads):
            raise beyond_kernels(f"an encoder of width {d} with {heads} heads")
        expect("decoder layers of the memory", len(spec.memory), config.n_layers)
        read = [read_layer(weights, layer, d, cross=False) for layer in spec.layers]
        activation = ACTIVATIONS[spec.activation]
        layers = [
            make_layer(denses, norms, n, activation)[0]
            for (denses, norms), n in zip(read, heads, strict=True)
        ]  # fmt: skip
        self.encoder, self.encoder_widest = Plan.of(layers), _widest([denses for denses, _ in read])
        self.encoder_heads = max(heads)
        self.cross_states = tuple(weights.product(one, d, 2 * d).pack() for one in spec.memory)

    def _read_decoder(self, weights: Weights, spec: MarianDecoderSpec) -> None:
        config, d, n_layers = self.config, self.d, self.config.n_layers
        self.target = read_embeddings(
            weights, spec.embeddings, config.vocab_size, d, config.max_target_tokens
        )
        expect("decoder layers", len(spec.layers), n_layers)
        for layer in spec.layers:
            expect("heads", layer.n_heads, config.n_heads)
        read = [read_layer(weights, layer, d, cross=True) for layer in spec.layers]
        head = weights.product(spec.head, d, config.vocab_size).pack()
        *denses, self.head = pack_together([*(one for layer, _ in read for one in layer), head])
        size = len(denses) // n_layers
        packed = [denses[size * i : size * i + size] for i in range(n_layers)]
        activation = ACTIVATIONS[spec.activation]
        layers = [
            make_layer(ones, norms, config.n_heads, activation)
            for ones, (_, norms) in zip(packed, read, strict=True)
        ]  # fmt: skip
        self.decoder, self.decoder_widest = Plan.of(layers), _widest(packed)
        row = weights.vector(spec.banned, config.vocab_size) if spec.banned else np.zeros(0, np.float32)
        self.banned = np.flatnonzero(np.isneginf(row))

    def encode(self, sources: Sequence[Sequence[int]]) -> Memory:
        """Encode a batch of token ids, each ending with the end token."""
        lengths = np.array([len(source) for source in sources], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.concatenate([np.asarray(source, np.int64) for source in sources])
        self._check(ids, int(lengths.max()))
        places = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
        hidden = self.source.rows(ids, places)
        longest = int(lengths.max())
        n_scores = count_scores(self.encoder_heads, longest)
        work = make_work(len(ids), self.d, self.encoder_widest, longest, n_scores)
        encode_layers(self.encoder.numbers, hidden, offsets, work)
        states = np.zeros((len(self.cross_states), len(ids) + TILE_ROWS, 2 * self.d), np.float32)
        for layer, out in zip(self.cross_states, states, strict=True):
            dense(layer, hidden, len(ids), work, out)
        return Memory(states, offsets)

    def _check(self, ids: I64Array, longest: int) -> None:
        """Kernels do not check bounds."""
        if ids.min() < 0 or ids.max() >= self.config.vocab_size or longest > len(self.source.positions):
            raise TranslationError(
                f"token ids of {ids.min()} to {ids.max()}, up to {longest} in a sentence",
                f"ids below {self.config.vocab_size}, at most {len(self.source.positions)} of them",
                "use the tokenizer of this model",
            )

    def start(self, memory: Memory, beams: int, max_steps: int) -> Decoding:
        """Begin decoding with so many rows a sentence, for at most max_steps tokens."""
        return Decoding(self, memory, beams, max_steps)


class Decoding:
    """The state of one batch: caches, and where each row's past lies in them."""

    def __init__(self, model: MarianKernels, memory: Memory, beams: int, max_steps: int) -> None:
        self._model, self._memory = model, memory
        n_sentences = len(memory.offsets) - 1
        rows = n_sentences * beams
        # Untouched pages cost nothing: most sentences end long before the limit.
        self._cache = np.empty((max_steps, model.config.n_layers, rows, 2 * model.d), np.float32)
        self._ancestors = [np.zeros((rows, max_steps), np.int32) for _ in range(2)]
        longest = max(max_steps, int(np.diff(memory.offsets).max()))
        n_scores = count_scores(model.config.n_heads, longest)
        self._work = make_work(rows, model.d, model.decoder_widest, longest, n_scores)
        self._logits = np.zeros((rows + TILE_ROWS, model.head.padded), np.float32)

    def step(self, ids: I64Array, parents: I64Array, sentences: I64Array, step: int) -> F32Array:
        """Log-probabilities of the next token.

        Args:
            ids: int64 [rows], the last token of each row.
            parents: int64 [rows], the row of the previous step that each continues.
            sentences: int64 [rows], the sentence of each row.
            step: tokens made before this one.
        Returns:
            float32 [rows, vocab padded], natural log; valid until the next step.
        """
        model, memory, n_rows = self._model, self._memory, len(ids)
        before, now = self._ancestors[step % 2], self._ancestors[1 - step % 2]
        inherit(before, parents, step, now)
        positions = np.full(n_rows, step, np.int64)
        hidden = model.target.rows(ids, positions)
        decode_layers(
            model.decoder.numbers, hidden, n_rows, positions, self._cache, now,
            memory.states, memory.offsets, sentences, self._work,
        )  # fmt: skip
        dense(model.head, hidden, n_rows, self._work, self._logits)
        log_softmax_rows(self._logits, n_rows, model.config.vocab_size, self._logits)
        self._logits[:n_rows, model.banned] = -np.inf
        return self._logits[:n_rows]


def _widest(layers: Sequence[Sequence[Dense]]) -> int:
    """Most columns of what a layer projects."""
    return max(one.padded for denses in layers for one in denses)
