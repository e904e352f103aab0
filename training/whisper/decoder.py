"""Whisper's attention decoder as a torch module, with its own vocabulary."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and special tokens of an attention decoder.

    Attributes:
        vocab_size: tokens; prompt, end and no_speech are among them.
        max_tokens: positions, the prompt's included.
        prompt: ids that every transcript begins with. end_id: closes it.
        no_speech_id: what Whisper predicts instead of the second prompt token where nobody speaks.
    """

    vocab_size: int
    prompt: tuple[int, ...]
    end_id: int
    no_speech_id: int
    hidden_size: int = 512
    n_layers: int = 6
    n_heads: int = 8
    intermediate_size: int = 2048
    max_tokens: int = 448


class Attention(nn.Module):
    """Multi-head attention of queries [batch, n, d] over [batch, m, d]; keys have no bias, as in Whisper."""

    def __init__(self, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Map [batch, n, d] to the same shape. mask: bool [batch, 1, 1, m], True where memory may be seen."""
        query, key, value = (
            projection(source).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for projection, source in ((self.q_proj, hidden), (self.k_proj, memory), (self.v_proj, memory))
        )
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.out_proj(context.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, attention over the encoder's states, feed-forward block."""

    def __init__(self, config: DecoderConfig, dropout: float) -> None:
        super().__init__()
        size = config.hidden_size
        self.self_attn = Attention(size, config.n_heads)
        self.self_attn_layer_norm = nn.LayerNorm(size)
        self.encoder_attn = Attention(size, config.n_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, size)
        self.final_layer_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """Map [batch, n_tokens, d] to the same shape; states [batch, n_frames, d]."""
        normed = self.self_attn_layer_norm(hidden)
        hidden = hidden + self.dropout(self.self_attn(normed, normed, None, causal=True))
        normed = self.encoder_attn_layer_norm(hidden)
        hidden = hidden + self.dropout(self.encoder_attn(normed, states, mask, causal=False))
        inner = functional.gelu(self.fc1(self.final_layer_norm(hidden)))
        return hidden + self.dropout(self.fc2(inner))


class AttentionDecoder(nn.Module):
    """Encoder states and earlier tokens to logits of the next token."""

    def __init__(self, config: DecoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_tokens, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, dropout) for _ in range(config.n_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, tokens: Tensor, states: Tensor, n_frames: Tensor | None = None) -> Tensor:
        """Compute logits, every position from the tokens up to it.

        Args:
            tokens: int64 [batch, n_tokens], beginning with the prompt.
            states: float32 [batch, n_frames, d].
            n_frames: int64 [batch], valid frames of each row; None: all.
        Returns:
            float32 [batch, n_tokens, vocab_size]; the embeddings are the output layer too.
        """
        hidden = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        mask = None
        if n_frames is not None:
            frames = torch.arange(states.shape[1], device=states.device)
            mask = (frames < n_frames.to(states.device)[:, None])[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, states, mask)
        return functional.linear(self.layer_norm(hidden), self.embed_tokens.weight)
