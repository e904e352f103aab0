"""Examples as the tensors of one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.whisper.examples import Example

IGNORED = -100


def pad_features(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Stack features [batch, n_mels, n_frames100], ends filled with the last frame; and states of each."""
    longest = max(example.features.shape[1] for example in examples)
    rows = [
        torch.cat([e.features, e.features[:, -1:].expand(-1, longest - e.features.shape[1])], dim=1)
        for e in examples
    ]
    return torch.stack(rows), torch.tensor([example.n_frames for example in examples])


def pad_tokens(examples: Sequence[Example], no_speech_id: int) -> tuple[Tensor, Tensor]:
    """Tokens to read and those to expect, int64 [batch, longest - 1]; IGNORED where none is expected.

    The first prompt token is followed by the language or, where nobody speaks, by no_speech_id; nothing
    is expected after the other prompt tokens.
    """
    longest = max(len(example.tokens) for example in examples) - 1
    read = torch.zeros((len(examples), longest), dtype=torch.long)
    wanted = torch.full_like(read, IGNORED)
    for row, example in enumerate(examples):
        n = len(example.tokens) - 1
        read[row, :n] = torch.tensor(example.tokens[:-1])
        wanted[row, :n] = torch.tensor(example.tokens[1:])
        wanted[row, 1:3] = IGNORED
        if not example.labels:
            wanted[row, 0] = no_speech_id
    return read, wanted
