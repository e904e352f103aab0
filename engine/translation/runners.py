"""What computes a translator's graphs: our own kernels, or onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import Bundle
from engine.bundle.schema import TranslationConfig
from engine.runtime.backend import Choice, choose_backend
from engine.runtime.cancel import CancelToken
from engine.runtime.graph_pair import PairRoles, open_graph_pair
from engine.runtime.onnx_session import Session, as_float32
from engine.translation.search import Runner, Steps, padded_length
from engine.types import RuntimeOptions

Ids = NDArray[np.int64]
Array = NDArray[Any]
ROLES = PairRoles("mt_encoder", "mt_decoder", "mt_embeddings")


class SessionRunner:
    """Both graphs by onnxruntime."""

    backend = "onnxruntime"

    def __init__(
        self, encoder: Session, decoder: Session, config: TranslationConfig, choice: Choice | None = None
    ) -> None:
        self.choice = choice
        self.encoder, self.decoder, self.config = encoder, decoder, config
        kinds = [f"{kind}_{layer}" for layer in range(config.n_layers) for kind in ("key", "value")]
        self.cross = [f"cross_{kind}" for kind in kinds]
        self.past = [f"past_{kind}" for kind in kinds]
        self.outputs = ["log_probs", *kinds]

    def start(
        self, sources: Sequence[Sequence[int]], beam_size: int, max_steps: int, cancel: CancelToken | None
    ) -> Steps:
        """See Runner."""
        width = padded_length(max(len(source) for source in sources))
        ids = np.full((len(sources), width), self.config.pad_id, np.int64)
        mask = np.zeros((len(sources), width), np.int32)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = source
            mask[row, : len(source)] = 1
        outputs = self.encoder.run({"input_ids": ids, "source_mask": mask}, self.cross, cancel)
        return SessionSteps(self, {"source_mask": mask, **dict(zip(self.cross, outputs, strict=True))})


class SessionSteps:
    """The feeds of the decoder's graph, changed in place from step to step."""

    def __init__(self, runner: SessionRunner, constant: dict[str, Array]) -> None:
        self._runner, self._constant = runner, list(constant)
        shape = (len(constant["source_mask"]), runner.config.n_heads, 0, runner.config.head_dim)
        self._feeds = {
            **constant,
            "position": np.zeros(1, np.int64),
            **{name: np.zeros(shape, np.float32) for name in runner.past},
        }
        self._width = runner.config.n_heads * runner.config.head_dim

    def step(self, ids: Ids, row_idx: Ids, kept: Ids | None, cancel: CancelToken | None) -> Array:
        """See Steps."""
        feeds = self._feeds
        if kept is not None:
            for name in self._constant:
                feeds[name] = feeds[name][kept]
        batch = len(feeds["source_mask"])
        feeds["input_ids"], feeds["row_idx"] = ids[:, None], row_idx
        feeds["query_shape"] = np.array([batch, len(ids) // batch, self._width], np.int64)
        decoder, vocab_size = self._runner.decoder, self._runner.config.vocab_size
        log_probs, *cache = decoder.run(feeds, self._runner.outputs, cancel)
        decoder.expect(log_probs, (len(ids), 1, vocab_size), "log_probs")
        feeds.update(zip(self._runner.past, cache, strict=True))
        feeds["position"] += 1
        return as_float32(log_probs).reshape(len(ids), -1)


class KernelRunner:
    """Both graphs by engine.native, on the CPU."""

    backend = "kernels"

    def __init__(
        self,
        encoder: bytes,
        decoder: bytes,
        tables: Mapping[str, bytes],
        config: TranslationConfig,
        choice: Choice | None = None,
    ) -> None:
        """Raises LayoutError or OnnxFormatError where the kernels do not compute the graphs."""
        from engine.native.marian import MarianKernels

        self.choice = choice
        self._model = MarianKernels(encoder, decoder, tables, config)

    def start(
        self, sources: Sequence[Sequence[int]], beam_size: int, max_steps: int, cancel: CancelToken | None
    ) -> Steps:
        """See Runner."""
        if cancel is not None:
            cancel.raise_if_cancelled()
        memory = self._model.encode(sources)
        return KernelSteps(self._model.start(memory, beam_size, max_steps), len(sources))


class KernelSteps:
    """Rows to sentences, and the count of steps, for engine.native."""

    def __init__(self, decoding: Any, n_sentences: int) -> None:
        self._decoding, self._active, self._step = decoding, np.arange(n_sentences), 0

    def step(self, ids: Ids, row_idx: Ids, kept: Ids | None, cancel: CancelToken | None) -> Array:
        """See Steps."""
        if cancel is not None:
            cancel.raise_if_cancelled()
        if kept is not None:
            self._active = self._active[kept]
        sentences = np.repeat(self._active, len(ids) // len(self._active))
        log_probs: Array = self._decoding.step(np.ascontiguousarray(ids), row_idx, sentences, self._step)
        self._step += 1
        return log_probs


def open_runner(bundle: Bundle, config: TranslationConfig, options: RuntimeOptions) -> Runner:
    """Load the translator of a bundle with the fastest thing that computes it.

    Raises:
        DeviceError, DependencyError, OptionError.
    """
    choice = choose_backend(config.precision, options)

    return open_graph_pair(
        "translator", choice, bundle, ROLES, options,
        partial(KernelRunner, config=config), partial(SessionRunner, config=config),
    )  # fmt: skip
