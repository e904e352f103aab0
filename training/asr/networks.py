"""The kinds of CTC networks that `training asr` trains, with one interface: input, masks, checkpoint.

A network prepares batches in the loader's thread (`make_batch`), runs the model on them
(`compute_logits`) and writes the finished folder (`save`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.acoustic.features import compute_features
from engine.bundle.folder import FeatureConfig
from training.asr.config import AsrConfig
from training.asr.conformer import SUBSAMPLING, ConformerConfig, ConformerCtc, output_lengths, save_checkpoint
from training.asr.model import Batch, compute_logits, plain_model, save_pretrained, takes_mask
from training.common.augment import mask_spans

Waveform = NDArray[np.float32]
MEL_MASKS = 2  # bands of mel channels hidden at once, each up to `mask_bands` wide


class Network(Protocol):
    """What the trainer needs of a kind of network."""

    samples_per_frame: int  # waveform samples per frame of logits
    hears_padding: bool  # a clip's logits depend on its padding

    def make_batch(self, waveforms: list[Waveform], labels: list[list[int]]) -> Any:
        """Turn clips into a batch with `labels`, `audio_s`, `clips`, `to(device)` and `select(row)`."""

    def compute_logits(
        self, model: Any, batch: Any, config: AsrConfig | None = None, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits [batch, n_frames, vocab] and valid frames int64 [batch]; masks where rng is given."""

    def save(self, model: Any, vocabulary: dict[str, int], folder: Path) -> None:
        """Write the finished checkpoint."""


def network_of(model: Any) -> Network:
    """Return the network that a model belongs to."""
    plain = plain_model(model)
    return (
        ConformerNetwork(plain.config) if isinstance(plain, ConformerCtc) else Wav2Vec2Network(plain.config)
    )


class Wav2Vec2Network:
    """Wav2Vec2ForCTC: normalised waveforms in, transformers' folder out."""

    def __init__(self, model_config: Any) -> None:
        self.samples_per_frame = int(np.prod(model_config.conv_stride))
        self.hears_padding = not takes_mask(model_config)  # group norm runs over time

    def make_batch(self, waveforms: list[Waveform], labels: list[list[int]]) -> Batch:
        """Normalise and pad waveforms."""
        return Batch.of(waveforms, labels)

    def compute_logits(
        self,
        model: Any,
        batch: Batch,
        config: AsrConfig | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See Network."""
        if config is None:
            return compute_logits(model, batch)
        return compute_logits(model, batch, config.mask_time, config.mask_span, rng)

    def save(self, model: Any, vocabulary: dict[str, int], folder: Path) -> None:
        """See Network; LoRA's adapters are merged."""
        save_pretrained(model, vocabulary, folder)


@dataclasses.dataclass(frozen=True)
class FeatureBatch:
    """Log-mel features padded to one length.

    Attributes:
        features: float32 [batch, n_mels, n_frames100], zeros after each utterance.
        lengths: int64 [batch], feature frames of each utterance.
        labels: the transcripts' label indices.
        audio_s: seconds of audio, padding not counted.
        clips: which samples they are; may be empty.
    """

    features: Tensor
    lengths: Tensor
    labels: list[list[int]]
    audio_s: float
    clips: tuple[int, ...] = ()

    def to(self, device: torch.device) -> FeatureBatch:
        """Return the batch with its features and lengths on a device."""
        return dataclasses.replace(self, features=self.features.to(device), lengths=self.lengths.to(device))

    def select(self, row: int) -> FeatureBatch:
        """Return one utterance as a batch."""
        lengths = self.lengths[row : row + 1]
        features = self.features[row : row + 1, :, : int(lengths[0])]
        return FeatureBatch(features, lengths, [self.labels[row]], float(lengths[0]) / 100.0)


class ConformerNetwork:
    """ConformerCtc: log-mel features (by the runtime's kernel) in, its folder out."""

    def __init__(self, model_config: ConformerConfig) -> None:
        self.samples_per_frame = SUBSAMPLING * model_config.hop_length
        self.hears_padding = False
        self.features = FeatureConfig(
            kind="log_mel", sample_rate=model_config.sample_rate, n_fft=model_config.n_fft,
            hop_length=model_config.hop_length, n_mels=model_config.n_mels,
            convention="kaldi" if model_config.convention == "kaldi" else "whisper",
            scale=model_config.scale,
        )  # fmt: skip

    def make_batch(self, waveforms: list[Waveform], labels: list[list[int]]) -> FeatureBatch:
        """Compute and pad features."""
        rows = [torch.from_numpy(np.array(compute_features(w, self.features))) for w in waveforms]
        lengths = torch.tensor([row.shape[1] for row in rows])
        padded = torch.zeros(len(rows), self.features.n_mels, int(lengths.max()))
        for target, row in zip(padded, rows, strict=True):
            target[:, : row.shape[1]] = row
        return FeatureBatch(padded, lengths, labels, sum(w.size for w in waveforms) / 16_000.0)

    def compute_logits(
        self,
        model: Any,
        batch: FeatureBatch,
        config: AsrConfig | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See Network; hidden stretches and bands of the features become the training data's mean."""
        features = batch.features
        if config is not None and rng is not None and config.mask_time > 0.0:
            hidden = torch.from_numpy(self._mask(batch, config, rng)).to(features.device)
            features = torch.where(hidden, model.mel_mean[:, None], features)
        return model(features, batch.lengths), output_lengths(batch.lengths)

    def _mask(self, batch: FeatureBatch, config: AsrConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Choose what to hide, bool [batch, n_mels, n_frames100]."""
        mask = np.zeros(tuple(batch.features.shape), np.bool_)
        for row, length in zip(mask, batch.lengths.tolist(), strict=True):
            # mask_span counts frames of 20 ms; features come every 10 ms
            row[:, :length] |= mask_spans(length, config.mask_time, 2 * config.mask_span, rng)
            for width in rng.integers(0, config.mask_bands + 1, MEL_MASKS):
                start = int(rng.integers(0, row.shape[0] - width + 1))
                row[start : start + width] = True
        return mask

    def save(self, model: Any, vocabulary: dict[str, int], folder: Path) -> None:
        """See Network."""
        save_checkpoint(model, folder)

    @torch.no_grad()
    def set_feature_scale(self, model: ConformerCtc, waveforms: Sequence[Waveform]) -> None:
        """Set mel_mean and mel_scale so that the features of some clips have mean 0 and variance 1."""
        frames = np.concatenate([compute_features(w, self.features) for w in waveforms], axis=1)
        model.mel_mean.copy_(torch.from_numpy(frames.mean(1)))
        model.mel_scale.copy_(torch.from_numpy(1.0 / (frames.std(1) + 1e-3)))
