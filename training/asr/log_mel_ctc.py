"""LogMelCTC: Whisper's log-mel encoder with a CTC head, as a torch module and a checkpoint folder.

A checkpoint is a folder with config.json, model.safetensors and vocab.json; nothing in it is executable.
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

ARCHITECTURE = "LogMelCTC"


@dataclasses.dataclass(frozen=True)
class LogMelCtcConfig:
    """Sizes of a LogMelCTC, with the features it expects.

    Attributes:
        n_sinks: learned key/value pairs per layer, which replace the silence that Whisper's
            attention needs; 0 for none.
        head: "lstm" (bidirectional) or "transformer".
        mix_layers: how many of the top layers' states the head sees, summed with learned weights.
        normalize_states: bring each channel of the states to zero mean and unit variance over the utterance,
            which removes most differences between speakers and rooms.
        tail_silence_s: silence to append to the waveform before the features are computed.
    """

    n_mels: int = 80
    hidden_size: int = 512
    n_layers: int = 6
    n_heads: int = 8
    intermediate_size: int = 2048
    max_frames: int = 1500
    n_sinks: int = 0
    head: str = "lstm"
    head_size: int = 256
    head_layers: int = 1
    mix_layers: int = 1
    normalize_states: bool = False
    vocab_size: int = len(VOCABULARY)
    blank_id: int = 0
    tail_silence_s: float = 3.0
    sample_rate: int = 16_000
    n_fft: int = 400
    hop_length: int = 160
    convention: str = "whisper"


def sinusoids(n_frames: int, n_channels: int) -> Tensor:
    """Return Whisper's encoder positions, float32 [n_frames, n_channels]: sines, then cosines."""
    rates = torch.exp(
        -torch.arange(n_channels // 2) * (torch.log(torch.tensor(10_000.0)) / (n_channels // 2 - 1))
    )
    angles = torch.arange(n_frames)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Run fused attention over [batch, heads, frames, size]; on a CPU in float32, which is faster there."""
    if query.device.type != "cpu":
        bias = None if bias is None else bias.to(query.dtype)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    with torch.autocast("cpu", enabled=False):
        mixed = functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=bias
        )
        return mixed.to(query.dtype)


class Attention(nn.Module):
    """Self-attention over all frames, and over `n_sinks` learned pairs that are always there."""

    def __init__(self, hidden_size: int, n_heads: int, n_sinks: int = 0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.n_sinks = n_sinks
        if n_sinks:
            self.sink_keys = nn.Parameter(torch.zeros(n_sinks, hidden_size))
            self.sink_values = nn.Parameter(torch.zeros(n_sinks, hidden_size))
            self.sink_bias = nn.Parameter(torch.zeros(n_sinks))

    def forward(self, hidden: Tensor, use_sinks: bool = True) -> Tensor:
        """Map [batch, n_frames, hidden] to the same shape."""
        query, key, value = self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        bias = None
        if self.n_sinks and use_sinks:
            key = torch.cat([self.sink_keys.to(key.dtype).expand(len(key), -1, -1), key], dim=1)
            value = torch.cat([self.sink_values.to(value.dtype).expand(len(value), -1, -1), value], dim=1)
            # fixed: with a trained bias, torch uses attention that stores every score
            bias = functional.pad(self.sink_bias.detach(), (0, hidden.shape[1]))[None, None, None, :]
        context = attend(self._split(query), self._split(key), self._split(value), bias)
        return self.out_proj(context.transpose(1, 2).flatten(2))

    def _split(self, tensor: Tensor) -> Tensor:  # -> [batch, heads, frames, size of a head]
        return tensor.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer, as in Whisper."""

    def __init__(
        self, hidden_size: int, n_heads: int, intermediate_size: int, n_sinks: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = Attention(hidden_size, n_heads, n_sinks)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)
        self.output_dense = nn.Linear(intermediate_size, hidden_size)
        self.final_layer_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, use_sinks: bool = True) -> Tensor:
        """Map [batch, n_frames, hidden] to the same shape."""
        hidden = hidden + self.dropout(self.attention(self.layer_norm(hidden), use_sinks))
        inner = functional.gelu(self.intermediate_dense(self.final_layer_norm(hidden)))
        return hidden + self.dropout(self.output_dense(inner))


class LstmHead(nn.Module):
    """Bidirectional LSTM, then a linear layer."""

    def __init__(self, config: LogMelCtcConfig, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(
            config.hidden_size, config.head_size, config.head_layers, batch_first=True, bidirectional=True,
            dropout=dropout if config.head_layers > 1 else 0.0,
        )  # fmt: skip
        self.output = nn.Linear(2 * config.head_size, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [batch, n_frames, hidden] to [batch, n_frames, vocab]."""
        return self.output(self.dropout(self.lstm(self.dropout(hidden))[0]))


class TransformerHead(nn.Module):
    """A narrow projection, local context by depthwise convolution, transformer layers, a linear layer."""

    def __init__(self, config: LogMelCtcConfig, dropout: float) -> None:
        super().__init__()
        size = config.head_size
        self.input = nn.Linear(config.hidden_size, size)
        self.dropout = nn.Dropout(dropout)
        self.convs = nn.ModuleList(
            nn.Conv1d(size, size, 15, padding=7, groups=size) for _ in range(config.head_layers)
        )
        self.layers = nn.ModuleList(
            EncoderLayer(size, size // 64, 4 * size, dropout=dropout) for _ in range(config.head_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.output = nn.Linear(size, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [batch, n_frames, hidden] to [batch, n_frames, vocab]."""
        hidden = self.input(self.dropout(hidden))
        for conv, layer in zip(self.convs, self.layers, strict=True):
            hidden = hidden + functional.gelu(conv(hidden.transpose(1, 2))).transpose(1, 2)
            hidden = layer(hidden)
        return self.output(self.norm(hidden))


class LogMelCtc(nn.Module):
    """Log-mel features to CTC logits, 50 frames per second."""

    def __init__(self, config: LogMelCtcConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.conv1 = nn.Conv1d(config.n_mels, size, 3, padding=1)
        self.conv2 = nn.Conv1d(size, size, 3, stride=2, padding=1)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(config.max_frames, size), persistent=False)
        self.layers = nn.ModuleList(
            EncoderLayer(size, config.n_heads, config.intermediate_size, config.n_sinks)
            for _ in range(config.n_layers)
        )
        self.layer_norm = nn.LayerNorm(size)
        self.mix = nn.Parameter(torch.zeros(config.mix_layers)) if config.mix_layers > 1 else None
        self.head = {"lstm": LstmHead, "transformer": TransformerHead}[config.head](config, dropout)

    def forward(self, input_features: Tensor) -> Tensor:
        """Compute CTC logits.

        Args:
            input_features: float32 [batch, n_mels, n_frames100], Whisper's log-mel at 100 frames per second.
        Returns:
            float32 [batch, n_frames100 / 2, vocab].
        """
        return self.classify(self.encode(input_features))

    def stem(self, input_features: Tensor) -> Tensor:
        """Map features to the first layer's input, [batch, n_frames100 / 2, hidden]."""
        hidden = functional.gelu(self.conv2(functional.gelu(self.conv1(input_features)))).transpose(1, 2)
        return hidden + self.positions[: hidden.shape[1]].to(hidden.dtype)

    def encode(self, input_features: Tensor) -> Tensor:
        """Map features to encoder states, [batch, n_frames100 / 2, hidden]."""
        return self.run_layers(self.stem(input_features), 0)

    def run_layers(self, hidden: Tensor, first: int) -> Tensor:
        """Run the layers from `first` on, and the final norm."""
        states = []
        for layer in self.layers[first:]:
            hidden = layer(hidden)
            states.append(hidden)
        if self.mix is None:
            return self.layer_norm(hidden)
        weights = self.mix.softmax(0)
        return sum(
            weight * self.layer_norm(state)
            for weight, state in zip(weights, states[-len(weights) :], strict=True)
        )

    def classify(self, states: Tensor) -> Tensor:
        """Map encoder states to logits."""
        if self.config.normalize_states:
            states = states - states.mean(1, keepdim=True)
            states = states * torch.rsqrt(states.square().mean(1, keepdim=True) + 1e-5)
        return self.head(states)


def save_checkpoint(model: LogMelCtc, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write config.json, with `extra` under "training", model.safetensors and vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": ARCHITECTURE, **dataclasses.asdict(model.config), "training": extra or {}}
    (folder / "config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    vocabulary = {symbol: index for index, symbol in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def load_checkpoint(folder: Path, dropout: float = 0.0) -> LogMelCtc:
    """Read a folder that `save_checkpoint` wrote; the model is in evaluation mode.

    Raises:
        ValueError: config.json names another architecture.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architecture") != ARCHITECTURE:
        raise ValueError(
            f"{folder}: expected architecture {ARCHITECTURE}, got {config.get('architecture')!r}"
        )
    known = {field.name for field in dataclasses.fields(LogMelCtcConfig)}
    model = LogMelCtc(
        LogMelCtcConfig(**{key: value for key, value in config.items() if key in known}), dropout
    )
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
