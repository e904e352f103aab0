"""ConformerCTC: a Conformer over log-mel features with a CTC head, as a torch module and a checkpoint folder.

A checkpoint is a folder with config.json, model.safetensors and vocab.json; nothing in it is executable.
Attention knows distances by a learned bias for each head, equal for all beyond max_distance frames.
Source: Conformer (Gulati et al., 2020). Differs: one-dimensional subsampling, and that bias instead of
Transformer-XL's positions.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from engine.text import VOCABULARY

ARCHITECTURE = "ConformerCTC"
SUBSAMPLING = 4  # feature frames for each frame of logits


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """Sizes of a ConformerCTC, with the features it expects.

    Attributes:
        conv_width: frames that the depthwise convolution sees, odd.
        max_distance: frames (40 ms); attention has one bias for all larger distances.
        max_window_s: the longest utterance it was trained on.
        convention, n_fft: of the features, as in the engine's FeatureConfig; scale: of kaldi's samples.
    """

    n_mels: int = 80
    hidden_size: int = 256
    n_layers: int = 12
    n_heads: int = 4
    intermediate_size: int = 1024
    conv_width: int = 31
    max_distance: int = 64
    vocab_size: int = len(VOCABULARY)
    blank_id: int = 0
    max_window_s: float = 30.0
    sample_rate: int = 16_000
    n_fft: int = 512
    hop_length: int = 160
    convention: str = "kaldi"
    scale: float = 32768.0


class FeedForward(nn.Module):
    """Norm, two linear layers with SiLU between; the caller adds half of it."""

    def __init__(self, config: ConformerConfig, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [batch, n_frames, hidden] to the same shape."""
        inner = functional.silu(self.intermediate_dense(self.norm(hidden)))
        return self.dropout(self.output_dense(self.dropout(inner)))


class Attention(nn.Module):
    """Norm and self-attention with a bias for the distance between two frames."""

    def __init__(self, config: ConformerConfig, dropout: float) -> None:
        super().__init__()
        size = config.hidden_size
        self.n_heads, self.max_distance = config.n_heads, config.max_distance
        self.norm = nn.LayerNorm(size)
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.out_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.distance_bias = nn.Parameter(torch.zeros(2 * config.max_distance + 1, config.n_heads))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Map [batch, n_frames, hidden] to the same shape; valid: bool [batch, n_frames], False: padding."""
        normed = self.norm(hidden)
        parts = [self._split(proj(normed)) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        bias = self._bias(hidden.shape[1]).to(parts[0].dtype)[None]
        if valid is not None:
            bias = bias.masked_fill(~valid[:, None, None, :], float("-inf"))
        query, key, value = parts
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.dropout(self.out_proj(context.transpose(1, 2).flatten(2)))

    def _bias(self, n_frames: int) -> Tensor:  # -> [heads, n_frames, n_frames]
        frames = torch.arange(n_frames, device=self.distance_bias.device)
        distances = (frames[None, :] - frames[:, None]).clamp(-self.max_distance, self.max_distance)
        return self.distance_bias[distances + self.max_distance].permute(2, 0, 1)

    def _split(self, tensor: Tensor) -> Tensor:  # -> [batch, heads, frames, size of a head]
        return tensor.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class Convolution(nn.Module):
    """Norm, pointwise to a gated linear unit, depthwise over time, batch norm, SiLU, pointwise."""

    def __init__(self, config: ConformerConfig, dropout: float) -> None:
        super().__init__()
        size, width = config.hidden_size, config.conv_width
        self.norm = nn.LayerNorm(size)
        self.expand = nn.Linear(size, 2 * size)
        self.depthwise = nn.Conv1d(size, size, width, padding=width // 2, groups=size)
        self.batch_norm = nn.BatchNorm1d(size)
        self.contract = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Map [batch, n_frames, hidden] to the same shape; frames that are not valid count as zeros."""
        gated = functional.glu(self.expand(self.norm(hidden)), dim=2)
        if valid is not None:
            gated = gated * valid[..., None]
        mixed = functional.silu(self.batch_norm(self.depthwise(gated.transpose(1, 2))))
        return self.dropout(self.contract(mixed.transpose(1, 2)))


class ConformerLayer(nn.Module):
    """Half a feed-forward block, attention, convolution, the other half, norm."""

    def __init__(self, config: ConformerConfig, dropout: float) -> None:
        super().__init__()
        self.feed_before = FeedForward(config, dropout)
        self.attention = Attention(config, dropout)
        self.convolution = Convolution(config, dropout)
        self.feed_after = FeedForward(config, dropout)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """Map [batch, n_frames, hidden] to the same shape."""
        hidden = hidden + 0.5 * self.feed_before(hidden)
        hidden = hidden + self.attention(hidden, valid)
        hidden = hidden + self.convolution(hidden, valid)
        return self.norm(hidden + 0.5 * self.feed_after(hidden))


class ConformerCtc(nn.Module):
    """Log-mel features to CTC logits, 25 frames per second."""

    def __init__(self, config: ConformerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.mel_mean: Tensor
        self.mel_scale: Tensor
        self.register_buffer("mel_mean", torch.zeros(config.n_mels))  # of the training data
        self.register_buffer("mel_scale", torch.ones(config.n_mels))
        self.conv1 = nn.Conv1d(config.n_mels, size, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(size, size, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(ConformerLayer(config, dropout) for _ in range(config.n_layers))
        self.output = nn.Linear(size, config.vocab_size)

    def forward(self, input_features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute CTC logits.

        Args:
            input_features: float32 [batch, n_mels, n_frames100].
            lengths: int64 [batch], feature frames of each utterance; all where None.
        Returns:
            float32 [batch, ceil(ceil(n_frames100 / 2) / 2), vocab]; frames after an utterance's
            output_lengths have no meaning.
        """
        features = (input_features - self.mel_mean[:, None]) * self.mel_scale[:, None]
        features = _zero_behind(features, lengths)
        hidden = functional.silu(self.conv1(features))
        half = None if lengths is None else (lengths + 1) // 2
        hidden = functional.silu(self.conv2(_zero_behind(hidden, half))).transpose(1, 2)
        valid = None
        if lengths is not None:
            frames = torch.arange(hidden.shape[1], device=hidden.device)
            valid = frames[None] < output_lengths(lengths)[:, None]
        for layer in self.layers:
            hidden = layer(hidden, valid)
        return self.output(hidden)


def output_lengths(lengths: Tensor) -> Tensor:
    """Frames of logits for a number of feature frames."""
    return ((lengths + 1) // 2 + 1) // 2


def _zero_behind(values: Tensor, lengths: Tensor | None) -> Tensor:
    """[batch, n, n_frames] with zeros after each utterance, like the convolution's own padding."""
    if lengths is None:
        return values
    frames = torch.arange(values.shape[2], device=values.device)
    return values * (frames[None] < lengths[:, None])[:, None]


def save_checkpoint(model: ConformerCtc, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write config.json, with `extra` under "training", model.safetensors and vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": ARCHITECTURE, **dataclasses.asdict(model.config), "training": extra or {}}
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    vocabulary = {symbol: index for index, symbol in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def load_checkpoint(folder: Path, dropout: float = 0.0) -> ConformerCtc:
    """Read a folder that `save_checkpoint` wrote; the model is in evaluation mode.

    Raises:
        ValueError: config.json names another architecture.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("architecture")
    if found != ARCHITECTURE:
        raise ValueError(f"{folder}: expected architecture {ARCHITECTURE}, got {found!r}")
    known = {field.name for field in dataclasses.fields(ConformerConfig)}
    model = ConformerCtc(ConformerConfig(**{k: v for k, v in config.items() if k in known}), dropout)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
