"""Random encoders of every kind that export/ knows, small, but wide enough for the vector kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from export.acoustic.log_mel import build_log_mel
from export.acoustic.mel_checkpoint import run_torch as run_log_mel
from export.acoustic.wav2vec2 import build_wav2vec2
from export.acoustic.wav2vec2 import run_torch as run_wav2vec2
from export.layout.describe import describe_model
from export.quantization.quantize import choose, measure_ranges
from export.rewrites.half_storage import store_half
from export.verification.audio_cases import speech_like
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig

F32Array = NDArray[np.float32]
N_TOKENS = 31
OUTLIER = 8.0
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "conv_dim": [64] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": N_TOKENS,
    "pad_token_id": 0,
}
SMALLEST: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "conv_dim": [32] * 7,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
WAVEFORM: dict[str, tuple[str, dict[str, Any]]] = {
    "group norm": ("Wav2Vec2", {}),
    "layer norm": ("Wav2Vec2", {"feat_extract_norm": "layer", "conv_bias": True}),
    "stable layer norm": ("Wav2Vec2", STABLE),
    "heads of 80": ("Wav2Vec2", {**STABLE, "hidden_size": 160, "num_conv_pos_embedding_groups": 2}),
    "groups of 48": ("Wav2Vec2", {"hidden_size": 192, "num_attention_heads": 4, "intermediate_size": 176}),
    "taps of 128": ("Wav2Vec2", {"num_conv_pos_embeddings": 128}),
    "odd taps": ("Wav2Vec2", {"num_conv_pos_embeddings": 7, "conv_dim": [32, 64, 96, 96, 64, 64, 32]}),
    "hubert": ("Hubert", {}),
    "hubert stable": ("Hubert", STABLE),
    "hubert without projection norm": ("Hubert", {"feat_proj_layer_norm": False}),
}
MEL_SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "n_layers": 2,
    "n_heads": 2,
    "intermediate_size": 256,
    "head_size": 64,
    "tail_silence_s": 0.5,
}
MEL_SMALLEST: dict[str, Any] = {
    "hidden_size": 32,
    "n_layers": 1,
    "intermediate_size": 64,
    "head_size": 32,
    "max_frames": 100,
}
LOG_MEL: dict[str, dict[str, Any]] = {"lstm": {}, "sinks": {"n_sinks": 3}}
BEYOND_THE_KERNELS: dict[str, dict[str, Any]] = {
    "two lstm layers": {"head_layers": 2},
    "transformer head": {"head": "transformer", "head_size": 64, "head_layers": 2},
    "mixed states": {"mix_layers": 2},
    "normalised states": {"normalize_states": True},
    "narrow lstm": {"head_size": 16},
    "heads of 8": {"n_heads": 16},
}


@dataclass(frozen=True)
class TinyEncoder:
    """A torch model with the two graphs that the exporter makes of it.

    Attributes:
        reference: features without the batch axis to logits, by torch.
        graphs: "fp32" and "int8", serialised.
    """

    reference: Callable[[F32Array], F32Array]
    graphs: Mapping[str, bytes]


def make_waveform_model(kind: str, smallest: bool = False) -> Any:
    """A random model whose norms are not the identity, as trained ones are not."""
    family, changes = WAVEFORM[kind]
    torch.manual_seed(0)
    sizes = {**SIZES, **(SMALLEST if smallest else {}), **changes}
    config = getattr(transformers, f"{family}Config")(**sizes)
    return _shake(getattr(transformers, f"{family}ForCTC")(config).eval())


def make_log_mel_model(**changes: Any) -> LogMelCtc:
    """Whisper's encoder with a CTC head, and sinks that matter where it has them."""
    torch.manual_seed(0)
    model = LogMelCtc(LogMelCtcConfig(**{**MEL_SIZES, "vocab_size": N_TOKENS, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "sink" in name or name == "mix":
            torch.nn.init.normal_(parameter)
    return _shake(model)


def _shake(model: Any) -> Any:
    """Norms that do something, and three units of every feed-forward block far above the others."""
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
        elif "norm.bias" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        elif "intermediate_dense.weight" in name:
            parameter.data[5:8] *= OUTLIER
        elif "output_dense.weight" in name:
            parameter.data[:, 5:8] /= OUTLIER
    return model


@functools.cache
def waveform_encoder(kind: str, smallest: bool = False) -> TinyEncoder:
    """A model of WAVEFORM, exported."""
    model = make_waveform_model(kind, smallest)
    return _export(
        lambda *choice: build_wav2vec2(model, *choice), lambda x: run_wav2vec2(model, x), "input_values"
    )


@functools.cache
def log_mel_encoder(kind: str, smallest: bool = False) -> TinyEncoder:
    """A model of LOG_MEL or BEYOND_THE_KERNELS, exported."""
    changes = {**LOG_MEL, **BEYOND_THE_KERNELS}[kind]
    model = make_log_mel_model(**{**(MEL_SMALLEST if smallest else {}), **changes})
    return _export(
        lambda *choice: build_log_mel(model, *choice), lambda x: run_log_mel(model, x), "input_features"
    )


def features_for(input_name: str, n: int, seed: int = 0) -> F32Array:
    """So many samples [n], or mel frames [80, n], with loud and quiet stretches."""
    rng = np.random.default_rng(seed)
    if input_name == "input_values":
        waveform = speech_like(n, 16_000, seed) + 0.003 * rng.standard_normal(n)
        return (waveform / waveform.std()).astype(np.float32)
    level = np.sin(np.arange(n) / 9)
    return (0.5 * rng.standard_normal((80, n)) + level).astype(np.float32)


def _export(build: Any, reference: Callable[[F32Array], F32Array], input_name: str) -> TinyEncoder:
    graph, blocks = build()
    seen = [features_for(input_name, 16_000 if input_name == "input_values" else 200, seed=9)]
    ranges = measure_ranges(graph, blocks, input_name, seen)
    int8 = store_half(build(choose(list(blocks)), ranges)[0])
    graphs = {"fp32": describe_model(graph, "acoustic"), "int8": describe_model(int8, "acoustic")}
    return TinyEncoder(lambda features: _on_one_thread(reference, features), graphs)


def _on_one_thread(reference: Callable[[F32Array], F32Array], features: F32Array) -> F32Array:
    """Threads of torch wait for each other in a loop, which is slow for small models on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return reference(features[None])[0]
    finally:
        torch.set_num_threads(before)
