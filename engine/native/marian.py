"""An exported Marian translator, computed by our own kernels: the encoder once, the decoder step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import TranslationConfig
from engine.errors import TranslationError
from engine.kernels.layers.dense import Dense
from engine.kernels.seq2seq.layer import dense, inherit
from engine.kernels.seq2seq.marian import decode_layers, encode_layers
from engine.kernels.seq2seq.rows import log_softmax_rows
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.native.packing import pack_together
from engine.native.scopes import Scopes, UnknownGraphError, expect_shape
from engine.native.seq2seq_parts import (
    ACTIVATIONS,
    Embeddings,
    Plan,
    count_scores,
    make_layer,
    make_work,
    pack_layer,
    pack_product,
)
from engine.runtime.onnx_file import read_graph

ROOT = ""  # the translator's graphs have no scopes: their layers come in order
ENCODER_PRODUCTS, DECODER_PRODUCTS = 4, 6  # of a layer
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
            UnknownGraphError, OnnxFormatError: the graphs are not what the kernels compute.
        """
        self.config = config
        graphs = [read_graph(data, tables) for data in (encoder, decoder)]
        self.d = config.n_heads * config.head_dim
        if self.d % TILE_COLUMNS or config.head_dim % LANES:
            raise UnknownGraphError(f"a model of width {self.d} with {config.n_heads} heads")
        self._read_encoder(Scopes(graphs[0]))
        self._read_decoder(Scopes(graphs[1]))

    def _read_encoder(self, scopes: Scopes) -> None:
        self.source = _read_embeddings(scopes, self.config, self.d, self.config.max_source_tokens)
        products, norms = scopes.products(ROOT), scopes.norms(ROOT, self.d)
        heads = [int(n.attributes["num_heads"]) for n in scopes.nodes(ROOT, "MultiHeadAttention")]
        n_layers = len(norms) // 2
        if len(products) != ENCODER_PRODUCTS * n_layers + self.config.n_layers or len(heads) != n_layers:
            raise UnknownGraphError(f"an encoder of {len(products)} linear layers and {len(norms)} norms")
        if any(self.d % (n * LANES) for n in heads):
            raise UnknownGraphError(f"an encoder of width {self.d} with {heads} heads")
        activation = _activation(scopes)
        packed = [pack_layer(products[4 * i : 4 * i + 4], self.d) for i in range(n_layers)]
        layers = [
            make_layer(denses, norms[2 * i : 2 * i + 2], heads[i], activation)[0]
            for i, denses in enumerate(packed)
        ]
        self.encoder, self.encoder_widest = Plan.of(layers), _widest(packed)
        self.encoder_heads = max(heads)
        states = products[ENCODER_PRODUCTS * n_layers :]
        self.cross_states = tuple(pack_product(product, self.d, 2 * self.d) for product in states)

    def _read_decoder(self, scopes: Scopes) -> None:
        self.target = _read_embeddings(scopes, self.config, self.d, self.config.max_target_tokens)
        *products, head = scopes.products(ROOT)
        norms, n_layers, d = scopes.norms(ROOT, self.d), self.config.n_layers, self.d
        if len(products) != DECODER_PRODUCTS * n_layers or len(norms) != 3 * n_layers:
            raise UnknownGraphError(f"a decoder of {len(products)} linear layers and {len(norms)} norms")
        denses = [one for i in range(n_layers) for one in pack_layer(products[6 * i : 6 * i + 6], d)]
        *denses, self.head = pack_together([*denses, pack_product(head, d, self.config.vocab_size)])
        packed = [denses[6 * i : 6 * i + 6] for i in range(n_layers)]
        activation, n_heads = _activation(scopes), self.config.n_heads
        layers = [
            make_layer(ones, norms[3 * i : 3 * i + 3], n_heads, activation) for i, ones in enumerate(packed)
        ]
        self.decoder, self.decoder_widest = Plan.of(layers), _widest(packed)
        self.banned = _read_banned(scopes, self.config.vocab_size)

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


def _activation(scopes: Scopes) -> int:
    """Of the feed-forward blocks; swish is written as x * sigmoid(x)."""
    for kind, number in ACTIVATIONS.items():
        if scopes.nodes(ROOT, kind):
            return number
    raise UnknownGraphError("no activation")


def _read_embeddings(scopes: Scopes, config: TranslationConfig, d: int, n_positions: int) -> Embeddings:
    """The table behind input_ids, its scales and at least n_positions positions.

    Raises:
        UnknownGraphError: not an int8 table, or not of the configured shape.
    """
    gathers = scopes.nodes(ROOT, "Gather")
    lookups = [n for n in gathers if n.inputs[1] == "input_ids"]
    places = [n for n in gathers if n.inputs[1] == "position"]
    places += [n for n in scopes.nodes(ROOT, "Slice") if scopes.is_constant(n.inputs[0])]
    if not lookups or not places:
        raise UnknownGraphError("no embeddings or no positions")
    codes = scopes.constant(lookups[0].inputs[0])
    expect_shape("the embedding table", codes, (config.vocab_size, d))
    if codes.dtype != np.int8:
        raise UnknownGraphError(f"an embedding table of {codes.dtype}")
    one = [n for n in scopes.nodes(ROOT, "DequantizeLinear") if n.inputs[0] == lookups[0].outputs[0]]
    found = scopes.constant(one[0].inputs[1] if one else lookups[-1].inputs[0])
    if found.size not in (1, len(codes)):
        raise UnknownGraphError(f"{found.size} scales of {len(codes)} embeddings")
    scales = np.ascontiguousarray(np.broadcast_to(found.reshape(-1), len(codes)), np.float32)
    positions = np.array(scopes.constant(places[0].inputs[0]), np.float32)
    if positions.ndim != 2 or len(positions) < n_positions or positions.shape[1] != d:
        raise UnknownGraphError(f"positions of shape {positions.shape}")
    return Embeddings(np.ascontiguousarray(codes), scales, positions)


def _read_banned(scopes: Scopes, vocab_size: int) -> I64Array:
    """Tokens whose log-probability the graph sets to -inf."""
    for node in scopes.nodes(ROOT, "Add"):
        for name in node.inputs:
            if name in scopes.graph.constants and "banned" in name:
                row = scopes.constant(name)
                if row.shape == (vocab_size,):
                    return np.flatnonzero(np.isneginf(row))
    return np.zeros(0, np.int64)
