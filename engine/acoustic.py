"""The acoustic encoder: features of one utterance in, natural-log CTC emissions out.

On the CPU one utterance a call, so a transcript can never depend on what else was in a batch; callers
run several utterances at once from several threads over one single-threaded session. On a GPU several
share a call where padding is masked exactly, or where they are of one length.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.batches import MAX_BATCH_S, Batch, plan_batches
from engine.bundle import AcousticConfig, Bundle
from engine.errors import (
    AudioLimitError,
    AudioTooShortError,
    BundleIntegrityError,
    BundleSchemaError,
    DeviceError,
    ModelCapabilityError,
)
from engine.features import compute_features
from engine.session import CancelToken, Session, available_cores, open_session
from engine.types import RuntimeOptions

INPUT_NAMES = {"waveform": "input_values", "log_mel": "input_features"}
MASK_NAME = "attention_mask"
OUTPUT_NAME = "logits"
COUNTS_NAME = "frame_counts"  # of graphs with a mask: valid frames of each utterance
MAX_FIXED_SHAPES = 8  # each holds the weights once more
# wav2vec2 strides 320 samples and sees 400, log-mel strides 160 and sees 400 before its stem halves the rate.
WINDOW_PER_STRIDE = 1.25
# How a tensor that lives in another file names it: key "location" of a protobuf map entry.
EXTERNAL_DATA_MARK = b"\x0a\x08location\x12"

FloatArray = NDArray[np.float32]


class AcousticModel:
    """A loaded encoder; safe to call from many threads at once.

    Attributes:
        vocabulary: tokens by output index. blank_id: the CTC blank's index.
        word_delimiter: the token between words.
        sample_rate: Hz of the waveforms it takes. frame_s: seconds for each row of log_probs.
        max_window_s: the longest utterance it takes at once.
        device: "cpu" or "cuda".
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None) -> None:
        """Load the encoder of a bundle.

        Args:
            bundle: holds the roles acoustic and vocabulary.
            options: device and compute type.
        Raises:
            ModelCapabilityError: the bundle has no acoustic model.
            BundleSchemaError: the graph does not fit the manifest or the vocabulary.
            BundleIntegrityError: the graph wants to read another file.
            DeviceError: the device or compute type is not to be had.
        """
        self.config = _acoustic_config(bundle)
        options = options or RuntimeOptions()
        _check_compute_type(self.config, options)
        self._bundle, self._options = bundle, options
        self._session = _load_session(bundle, options, threads=1)
        self._wide_lock = threading.Lock()
        self._wide: Session | None = None
        self._fixed: dict[tuple[int, int], Session] = {}
        self._input_name = INPUT_NAMES[self.config.features.kind]
        self.vocabulary = bundle.vocabulary
        self.blank_id = self.config.blank_id
        self.word_delimiter = self.config.word_delimiter
        self.sample_rate = self.config.features.sample_rate
        self.frame_s = self.config.samples_per_frame / self.sample_rate
        self.max_window_s = self.config.max_window_s
        self.device = self._session.device
        self._tail_frames = round(self.config.tail_silence_s / self.frame_s)
        _check_graph(self._session, self.config, self.vocabulary)

    @property
    def min_samples(self) -> int:
        """The shortest waveform that makes one frame, in samples."""
        return int(self.config.samples_per_frame * WINDOW_PER_STRIDE)

    def check_length(self, waveform: FloatArray) -> None:
        """Refuse a waveform that makes no frame.

        Raises:
            AudioTooShortError: fewer than min_samples samples.
        """
        if waveform.size < self.min_samples:
            raise AudioTooShortError(
                f"{waveform.size} samples ({1000 * waveform.size / self.sample_rate:.0f} ms) of audio",
                f"at least {self.min_samples} ({1000 * self.min_samples / self.sample_rate:.0f} ms)",
                "pass a longer recording",
            )

    def compute_features(self, waveform: FloatArray) -> FloatArray:
        """Compute what the encoder reads, tail silence included.

        Args:
            waveform: float32 [n_samples], mono, at sample_rate Hz, at most max_window_s long.
        Returns:
            float32 [n_samples + tail] or [n_mels, n_frames + tail].
        Raises:
            AudioShapeError, AudioValueError: not a finite 1-D float array.
            AudioTooShortError: less than one frame. AudioLimitError: longer than max_window_s.
        """
        self.check_length(waveform)
        self._check_window(waveform.size)
        n_tail = self._tail_frames * self.config.samples_per_frame
        if self.config.features.kind == "waveform":
            # Silence behind the normalisation, so that it does not change the utterance's scale.
            return np.pad(compute_features(waveform, self.config.features), (0, n_tail))
        return compute_features(np.pad(waveform, (0, n_tail)), self.config.features)

    def compute_log_probs(
        self, features: FloatArray, cancel: CancelToken | None = None, *, wide: bool = False
    ) -> FloatArray:
        """Run the encoder over one utterance.

        Args:
            features: from compute_features.
            cancel: ends the call from another thread.
            wide: spread this one call over the thread budget, for the latency of a lone
                utterance; several utterances at once finish sooner on a thread each.
        Returns:
            float32 [n_frames, vocab_size], natural log; the tail silence's frames are cut off.
        Raises:
            CancelledError: cancel was set.
        """
        feeds: dict[str, NDArray[np.generic]] = {self._input_name: features[None]}
        session = self._wide_session() if wide else self._session
        if MASK_NAME in session.input_names:
            feeds[MASK_NAME] = np.ones((1, features.shape[-1]), np.int64)
        logits = session.run(feeds, [OUTPUT_NAME], cancel)[0][0]
        return compute_log_softmax(logits[: len(logits) - self._tail_frames])

    @property
    def batches(self) -> bool:
        """Whether several utterances share a call: on a GPU, unless their int8 scales would be shared too."""
        return self.device == "cuda" and self.config.precision != "int8"

    def compute_log_probs_batch(
        self, features: Sequence[FloatArray], cancel: CancelToken | None = None
    ) -> list[FloatArray]:
        """Run the encoder on many utterances, several a call where that changes rounding at most.

        Args:
            features: as compute_features returns them.
        Returns:
            For each, float32 [n_frames, vocab_size], natural log.
        Raises:
            CancelledError: cancel was set.
        """
        config = self.config.features
        rate = config.sample_rate / (1 if config.kind == "waveform" else config.hop_length)
        max_length = round((self.max_window_s + self.config.tail_silence_s) * rate)
        lengths = [array.shape[-1] for array in features]
        results: dict[int, FloatArray] = {}
        plan = plan_batches(lengths, max_length, masked=self.config.mask, max_cells=round(MAX_BATCH_S * rate))
        for batch in plan:
            rows = [features[i] for i in batch.indices]
            rows += [rows[0]] * (batch.n_rows - len(rows))
            logits = self._run_batch(rows, batch, cancel)
            for index, array in zip(batch.indices, logits, strict=False):
                results[index] = compute_log_softmax(array[: len(array) - self._tail_frames])
        return [results[i] for i in range(len(features))]

    def _run_batch(
        self, rows: Sequence[FloatArray], batch: Batch, cancel: CancelToken | None
    ) -> list[FloatArray]:
        ends = np.array([array.shape[-1] for array in rows])
        stacked = np.zeros((len(rows), *rows[0].shape[:-1], batch.width), np.float32)
        for target, array in zip(stacked, rows, strict=True):
            target[..., : array.shape[-1]] = array
        feeds: dict[str, NDArray[np.generic]] = {self._input_name: stacked}
        session = self._session
        if MASK_NAME in session.input_names:
            feeds[MASK_NAME] = (np.arange(batch.width) < ends[:, None]).astype(np.int64)
            if self._options.cuda_graphs and self.device == "cuda":
                session = self._fixed_session(len(rows), batch.width)
        if COUNTS_NAME not in session.output_names:
            return list(session.run(feeds, [OUTPUT_NAME], cancel)[0])
        logits, counts = session.run(feeds, [OUTPUT_NAME, COUNTS_NAME], cancel)
        return [array[: int(count)] for array, count in zip(logits, counts, strict=True)]

    def _fixed_session(self, n_rows: int, width: int) -> Session:
        """A session for one shape; the shapes met first get one, others share the general session."""
        key = (n_rows, width)
        with self._wide_lock:
            if key not in self._fixed and len(self._fixed) < MAX_FIXED_SHAPES:
                dims = {"batch": n_rows, "n_samples": width}
                self._fixed[key] = _load_session(self._bundle, self._options, 1, dims)
            return self._fixed.get(key, self._session)

    def _wide_session(self) -> Session:
        threads = self._options.threads or available_cores()
        if threads == 1 or self.device != "cpu":
            return self._session
        with self._wide_lock:
            if self._wide is None:
                self._wide = _load_session(self._bundle, self._options, threads)
            return self._wide

    def _check_window(self, n_samples: int) -> None:
        limit = int(self.max_window_s * self.sample_rate)
        if n_samples > limit:
            raise AudioLimitError(
                f"{n_samples / self.sample_rate:.2f} s in one piece",
                f"at most {self.max_window_s:g} s for this encoder",
                "cut at pauses first, as transcribe() does",
            )


def compute_log_softmax(logits: NDArray[np.floating]) -> FloatArray:
    """Normalise logits [n_frames, vocab_size] to natural-log probabilities, float32, row by row."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    log_probs: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probs.astype(np.float32, copy=False)


def _acoustic_config(bundle: Bundle) -> AcousticConfig:
    if bundle.manifest.acoustic is None:
        raise ModelCapabilityError(
            f"bundle {bundle.name!r} has no acoustic model",
            "a bundle that recognises speech",
            "load another bundle, or use its translator alone",
        )
    return bundle.manifest.acoustic


def _check_compute_type(config: AcousticConfig, options: RuntimeOptions) -> None:
    if options.compute_type not in ("auto", config.precision):
        raise DeviceError(
            f"compute type {options.compute_type!r}",
            f"'auto' or {config.precision!r}, which this model was exported in",
            "pass compute_type='auto', or export the model in the other precision",
        )


def _load_session(
    bundle: Bundle, options: RuntimeOptions, threads: int, fixed_dims: Mapping[str, int] | None = None
) -> Session:
    graph = bundle.read("acoustic")
    if EXTERNAL_DATA_MARK in graph:
        raise BundleIntegrityError(
            f"{bundle.file('acoustic').name} keeps weights in another file",
            "one self-contained ONNX file",
            "export it again without external data",
        )
    try:
        return open_session(graph, options, threads=threads, fixed_dims=fixed_dims)
    except (DeviceError, ImportError):
        raise
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise BundleSchemaError(
            f"onnxruntime cannot load {bundle.file('acoustic').name} ({str(error).splitlines()[0]})",
            "a graph whose operators it knows",
            "export the model again, or upgrade onnxruntime-gpu",
        ) from error


def _check_graph(session: Session, config: AcousticConfig, vocabulary: tuple[str, ...]) -> None:
    """Collect everything that does not fit between graph, manifest and vocabulary; raise once."""
    problems = []
    wanted = INPUT_NAMES[config.features.kind]
    unknown = set(session.input_names) - {wanted, MASK_NAME}
    if wanted not in session.input_names or unknown:
        problems.append(f"the graph's inputs are {list(session.input_names)}, not [{wanted!r}]")
    if config.mask and MASK_NAME not in session.input_names:
        problems.append(f"the manifest promises an input {MASK_NAME!r}, the graph has none")
    if OUTPUT_NAME not in session.output_names:
        problems.append(f"the graph's outputs are {list(session.output_names)}, not [{OUTPUT_NAME!r}]")
    else:
        size = session.output_shape(OUTPUT_NAME)[-1]
        if isinstance(size, int) and size != len(vocabulary):
            problems.append(f"the head has {size} outputs, the vocabulary {len(vocabulary)} tokens")
    if config.blank_id >= len(vocabulary):
        problems.append(f"blank_id {config.blank_id} is outside the vocabulary of {len(vocabulary)}")
    if problems:
        raise BundleSchemaError(
            "; ".join(problems), "a graph, manifest and vocabulary of one model", "export the model again"
        )
