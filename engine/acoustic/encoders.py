"""What turns features into logits: our own kernels, or onnxruntime over the same graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.ports import INPUT_NAMES, MASK_NAME, Ports, find_ports
from engine.bundle.folder import AcousticConfig, Bundle
from engine.errors import BundleSchemaError, UnsupportedBlockError
from engine.runtime.backend import Choice, choose_backend, open_model
from engine.runtime.cancel import CancelToken
from engine.runtime.cores import available_cores
from engine.runtime.onnx_session import Session, open_session
from engine.types import RuntimeOptions

STATES_NAME = "states"  # of graphs for two passes: what the second reads
COUNTS_NAME = "frame_counts"  # of graphs with a mask: valid frames of each utterance
MAX_FIXED_SHAPES = 8  # each holds the weights once more

FloatArray = NDArray[np.float32]


class Encoder(Protocol):
    """One loaded encoder; safe to call from many threads at once.

    Attributes:
        device: "cpu" or "cuda". backend: "kernels" or "onnxruntime".
        compute_type: the arithmetic of its matrix products. choice: why this backend.
        states_size: channels of the states for a second pass; None where the graph does not give them.
    """

    device: str
    backend: str
    compute_type: str
    choice: Choice
    states_size: int | None

    def run(self, features: FloatArray, cancel: CancelToken | None, wide: bool) -> FloatArray:
        """Logits [n_frames, vocab_size] of one utterance; wide spreads it over the thread budget."""

    def run_states(
        self, features: FloatArray, cancel: CancelToken | None, wide: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Logits, and the states [n_frames, states_size] of graphs that give them."""

    def run_batch(
        self, rows: Sequence[FloatArray], width: int, cancel: CancelToken | None
    ) -> list[FloatArray]:
        """Logits of utterances that share a call, each padded to width where the graph masks padding."""


class KernelEncoder:
    """An exported graph by engine.native, on the CPU."""

    device, backend = "cpu", "kernels"

    def __init__(self, graph: bytes, choice: Choice, threads: int) -> None:
        from engine.native.encoder import NativeEncoder

        self.choice, self.compute_type = choice, choice.arithmetic
        self._threads = threads
        self._encoder = NativeEncoder(graph, integers=self.compute_type == "int8")
        self.states_size = self._encoder.states_size

    def run(self, features: FloatArray, cancel: CancelToken | None, wide: bool) -> FloatArray:
        """See Encoder."""
        return self._encoder.run(features, self._threads if wide else 1, cancel)

    def run_states(
        self, features: FloatArray, cancel: CancelToken | None, wide: bool
    ) -> tuple[FloatArray, FloatArray]:
        """See Encoder."""
        return self._encoder.run_states(features, self._threads if wide else 1, cancel)

    def run_batch(
        self, rows: Sequence[FloatArray], width: int, cancel: CancelToken | None
    ) -> list[FloatArray]:
        """One by one: rows share nothing in these kernels, and weights stay in the cache."""
        return [self.run(features, cancel, False) for features in rows]

    def problems(self, config: AcousticConfig, vocabulary: tuple[str, ...]) -> list[str]:
        """What does not fit between graph, manifest and vocabulary."""
        found = _vocabulary_problems(self._encoder.vocab_size, config, vocabulary)
        wanted = INPUT_NAMES[config.features.kind]
        if self._encoder.input_name != wanted:
            found.append(f"the graph's input is {self._encoder.input_name!r}, not {wanted!r}")
        n_mels = getattr(self._encoder.stem, "n_mels", config.features.n_mels)
        if config.features.kind == "log_mel" and config.features.n_mels != n_mels:
            found.append(f"the graph reads {n_mels} mel bands, the manifest says {config.features.n_mels}")
        if config.mask:
            found.append(f"the manifest promises an input {MASK_NAME!r}, the graph has none")
        return found


class SessionEncoder:
    """Any graph by onnxruntime."""

    backend = "onnxruntime"

    def __init__(
        self, graph: bytes | Path, name: str, config: AcousticConfig, options: RuntimeOptions, choice: Choice
    ) -> None:
        self.choice, self.compute_type = choice, config.precision
        self._graph, self._name, self._options = graph, name, options
        self.session = open_session(graph, options, threads=1, name=name)
        self.device = self.session.device
        self.states_size = _states_size(self.session)
        self.ports: Ports = find_ports(self.session, config.features)
        self._lock = threading.Lock()
        self._wide: Session | None = None
        self._fixed: dict[tuple[int, int], Session] = {}

    def run(self, features: FloatArray, cancel: CancelToken | None, wide: bool) -> FloatArray:
        """See Encoder."""
        return self._run(features, [self.ports.logits], cancel, wide)[0]

    def run_states(
        self, features: FloatArray, cancel: CancelToken | None, wide: bool
    ) -> tuple[FloatArray, FloatArray]:
        """See Encoder."""
        logits, states = self._run(features, [self.ports.logits, STATES_NAME], cancel, wide)
        return logits, states

    def _run(
        self, features: FloatArray, outputs: list[str], cancel: CancelToken | None, wide: bool
    ) -> list[FloatArray]:
        session = self._wide_session() if wide else self.session
        feeds = self.ports.feeds(features[None], np.array([features.shape[-1]]))
        found = zip(outputs, session.run(feeds, outputs, cancel), strict=True)
        return [session.expect(array, (1, None, None), name)[0] for name, array in found]

    def run_batch(
        self, rows: Sequence[FloatArray], width: int, cancel: CancelToken | None
    ) -> list[FloatArray]:
        """See Encoder."""
        ends = np.array([array.shape[-1] for array in rows])
        stacked = np.zeros((len(rows), *rows[0].shape[:-1], width), np.float32)
        for target, array in zip(stacked, rows, strict=True):
            target[..., : array.shape[-1]] = array
        feeds, name = self.ports.feeds(stacked, ends), self.ports.logits
        session = self.session
        if self.ports.mask and self._options.cuda_graphs and self.device == "cuda":
            session = self._fixed_session(len(rows), width)
        shape = (len(rows), None, None)
        if COUNTS_NAME not in session.output_names:
            return list(session.expect(session.run(feeds, [name], cancel)[0], shape, name))
        logits, counts = session.run(feeds, [name, COUNTS_NAME], cancel)
        session.expect(logits, shape, name)
        return [array[: int(count)] for array, count in zip(logits, counts, strict=True)]

    def _open(self, threads: int, fixed_dims: Mapping[str, int] | None = None) -> Session:
        return open_session(self._graph, self._options, threads, fixed_dims, self._name)

    def _fixed_session(self, n_rows: int, width: int) -> Session:
        """A session for one shape; the shapes met first get one, others share the general session."""
        key = (n_rows, width)
        with self._lock:
            if key not in self._fixed and len(self._fixed) < MAX_FIXED_SHAPES:
                dims = {"batch": n_rows, "n_samples": width}
                self._fixed[key] = self._open(1, dims)
            return self._fixed.get(key, self.session)

    def _wide_session(self) -> Session:
        threads = self._options.threads or available_cores()
        if threads == 1 or self.device != "cpu":
            return self.session
        with self._lock:
            if self._wide is None:
                self._wide = self._open(threads)
            return self._wide


def _states_size(session: Session) -> int | None:
    size = session.output_shape(STATES_NAME)[-1] if STATES_NAME in session.output_names else None
    return size if isinstance(size, int) else None


def open_encoder(bundle: Bundle, config: AcousticConfig, options: RuntimeOptions) -> Encoder:
    """Load the acoustic graph of a bundle with the fastest thing that computes it as asked.

    Raises:
        OptionError: an unknown backend.
        DeviceError: the device, compute type or backend is not available here.
        BundleIntegrityError: the graph wants to read another file.
        BundleSchemaError: the graph does not fit the manifest or the vocabulary.
    """
    choice = choose_backend(config.precision, options, options.compute_type)
    graph, name = bundle.graph_source("acoustic"), bundle.file("acoustic").name

    def by_kernels(choice: Choice) -> Encoder:
        if isinstance(graph, Path):
            raise UnsupportedBlockError("a graph with its weights in other files", "one whole file")
        found = KernelEncoder(graph, choice, options.threads or available_cores())
        _raise_problems(found.problems(config, bundle.vocabulary))
        return found

    def by_session(choice: Choice) -> Encoder:
        found = SessionEncoder(graph, name, config, options, choice)
        _check_graph(found, config, bundle.vocabulary)
        return found

    return open_model("encoder", choice, by_kernels, by_session)


def _check_graph(encoder: SessionEncoder, config: AcousticConfig, vocabulary: tuple[str, ...]) -> None:
    """Collect everything that does not fit between graph, manifest and vocabulary; raise once."""
    problems = []
    if config.mask and encoder.ports.mask != MASK_NAME:
        problems.append(f"the manifest promises an input {MASK_NAME!r}, the graph has none")
    size = (encoder.session.output_shape(encoder.ports.logits) or [None])[-1]
    _raise_problems(problems + _vocabulary_problems(size, config, vocabulary))


def _vocabulary_problems(size: object, config: AcousticConfig, vocabulary: tuple[str, ...]) -> list[str]:
    problems = []
    if isinstance(size, int) and size != len(vocabulary):
        problems.append(f"the head has {size} outputs, the vocabulary {len(vocabulary)} tokens")
    if config.blank_id >= len(vocabulary):
        problems.append(f"blank_id {config.blank_id} is outside the vocabulary of {len(vocabulary)}")
    return problems


def _raise_problems(problems: list[str]) -> None:
    if problems:
        raise BundleSchemaError(
            "; ".join(problems), "a graph, manifest and vocabulary of one model", "export the model again"
        )
