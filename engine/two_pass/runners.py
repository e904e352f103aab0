"""What computes an attention decoder over an encoder's states: our own kernels, or onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import Bundle
from engine.bundle.schema import SecondPassConfig
from engine.runtime.backend import Choice, choose_backend
from engine.runtime.cancel import CancelToken
from engine.runtime.graph_pair import PairRoles, open_graph_pair
from engine.runtime.onnx_session import Session, as_float32
from engine.two_pass.bounds import Bounds
from engine.two_pass.graph_shapes import check_graphs, raise_problems
from engine.two_pass.tokens import config_problems, read_tokens
from engine.types import RuntimeOptions

Ids = NDArray[np.int64]
F32Array = NDArray[np.float32]
Array = NDArray[Any]
ROLES = PairRoles("asr_memory", "asr_decoder", "asr_embeddings")


class DecoderSteps(Protocol):
    """One utterance that is being decoded; for one thread."""

    def prefill(self, ids: Ids, cancel: CancelToken | None) -> F32Array:
        """Read the first tokens of one sequence, all in one call. Called once, first.

        Args:
            ids: int64 [n], the prompt, or the prompt and a draft. The sequence becomes row 0.
        Returns:
            Log-probabilities (natural log) of the next token after each of them, float32 [n, vocab_size].
        Raises:
            DecodingError: not of this shape, or ids that are no tokens. CancelledError: cancel was set.
        """

    def step(self, ids: Ids, parents: Ids, cancel: CancelToken | None) -> F32Array:
        """Append one token to every row.

        Args:
            ids: int64 [rows]; rows may be more or fewer than before.
            parents: int64 [rows], the row of the previous call that each continues; behind prefill all 0.
        Returns:
            Log-probabilities float32 [rows, vocab_size]; valid until the next call.
        Raises:
            DecodingError: more rows or tokens than were announced, or ids and parents out of range.
            CancelledError: cancel was set; the utterance cannot be continued.
        """


class DecoderRunner(Protocol):
    """A loaded decoder; safe to call from many threads at once. choice: why this backend."""

    backend: str
    choice: Choice | None

    def start(
        self, states: F32Array, max_rows: int, max_tokens: int, cancel: CancelToken | None
    ) -> DecoderSteps:
        """Begin to decode an utterance.

        Args:
            states: float32 [n_frames, hidden_size], from AcousticModel.compute_states.
            max_rows: rows of any step. max_tokens: of a sequence, the prompt's included.
        Raises:
            DecodingError: states of another shape, or more tokens than the decoder has positions for.
            CancelledError: cancel was set.
        """


class SessionRunner:
    """Both graphs by onnxruntime."""

    backend = "onnxruntime"

    def __init__(
        self, memory: Session, decoder: Session, config: SecondPassConfig, choice: Choice | None = None
    ) -> None:
        self.memory, self.decoder, self.config, self.choice = memory, decoder, config, choice
        kinds = [f"{kind}_{layer}" for layer in range(config.n_layers) for kind in ("key", "value")]
        self.cross = [f"cross_{kind}" for kind in kinds]
        self.past = [f"past_{kind}" for kind in kinds]
        self.outputs = ["log_probs", *kinds]

    def start(
        self, states: F32Array, max_rows: int, max_tokens: int, cancel: CancelToken | None
    ) -> DecoderSteps:
        """See DecoderRunner."""
        bounds = Bounds(self.config, states, max_rows, max_tokens)
        found = self.memory.run({"states": states[None].astype(np.float32)}, self.cross, cancel)
        return SessionSteps(self, dict(zip(self.cross, found, strict=True)), bounds)


class SessionSteps:
    """The feeds of the decoder's graph, changed in place from call to call."""

    def __init__(self, runner: SessionRunner, cross: dict[str, Array], bounds: Bounds) -> None:
        self._runner, self._bounds = runner, bounds
        empty = np.zeros((1, runner.config.n_heads, 0, runner.config.head_dim), np.float32)
        self._feeds: dict[str, Array] = {**cross, **dict.fromkeys(runner.past, empty)}

    def prefill(self, ids: Ids, cancel: CancelToken | None) -> F32Array:
        """See DecoderSteps."""
        self._bounds.prefill(ids)
        return self._run(ids[None], np.zeros(1, np.int64), cancel)

    def step(self, ids: Ids, parents: Ids, cancel: CancelToken | None) -> F32Array:
        """See DecoderSteps."""
        self._bounds.step(ids, parents)
        return self._run(ids[:, None], parents, cancel)

    def _run(self, ids: Ids, parents: Ids, cancel: CancelToken | None) -> F32Array:
        end = self._bounds.n_tokens
        self._feeds |= {
            "input_ids": ids, "row_idx": parents, "positions": np.arange(end - ids.shape[1], end)
        }  # fmt: skip
        decoder, vocab_size = self._runner.decoder, self._runner.config.vocab_size
        log_probs, *cache = decoder.run(self._feeds, self._runner.outputs, cancel)
        decoder.expect(log_probs, (*ids.shape, vocab_size), "log_probs")
        self._feeds.update(zip(self._runner.past, cache, strict=True))
        return as_float32(log_probs).reshape(ids.size, -1)


class KernelRunner:
    """Both graphs by engine.native, on the CPU."""

    backend = "kernels"

    def __init__(
        self,
        memory: bytes,
        decoder: bytes,
        tables: Mapping[str, bytes],
        config: SecondPassConfig,
        choice: Choice | None = None,
    ) -> None:
        """Raises LayoutError or OnnxFormatError where the kernels do not compute the graphs."""
        from engine.native.two_pass import TwoPassKernels

        self.config, self.choice = config, choice
        self._model = TwoPassKernels(memory, decoder, tables, config)

    def start(
        self, states: F32Array, max_rows: int, max_tokens: int, cancel: CancelToken | None
    ) -> DecoderSteps:
        """See DecoderRunner."""
        bounds = Bounds(self.config, states, max_rows, max_tokens)
        _raise_if_cancelled(cancel)
        return KernelSteps(self._model.start(as_float32(states), max_rows, max_tokens), bounds)


class KernelSteps:
    """Calls of engine.native within their bounds."""

    def __init__(self, decoding: Any, bounds: Bounds) -> None:
        self._decoding, self._bounds = decoding, bounds

    def prefill(self, ids: Ids, cancel: CancelToken | None) -> F32Array:
        """See DecoderSteps."""
        _raise_if_cancelled(cancel)
        self._bounds.prefill(ids)
        log_probs: F32Array = self._decoding.prefill(np.ascontiguousarray(ids, np.int64))
        return log_probs

    def step(self, ids: Ids, parents: Ids, cancel: CancelToken | None) -> F32Array:
        """See DecoderSteps."""
        _raise_if_cancelled(cancel)
        self._bounds.step(ids, parents)
        plain = (np.ascontiguousarray(array, np.int64) for array in (ids, parents))
        log_probs: F32Array = self._decoding.step(*plain)
        return log_probs


def _raise_if_cancelled(cancel: CancelToken | None) -> None:
    if cancel is not None:
        cancel.raise_if_cancelled()


def open_decoder(bundle: Bundle, config: SecondPassConfig, options: RuntimeOptions) -> DecoderRunner:
    """Load the attention decoder of a bundle with the fastest thing that computes it.

    Raises:
        ModelCapabilityError: a file of the second pass is missing.
        BundleSchemaError: configuration, tokens and graphs do not fit each other.
        DeviceError, DependencyError, OptionError: see choose_backend.
    """
    raise_problems(config_problems(config, read_tokens(bundle)))
    check_graphs(bundle, config)
    choice = choose_backend(config.precision, options)

    return open_graph_pair(
        "second pass", choice, bundle, ROLES, options,
        partial(KernelRunner, config=config), partial(SessionRunner, config=config),
    )  # fmt: skip
