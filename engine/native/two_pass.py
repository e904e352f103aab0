"""An exported attention decoder over an encoder's states, computed by our own kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import SecondPassConfig
from engine.kernels.encoder.layer import BLOCK_ROWS, Norm
from engine.kernels.layers.dense import Dense
from engine.kernels.seq2seq.layer import inherit
from engine.kernels.seq2seq.plan import OwnedNorm
from engine.kernels.seq2seq.rows import ABSENT, LANES
from engine.kernels.seq2seq.two_pass import Utterance, Weights, predict, remember
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.native.packing import pack_together
from engine.native.scopes import Scopes, UnknownGraphError, expect_shape
from engine.native.seq2seq_parts import (
    ACTIVATIONS,
    Plan,
    count_scores,
    make_layer,
    make_work,
    pack_layer,
    pack_product,
    rows_with_slack,
)
from engine.runtime.onnx_file import read_graph

MIN_UNREAD = 64  # a constant of so many elements that nothing read: the graph has parts unknown here
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
            UnknownGraphError, OnnxFormatError: the graphs are not what the kernels compute.
        """
        self.config = config
        if config.head_dim % TILE_COLUMNS or config.hidden_size != config.n_heads * config.head_dim:
            raise UnknownGraphError(f"{config.n_heads} heads of {config.head_dim} channels")
        graphs = [Scopes(read_graph(data, tables)) for data in (memory, decoder)]
        try:
            self.memory = _read_memory(graphs[0], config)
            self._read_decoder(graphs[1])
        except UnknownGraphError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UnknownGraphError(f"a part in another form ({error})") from error
        unread = [name for scopes in graphs for name in scopes.unread(MIN_UNREAD)]
        if unread:
            raise UnknownGraphError(f"parts that are not known here: {', '.join(unread[:3])}")

    def _read_decoder(self, scopes: Scopes) -> None:
        d, vocab_size, n_layers = self.config.hidden_size, self.config.vocab_size, self.config.n_layers
        if f"layer_{n_layers}/self" in scopes:
            raise UnknownGraphError(f"more than {n_layers} layers")
        packed = [_pack_layer(scopes, f"layer_{index}", self.config) for index in range(n_layers)]
        head = pack_product(scopes.product("head"), d, vocab_size)
        *denses, head = pack_together([*(one for layer in packed for one in layer), head])
        size = len(packed[0])
        layers = [
            make_layer(
                denses[size * i : size * i + size], _read_norms(scopes, f"layer_{i}", d), self.config.n_heads,
                ACTIVATIONS["Gelu"], norm_first=True,
            )
            for i in range(n_layers)
        ]  # fmt: skip
        self.widest = max(one.padded for one in denses)
        self.layers = Plan.of(layers)
        self.head = Plan.of([(OwnedNorm.of(scopes.norms("head", d)[0]), head)])
        self.n_logits = head.padded
        self.weights = Weights(
            *_read_embeddings(scopes, self.config), self.layers.numbers, self.head.numbers
        )  # fmt: skip

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


def _read_memory(scopes: Scopes, config: SecondPassConfig) -> Plan:
    d = config.hidden_size
    products = [scopes.product(f"layer_{index}/memory") for index in range(config.n_layers)]
    return Plan.of(pack_together([pack_product(product, d, 2 * d) for product in products]))


def _pack_layer(scopes: Scopes, scope: str, config: SecondPassConfig) -> list[Dense]:
    """Its linear layers in the order in which they are read."""
    for part in ("self", "cross"):
        heads = scopes.node(f"{scope}/{part}", "MultiHeadAttention").attributes["num_heads"]
        if heads != config.n_heads:
            raise UnknownGraphError(f"{heads} heads in {scope!r}")
    scopes.node(f"{scope}/feed_in", "Gelu")
    parts = ("self/qkv", "self/output", "cross/query", "cross/output", "feed_in", "feed_out")
    return pack_layer([scopes.product(f"{scope}/{part}") for part in parts], config.hidden_size)


def _read_norms(scopes: Scopes, scope: str, d: int) -> list[Norm]:
    return [scopes.norms(f"{scope}/{part}", d)[0] for part in ("self/qkv", "cross/query", "feed_in")]


def _read_embeddings(scopes: Scopes, config: SecondPassConfig) -> tuple[NDArray[np.int8], F32Array, F32Array]:
    """Codes, scales and positions, in the order of their look-ups."""
    found = [scopes.constant(node.inputs[0]) for node in scopes.nodes("embeddings", "Gather")]
    if len(found) != 3 or found[0].dtype != np.int8:
        raise UnknownGraphError("embeddings that are not int8 with a scale for each")
    codes, scales, positions = found
    expect_shape("the embeddings", codes, (config.vocab_size, config.hidden_size))
    expect_shape("their scales", scales, (config.vocab_size, 1))
    expect_shape("the positions", positions, (config.max_tokens, config.hidden_size))
    rows = [np.ascontiguousarray(array, np.float32) for array in (scales.reshape(-1), positions)]
    return np.ascontiguousarray(codes), rows[0], rows[1]
