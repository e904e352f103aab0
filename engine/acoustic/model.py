"""The acoustic encoder: features of one utterance in, natural-log CTC emissions out.

On the CPU one utterance a call, so a transcript can never depend on what else was in a batch; callers
run several utterances at once from several threads over one single-threaded session. On a GPU several
share a call where padding is masked exactly, or where they are of one length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.batches import MAX_BATCH_S, plan_batches
from engine.acoustic.encoders import open_encoder
from engine.acoustic.features import check_waveform, compute_features
from engine.audio.limits import SAMPLE_RATE
from engine.audio.sink import resample
from engine.bundle.folder import AcousticConfig, Bundle
from engine.errors import (
    AudioLimitError,
    AudioTooShortError,
    BundleSchemaError,
    ModelCapabilityError,
    ModelError,
)
from engine.runtime.cancel import CancelToken
from engine.types import RuntimeOptions

# wav2vec2 strides 320 samples and sees 400, log-mel strides 160 and sees 400 before its stem halves the rate.
WINDOW_PER_STRIDE = 1.25
FloatArray = NDArray[np.float32]


class AcousticModel:
    """A loaded encoder; safe to call from many threads at once.

    Attributes:
        vocabulary: tokens by output index. blank_id: the CTC blank's index.
        word_delimiter: the token between words.
        sample_rate: Hz of the waveforms it takes, 16,000: all audio is decoded to it, as speech detection
            wants. model_rate: Hz at which the encoder hears them. frame_s: seconds for each row of log_probs.
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
            BundleSchemaError: the graph does not fit the manifest, the vocabulary or the second pass.
            BundleIntegrityError: the graph wants to read another file.
            DeviceError: the device or compute type is not available here.
        """
        self.config = _acoustic_config(bundle)
        self.encoder = open_encoder(bundle, self.config, options or RuntimeOptions())
        _check_second_pass(bundle, self.encoder.states_size)
        self.vocabulary = bundle.vocabulary
        self.blank_id = self.config.blank_id
        self.word_delimiter = self.config.word_delimiter
        self.sample_rate = SAMPLE_RATE
        self.model_rate = self.config.features.sample_rate
        self.frame_s = self.config.samples_per_frame / self.model_rate
        self.max_window_s = self.config.max_window_s
        self.device = self.encoder.device
        self._tail_frames = round(self.config.tail_silence_s / self.frame_s)

    @property
    def min_samples(self) -> int:
        """The shortest waveform that makes one frame, in samples."""
        own = int(self.config.samples_per_frame * WINDOW_PER_STRIDE)
        return math.ceil(own * self.sample_rate / self.model_rate)

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
        waveform = self._resample(waveform)
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
        return self._log_probs(self.encoder.run(features, cancel, wide), features.shape[-1])

    def compute_states(
        self, features: FloatArray, cancel: CancelToken | None = None, *, wide: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Run the encoder over one utterance for two passes.

        Args:
            features, cancel, wide: as for compute_log_probs.
        Returns:
            What compute_log_probs returns, the same bits, and the encoder's states behind its final norm,
            float32 [n_frames + tail frames, states_size]: an attention decoder was trained with the tail.
        Raises:
            ModelCapabilityError: the graph gives no states. CancelledError: cancel was set.
        """
        if self.states_size is None:
            raise ModelCapabilityError(
                "an acoustic graph without the output 'states'",
                "an encoder that was exported for two passes",
                "export it with `engine-export two-pass`",
            )
        logits, states = self.encoder.run_states(features, cancel, wide)
        return self._log_probs(logits, features.shape[-1]), states

    def _log_probs(self, logits: FloatArray, length: int) -> FloatArray:
        """Of features of so many samples or frames."""
        config = self.config
        n_samples = length * (1 if config.features.kind == "waveform" else config.features.hop_length)
        expected = n_samples / config.samples_per_frame
        if logits.shape[1] != len(self.vocabulary) or abs(len(logits) - expected) > 4 + expected / 20:
            raise ModelError(
                f"an encoder that makes {list(logits.shape)} logits of {n_samples} samples",
                f"about [{expected:.0f}, {len(self.vocabulary)}], as samples_per_frame and vocabulary say",
                "export the model again",
            )
        return compute_log_softmax(logits[: len(logits) - self._tail_frames])

    @property
    def states_size(self) -> int | None:
        """Channels of the encoder's states; None where the graph does not give them."""
        return self.encoder.states_size

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
            logits = self.encoder.run_batch(rows, batch.width, cancel)
            for index, array in zip(batch.indices, logits, strict=False):
                results[index] = self._log_probs(array, features[index].shape[-1])
        return [results[i] for i in range(len(features))]

    def _resample(self, waveform: FloatArray) -> FloatArray:
        """The waveform at the encoder's own rate; bands above 8 kHz are not there."""
        if self.model_rate == self.sample_rate:
            return waveform
        check_waveform(waveform)  # samples that are not finite would spread
        return resample(waveform, self.sample_rate, self.model_rate)

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
    config = bundle.manifest.acoustic
    if config.samples_per_frame * WINDOW_PER_STRIDE > config.features.sample_rate / 2:
        raise BundleSchemaError(
            f"frames of {config.samples_per_frame} samples at {config.features.sample_rate} Hz",
            "frames of less than 0.4 s",
            "export the model again",
        )
    return config


def _check_second_pass(bundle: Bundle, states_size: int | None) -> None:
    """The kernels of a decoder do not ask how wide the states are."""
    second_pass = bundle.manifest.second_pass
    if second_pass is not None and second_pass.hidden_size != states_size:
        found = "no states" if states_size is None else f"states of {states_size} channels"
        raise BundleSchemaError(
            f"an encoder with {found} for a decoder over {second_pass.hidden_size}",
            "encoder and decoder of one checkpoint",
            "export the checkpoint again with `engine-export two-pass`",
        )
