"""The common parts of the log-mel checkpoints of training/: files, features, reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle.folder import FeatureConfig
from export.checkpoint import read_json, read_vocabulary
from export.errors import ExportError
from export.graph.linear import FloatArray

KALDI_SCALE = 32768.0  # of samples, where a checkpoint has no scale; the Whisper convention has none


@dataclass(frozen=True)
class MelCheckpoint:
    """A loaded checkpoint: the model in evaluation mode, its vocabulary and licence."""

    name: str
    model: Any
    vocabulary: tuple[str, ...]
    licence: str

    def reference(self, features: FloatArray) -> FloatArray:
        """Logits of the original model."""
        return run_torch(self.model, features)

    def features(self) -> FeatureConfig:
        """The features that the model was trained on."""
        config = self.model.config
        return FeatureConfig(
            kind="log_mel",
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            convention="kaldi" if config.convention == "kaldi" else "whisper",
            scale=getattr(config, "scale", KALDI_SCALE),
        )


def read_mel_checkpoint(
    folder: Path, load: Callable[[Path], Any], *, kind: str, others: str
) -> MelCheckpoint:
    """Read config.json, vocab.json and model.safetensors.

    Args:
        load: folder -> model.
        kind: the class of the checkpoint; others: commands for other ones. Both are for the message.
    Raises:
        ExportError: a file is missing, of another kind, or does not fit the others.
    """
    described = read_json(folder / "config.json", required=True)
    vocabulary = read_vocabulary(folder, described)
    try:
        model = load(folder)
    except Exception as error:  # safetensors' own error derives from nothing else
        raise ExportError(
            f"{str(folder)!r} cannot be loaded ({str(error).splitlines()[0]})",
            f"a {kind} checkpoint, as training writes it",
            f"train it again, or use {others} for another architecture",
        ) from error
    name, licence = folder.resolve().name, str(described.get("licence", "unknown"))
    return MelCheckpoint(name, model, vocabulary, licence)


def run_torch(model: Any, features: FloatArray) -> FloatArray:
    """Logits float32 [batch, n_frames, vocab_size] of features [batch, n_mels, n_frames100]."""
    import torch

    with torch.inference_mode():
        logits: FloatArray = model(torch.from_numpy(np.ascontiguousarray(features))).float().numpy()
    return logits
