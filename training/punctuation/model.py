"""The tagger: summed embeddings of a word's pieces, then convolutions over the words around it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.output.punctuation import CASES, MARKS, N_BUCKETS, N_PIECES

ARCHITECTURE = "PunctuationTagger"


@dataclass(frozen=True)
class TaggerConfig:
    """Sizes. dilations: of the convolutions, one per layer; each sees `width` words, this far apart."""

    embedding_size: int = 48
    hidden_size: int = 128
    width: int = 5
    dilations: tuple[int, ...] = (1, 2, 4, 1)


class Tagger(nn.Module):
    """Logits of case and punctuation for every word."""

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(N_BUCKETS, config.embedding_size)
        nn.init.normal_(self.embedding.weight, std=N_PIECES**-0.5)
        self.input = nn.Linear(config.embedding_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, dilation) for dilation in config.dilations)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.case = nn.Linear(config.hidden_size, len(CASES))
        self.mark = nn.Linear(config.hidden_size, len(MARKS))

    def forward(self, pieces: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tag words.

        Args:
            pieces: int64 [batch, n_words, N_PIECES].
            mask: bool [batch, n_words], False on padding; None where there is none.
        Returns:
            Logits [batch, n_words, len(CASES)] and [batch, n_words, len(MARKS)].
        """
        real = (
            torch.ones_like(pieces[..., :1], dtype=torch.float32) if mask is None else mask[..., None].float()
        )
        x = self.input(self.embedding(pieces).sum(-2)) * real
        for layer in self.layers:
            x = layer(x, real)
        x = self.norm(x)
        return self.case(x), self.mark(x)


class Layer(nn.Module):
    """x + projection(GELU(convolution(norm(x)))), the convolution over neighbouring words."""

    def __init__(self, config: TaggerConfig, dilation: int) -> None:
        super().__init__()
        self.dilation, self.width = dilation, config.width
        self.norm = nn.LayerNorm(config.hidden_size)
        self.windows = nn.Linear(config.width * config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        reach = self.dilation * (self.width // 2)
        padded = F.pad(self.norm(x) * real, (0, 0, reach, reach))
        n_words = x.shape[1]
        shifted = [padded[:, k * self.dilation : k * self.dilation + n_words] for k in range(self.width)]
        return (x + self.output(F.gelu(self.windows(torch.cat(shifted, -1))))) * real


def save_tagger(model: Tagger, folder: Path, described: dict[str, Any]) -> None:
    """Write config.json and model.safetensors."""
    content = {"architecture": ARCHITECTURE, "model": asdict(model.config), **described}
    (folder / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )


def load_tagger(folder: Path) -> tuple[Tagger, dict[str, Any]]:
    """The model in evaluation mode, and config.json.

    Raises:
        ValueError: another architecture. OSError: a file is missing.
    """
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if described.get("architecture") != ARCHITECTURE:
        raise ValueError(f"{folder} holds {described.get('architecture')!r}; expected {ARCHITECTURE}")
    sizes = described["model"] | {"dilations": tuple(described["model"]["dilations"])}
    model = Tagger(TaggerConfig(**sizes))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), described
