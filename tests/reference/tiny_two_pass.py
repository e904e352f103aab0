"""Random recognisers of two passes, small, but wide enough for the vector kernels; and their bundles."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from engine.bundle.folder import write_bundle
from engine.bundle.target import FILE_NAMES
from export.acoustic.log_mel import build_log_mel
from export.graph.two_pass import build_two_pass
from export.layout.describe import describe_model
from export.quantization.quantize import choose
from export.two_pass.checkpoint import second_pass_config
from export.two_pass.export import write_graphs
from tests.reference.tiny_encoders import MEL_SIZES, make_log_mel_model
from training.asr.log_mel_ctc import LogMelCtcConfig
from training.whisper.checkpoint import TwoPass, save_two_pass
from training.whisper.decoder import AttentionDecoder, DecoderConfig
from training.whisper.vocabulary import TokenVocabulary

VOCAB_SIZE, MAX_TOKENS = 101, 40
PROMPT, END_ID, NO_SPEECH_ID = (1, 2, 3, 4), 0, 5
SIZES: dict[str, Any] = {"hidden_size": 128, "n_layers": 2, "n_heads": 4, "intermediate_size": 192}
WHISPER: dict[str, Any] = {"hidden_size": 512, "n_layers": 1, "n_heads": 8, "intermediate_size": 2048}
F32Array = NDArray[np.float32]


def make_decoder(seed: int = 0, **changes: Any) -> AttentionDecoder:
    """A decoder whose distributions depend on every token and on the states."""
    torch.manual_seed(seed)
    sizes = {**SIZES, "vocab_size": VOCAB_SIZE, "max_tokens": MAX_TOKENS, **changes}
    decoder = AttentionDecoder(DecoderConfig(**sizes, prompt=PROMPT, end_id=END_ID, no_speech_id=5)).eval()
    for name, parameter in decoder.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
        elif "norm.bias" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        elif "embed" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.15)
        else:
            torch.nn.init.normal_(parameter, 0.0, 2 / parameter.shape[1] ** 0.5)
    return decoder


def make_states(n_frames: int, size: int = SIZES["hidden_size"], seed: int = 0) -> F32Array:
    """float32 [n_frames, size], some channels far above the others."""
    rng = np.random.default_rng(seed)
    channels = rng.uniform(0.3, 1, size)
    channels[:3] = 5
    return (rng.standard_normal((n_frames, size)) * channels).astype(np.float32)


def reference_log_probs(decoder: AttentionDecoder, states: F32Array, ids: Any) -> F32Array:
    """By torch, float32 [len(ids), vocab_size]."""
    with torch.inference_mode():
        logits = decoder(torch.tensor([list(ids)]), torch.from_numpy(states[None]))[0]
        return logits.log_softmax(-1).numpy()


def make_model(seed: int = 0, **changes: Any) -> TwoPass:
    """An encoder with a CTC head and a decoder over its states. seed: its own; changes: the encoder's."""
    encoder = make_log_mel_model(**{"vocab_size": LogMelCtcConfig().vocab_size, **changes})
    tokens = ["<|end|>", "<|start|>", "<|de|>", "<|do|>", "<|no|>", "<|none|>", " "]
    tokens += [f" {chr(97 + i % 26)}{i}" for i in range(VOCAB_SIZE - len(tokens))]
    vocabulary = TokenVocabulary(tokens, [[index] for index in range(VOCAB_SIZE)])
    return TwoPass(encoder, make_decoder(seed), vocabulary).eval()


@functools.cache
def checkpoint() -> Path:
    """A folder as training writes it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_two_pass_"))
    save_two_pass(make_model(), folder)
    return folder


def write_decoder(decoder: AttentionDecoder, folder: Path, precision: str) -> dict[str, Path]:
    """The files of a second pass by role, of a decoder that is all int8 or all float32."""
    folder.mkdir(exist_ok=True)
    graphs = build_two_pass(decoder, FILE_NAMES["asr_embeddings"])
    if precision == "int8":
        graphs = build_two_pass(decoder, FILE_NAMES["asr_embeddings"], choose(graphs.blocks))
    write_graphs(graphs, folder)
    tokens = [f"<{index}>" for index in range(decoder.config.vocab_size)]
    (folder / FILE_NAMES["asr_tokens"]).write_text(json.dumps(tokens))
    roles = ("asr_memory", "asr_decoder", "asr_embeddings", "asr_tokens")
    return {role: folder / FILE_NAMES[role] for role in roles}


@functools.cache
def bundle_folder(precision: str = "int8", states: bool = True) -> Path:
    """A bundle of make_model(), without any check; states: whether the acoustic graph gives them."""
    from export.acoustic.log_mel import load_log_mel

    model, parts = make_model(), Path(tempfile.mkdtemp(prefix="tiny_two_pass_"))
    graph, blocks = build_log_mel(model.ctc, states=states)
    if precision == "int8":
        graph = build_log_mel(model.ctc, choose(list(blocks)), None, states)[0]
    files = write_decoder(model.decoder, parts / "decoder", precision)
    files |= {"acoustic": parts / "acoustic.onnx", "vocabulary": checkpoint() / "vocab.json"}
    files["acoustic"].write_bytes(describe_model(graph, "acoustic"))
    return write_bundle(
        parts / "bundle",
        name="tiny",
        licence="CC0",
        files=files,
        card="tiny",
        acoustic=msgspec.structs.replace(load_log_mel(checkpoint()).config, precision=precision),
        second_pass=second_pass_config(model.decoder, precision),
    )


assert MEL_SIZES["hidden_size"] == SIZES["hidden_size"]
