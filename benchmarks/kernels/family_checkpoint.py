"""Checkpoints of random weights at the published sizes of benchmarks.studies.families.

python -m benchmarks.kernels.family_checkpoint 'HuBERT large' FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from benchmarks.studies.families import KINDS, Kind

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß"
TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS)


def make_checkpoint(kind: Kind, folder: Path) -> None:
    """Random weights of a kind's size with its processor, as their makers save them."""
    torch.manual_seed(0)
    model = make_model(kind)
    folder.mkdir(parents=True)
    model.half().save_pretrained(folder, max_shard_size="1GB")
    make_extractor(kind).save_pretrained(folder)
    tokens = [*TOKENS[1:], TOKENS[0]] if kind.family == "Parakeet" else TOKENS
    index: dict[str, Any] = {token: number for number, token in enumerate(tokens)}
    if kind.language:
        adapter = {name: tensor.detach().clone() for name, tensor in model._get_adapters().items()}
        save_file(adapter, folder / f"adapter.{kind.language}.safetensors", metadata={"format": "pt"})
        index = {kind.language: index}
    (folder / "vocab.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    facts = {"weights_m": round(n_weights / 1e6), "transformers": transformers.__version__}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def make_model(kind: Kind) -> Any:
    """A CTC model with weights as its class draws them, norms and biases shaken so that they do something."""
    if kind.family == "Parakeet":
        config = transformers.ParakeetCTCConfig(vocab_size=len(TOKENS), pad_token_id=len(TOKENS) - 1)
    else:
        sizes = {"vocab_size": len(TOKENS), "pad_token_id": 0, **kind.config}
        config = getattr(transformers, f"{kind.family}Config")(**sizes)
    model = getattr(transformers, f"{kind.family}ForCTC")(config).eval()
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
        elif parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0, 0.05)
    return model


def make_extractor(kind: Kind) -> Any:
    """The feature extractor of a family."""
    if kind.family == "Parakeet":
        return transformers.ParakeetFeatureExtractor(feature_size=80)
    if kind.family == "Wav2Vec2Bert":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)


if __name__ == "__main__":
    make_checkpoint(KINDS[sys.argv[1]], Path(sys.argv[2]))
