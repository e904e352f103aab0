"""A recogniser of two passes as a torch module and a checkpoint folder.

The folder is a LogMelCTC's (config.json, model.safetensors, vocab.json) with decoder.json,
decoder.safetensors and tokens.json; nothing in it is executable.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.asr.log_mel_ctc import LogMelCtc, load_checkpoint, save_checkpoint
from training.whisper.decoder import AttentionDecoder, DecoderConfig
from training.whisper.vocabulary import TokenVocabulary
from training.whisper.weights import WeightsError, read_ctranslate2

DECODER, TOKENS = "decoder", "tokens.json"


class TwoPass(nn.Module):
    """One encoder with a CTC head (`ctc`), and an attention decoder over the same states."""

    def __init__(self, ctc: LogMelCtc, decoder: AttentionDecoder, vocabulary: TokenVocabulary) -> None:
        super().__init__()
        self.ctc, self.decoder, self.vocabulary = ctc, decoder, vocabulary


def save_two_pass(model: TwoPass, folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a checkpoint; `extra` is stored in config.json under "training"."""
    save_checkpoint(model.ctc, folder, extra)
    config = dataclasses.asdict(model.decoder.config)
    (folder / f"{DECODER}.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {
        name: tensor.detach().float().contiguous() for name, tensor in model.decoder.state_dict().items()
    }
    save_file(tensors, folder / f"{DECODER}.safetensors")
    model.vocabulary.save(folder / TOKENS)


def load_two_pass(folder: Path, dropout: float = 0.0) -> TwoPass:
    """Read a folder that `save_two_pass` wrote; the model is in evaluation mode."""
    config = json.loads((folder / f"{DECODER}.json").read_text(encoding="utf-8"))
    config["prompt"] = tuple(config["prompt"])
    decoder = AttentionDecoder(DecoderConfig(**config), dropout)
    decoder.load_state_dict(load_file(folder / f"{DECODER}.safetensors"))
    return TwoPass(load_checkpoint(folder, dropout), decoder, TokenVocabulary.load(folder / TOKENS)).eval()


def load_whisper_decoder(path: Path, vocabulary: TokenVocabulary, dropout: float = 0.0) -> AttentionDecoder:
    """Whisper's decoder with the tokens of a smaller vocabulary.

    Args:
        path: as for load_whisper_encoder.
    Raises:
        WeightsError: weights are missing or quantised.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / "model.safetensors").is_file():
        state, n_heads = _read_transformers(folder)
    else:
        state, n_heads = _read_state(path / "model.bin" if path.is_dir() else path)
    embeddings = state["embed_tokens.weight"]
    state["embed_tokens.weight"] = torch.stack([embeddings[list(ids)].mean(0) for ids in vocabulary.sources])
    n_layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    config = DecoderConfig(
        len(vocabulary.tokens), vocabulary.prompt, vocabulary.end_id, vocabulary.no_speech_id,
        embeddings.shape[1], n_layers, n_heads, state["layers.0.fc1.weight"].shape[0],
        state["embed_positions.weight"].shape[0],
    )  # fmt: skip
    decoder = AttentionDecoder(config, dropout)
    decoder.load_state_dict(state)
    return decoder.eval()


def _read_transformers(folder: Path) -> tuple[dict[str, Tensor], int]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors").items()
    state = {name.rpartition("decoder.")[2]: tensor.float() for name, tensor in tensors if "decoder." in name}
    return state, int(config["decoder_attention_heads"])


def _read_state(path: Path) -> tuple[dict[str, Tensor], int]:
    variables = read_ctranslate2(path)

    def take(name: str) -> Tensor:
        array = variables.get(f"decoder/{name}")
        if array is None or array.dtype.kind != "f":
            kind = "missing" if array is None else str(array.dtype)
            raise WeightsError(f"{path}: decoder/{name} is {kind}, expected float16 or float32")
        return torch.from_numpy(array.astype(np.float32))

    state = {
        "embed_tokens.weight": take("embeddings/weight"),
        "embed_positions.weight": take("position_encodings/encodings"),
        "layer_norm.weight": take("layer_norm/gamma"),
        "layer_norm.bias": take("layer_norm/beta"),
    }
    n_layers = sum(name.startswith("decoder/") and name.endswith("ffn/linear_0/weight") for name in variables)
    for index in range(n_layers):
        layer = _read_layer(f"layer_{index}", take)
        state |= {f"layers.{index}.{name}": tensor for name, tensor in layer.items()}
    return state, state["layer_norm.weight"].numel() // 64


def _read_layer(source: str, take: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}

    def put(name: str, linear: str, places: tuple[str, ...]) -> None:
        """Cut a fused projection into its parts; keys have no bias."""
        weights, biases = (
            take(f"{source}/{linear}/{part}").chunk(len(places)) for part in ("weight", "bias")
        )
        for place, weight, bias in zip(places, weights, biases, strict=True):
            state[f"{name}{place}.weight"] = weight
            if place != "k_proj":
                state[f"{name}{place}.bias"] = bias

    put("self_attn.", "self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
    put("self_attn.", "self_attention/linear_1", ("out_proj",))
    put("encoder_attn.", "attention/linear_0", ("q_proj",))
    put("encoder_attn.", "attention/linear_1", ("k_proj", "v_proj"))
    put("encoder_attn.", "attention/linear_2", ("out_proj",))
    put("", "ffn/linear_0", ("fc1",))
    put("", "ffn/linear_1", ("fc2",))
    norms = {
        "self_attn_layer_norm": "self_attention/layer_norm",
        "encoder_attn_layer_norm": "attention/layer_norm",
        "final_layer_norm": "ffn/layer_norm",
    }  # fmt: skip
    for name, place in norms.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = (
            take(f"{source}/{place}/gamma"),
            take(f"{source}/{place}/beta"),
        )
    return state
