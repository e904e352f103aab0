"""What stands between the engine's features and a model of transformers, inside the graph."""

from __future__ import annotations

from typing import Any

from export.acoustic.families import STACKED, Fed

VARIANCE_FLOOR = 1e-7


def wrap_model(model: Any, fed: Fed) -> Any:
    """A torch.nn.Module from what engine.acoustic.features computes to logits.

    Args:
        model: a CTC model of transformers.
        fed: see export.acoustic.families.Family.
    """
    import torch

    class FromFeatures(torch.nn.Module):
        """[batch, n_samples] or [batch, n_mels, n_frames] -> logits [batch, n_frames, vocab_size]."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: Any) -> Any:
            """Compute logits."""
            return self.model(prepare(features, fed)).logits

    return FromFeatures().eval()


def prepare(features: Any, fed: Fed) -> Any:
    """The engine's features as the model reads them.

    Args:
        features: torch float32 [batch, n_samples] or [batch, n_mels, n_frames].
    Returns:
        The same, [batch, n_frames, n_mels], or [batch, n_frames // 2, 2 * n_mels] for a family that joins
        pairs of frames: there each band has zero mean and unit variance over the utterance.
    """
    if fed == "waveform":
        return features
    rows = features.transpose(1, 2)
    if fed == "nemo":
        return rows
    mean, variance = rows.mean(1, keepdim=True), rows.var(1, keepdim=True, unbiased=True)
    rows = (rows - mean) / (variance + VARIANCE_FLOOR) ** 0.5
    n_pairs = rows.shape[1] // STACKED
    return rows[:, : n_pairs * STACKED].reshape(rows.shape[0], n_pairs, STACKED * rows.shape[2])
