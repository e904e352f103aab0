"""An exported Marian translator, computed by our own kernels: the encoder once, the decoder step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import TranslationError
from engine.kernels.dense import Dense
from engine.kernels.encoder_layer import BLOCK_ROWS, Norm
from engine.kernels.marian import (
    CrossAttention,
    EncoderLayer,
    Work,
    decode_layers,
    dense,
    embed_rows,
    encode_layers,
    inherit,
)
from engine.kernels.seq2seq_rows import log_softmax_rows
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.manifest import TranslationConfig
from engine.native.onnx_file import read_graph
from engine.native.scopes import Product, Scopes, UnknownGraphError, expect_shape

ROOT = ""  # the translator's graphs have no scopes: their layers come in order
ENCODER_PRODUCTS, DECODER_PRODUCTS = 4, 6  # of a layer
LANES = 16
ACTIVATIONS = {"Relu": 0, "Sigmoid": 1, "Gelu": 2}
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
        out = _rows(len(ids), self.codes.shape[1])
        embed_rows(self.codes, self.scales, ids, self.positions, first, out)
        return out


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
        self.encoder = tuple(
            _layer(products[4 * i : 4 * i + 4], norms[2 * i : 2 * i + 2], heads[i], activation, self.d)
            for i in range(n_layers)
        )
        states = products[ENCODER_PRODUCTS * n_layers :]
        self.cross_states = tuple(_pack(product, self.d, 2 * self.d) for product in states)

    def _read_decoder(self, scopes: Scopes) -> None:
        self.target = _read_embeddings(scopes, self.config, self.d, self.config.max_target_tokens)
        *products, head = scopes.products(ROOT)
        norms, n_layers, d = scopes.norms(ROOT, self.d), self.config.n_layers, self.d
        if len(products) != DECODER_PRODUCTS * n_layers or len(norms) != 3 * n_layers:
            raise UnknownGraphError(f"a decoder of {len(products)} linear layers and {len(norms)} norms")
        activation, layers, cross = _activation(scopes), [], []
        for i in range(n_layers):
            qkv, output, query, mix, feed_in, feed_out = products[6 * i : 6 * i + 6]
            attention_norm, cross_norm, feed_norm = norms[3 * i : 3 * i + 3]
            around = [qkv, output, feed_in, feed_out]
            layers.append(_layer(around, [attention_norm, feed_norm], self.config.n_heads, activation, d))
            cross.append(CrossAttention(_pack(query, d, d), _pack(mix, d, d), cross_norm))
        self.decoder, self.cross = tuple(layers), tuple(cross)
        self.head = _pack(head, d, self.config.vocab_size)
        self.banned = _read_banned(scopes, self.config.vocab_size)

    def encode(self, sources: Sequence[Sequence[int]]) -> Memory:
        """Encode a batch of token ids, each ending with the end token."""
        lengths = np.array([len(source) for source in sources], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.concatenate([np.asarray(source, np.int64) for source in sources])
        self._check(ids, int(lengths.max()))
        places = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
        hidden = self.source.rows(ids, places)
        widest = max(layer.padded for one in self.encoder for layer in (one.qkv, one.feed_in))
        work = _make_work(len(ids), self.d, widest, int(lengths.max()))
        encode_layers(self.encoder, hidden, offsets, work)
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
        self._cache = np.empty((len(model.decoder), max_steps, rows, 2 * model.d), np.float32)
        self._ancestors = [np.zeros((rows, max_steps), np.int32) for _ in range(2)]
        widest = max(layer.padded for one in model.decoder for layer in (one.qkv, one.feed_in))
        longest = max(max_steps, int(np.diff(memory.offsets).max()))
        self._work = _make_work(rows, model.d, widest, longest)
        self._logits = np.zeros((rows + TILE_ROWS, model.head.padded), np.float32)
        self._normalizers = np.zeros(rows, np.float32)

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
        hidden = model.target.rows(ids, np.full(n_rows, step, np.int64))
        decode_layers(
            model.decoder, model.cross, hidden, n_rows, step, self._cache, now,
            memory.states, memory.offsets, sentences, self._work,
        )  # fmt: skip
        dense(model.head, hidden, n_rows, self._work, self._logits)
        log_softmax_rows(self._logits, n_rows, model.config.vocab_size, self._normalizers)
        self._logits[:n_rows, model.banned] = -np.inf
        return self._logits[:n_rows]


def _rows(n_rows: int, n_columns: int) -> F32Array:
    return np.zeros((n_rows + TILE_ROWS, n_columns), np.float32)[:n_rows]


def _make_work(n_rows: int, d: int, widest: int, n_positions: int) -> Work:
    return Work(
        prepared=np.zeros((BLOCK_ROWS + TILE_ROWS) * max(d, widest) * 2, np.uint8),
        scale=np.zeros(BLOCK_ROWS + TILE_ROWS, np.float32),
        offset=np.zeros(BLOCK_ROWS + TILE_ROWS, np.float32),
        wide=_rows(n_rows, widest),
        mixed=_rows(n_rows, d),
        branch=_rows(n_rows, d),
        places=np.zeros(n_positions, np.int64),
        weights=np.zeros(n_positions + 16, np.float32),
    )


def _pack(product: Product, n_in: int, n_out: int) -> Dense:
    product.expect("a linear layer", n_in, n_out)
    return product.pack()


def _layer(
    products: Sequence[Product], norms: Sequence[Norm], n_heads: int, activation: int, d: int
) -> EncoderLayer:
    qkv, output, feed_in, feed_out = products
    inner = feed_in.weight.n_out
    return EncoderLayer(
        _pack(qkv, d, 3 * d), _pack(output, d, d), norms[0], _pack(feed_in, d, inner),
        _pack(feed_out, inner, d), norms[1], n_heads, activation,
    )  # fmt: skip


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
