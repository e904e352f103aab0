"""A checkpoint of two passes, read and checked: the encoder with its CTC head, the decoder, its tokens."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle.schema import SecondPassConfig
from engine.two_pass.tokens import config_problems
from export.acoustic.export import PACKAGES
from export.acoustic.log_mel import load_log_mel
from export.acoustic.source import AcousticSource
from export.errors import ExportError
from export.graph.builder import OPSET
from export.graph.linear import FloatArray


@dataclasses.dataclass(frozen=True)
class TwoPassSource:
    """A checkpoint, ready to be exported.

    Attributes:
        acoustic: the first pass; its graph gives the states too.
        encoder: training.asr.log_mel_ctc.LogMelCtc. decoder: training.whisper.decoder.AttentionDecoder.
        tokens: strings by id.
    """

    acoustic: AcousticSource
    encoder: Any
    decoder: Any
    tokens: tuple[str, ...]

    def encode(self, features: FloatArray) -> FloatArray:
        """The states that the decoder was trained on, float32 [n_frames, hidden_size], of one utterance."""
        import torch

        with torch.inference_mode():
            states: FloatArray = self.encoder.encode(torch.from_numpy(features[None]))[0].numpy()
        return states

    def log_probs(self, states: FloatArray, ids: list[int]) -> FloatArray:
        """Natural-log probabilities of the original decoder, float32 [len(ids), vocab_size]."""
        import torch

        with torch.inference_mode():
            logits = self.decoder(torch.tensor([ids]), torch.from_numpy(states[None]))[0]
            found: FloatArray = logits.log_softmax(-1).numpy()
        return found

    def config(self, precision: str) -> SecondPassConfig:
        """For the manifest, without the figures."""
        return second_pass_config(self.decoder, precision)


def load_two_pass(checkpoint: Path) -> TwoPassSource:
    """Read config.json, model.safetensors, vocab.json, decoder.json, decoder.safetensors and tokens.json.

    Raises:
        ExportError: a file is missing or of another kind, or encoder, decoder and tokens do not fit together.
    """
    from training.whisper.checkpoint import load_two_pass as load

    acoustic = load_log_mel(checkpoint, states=True)
    try:
        model = load(checkpoint)
    except Exception as error:  # safetensors' own error derives from nothing else
        raise ExportError(
            f"{str(checkpoint)!r} cannot be loaded ({str(error).splitlines()[0]})",
            "a checkpoint of two passes, as training writes it",
            "train it again, or use `log-mel` for an encoder alone",
        ) from error
    tokens = tuple(model.vocabulary.tokens)
    _check_fit(checkpoint, model, tokens)
    return TwoPassSource(acoustic, model.ctc, model.decoder, tokens)


def second_pass_config(decoder: Any, precision: str) -> SecondPassConfig:
    """How the runtime drives an exported AttentionDecoder."""
    config = decoder.config
    return SecondPassConfig(
        vocab_size=config.vocab_size, prompt=tuple(config.prompt), end_id=config.end_id,
        no_speech_id=config.no_speech_id, n_layers=config.n_layers, n_heads=config.n_heads,
        head_dim=config.hidden_size // config.n_heads, hidden_size=config.hidden_size,
        max_tokens=config.max_tokens, precision=precision, opset=OPSET,
        exporter={name: importlib.metadata.version(name) for name in PACKAGES},
    )  # fmt: skip


def _check_fit(checkpoint: Path, model: Any, tokens: tuple[str, ...]) -> None:
    """Refuse parts that do not fit; one error names all problems."""
    problems = config_problems(second_pass_config(model.decoder, "fp32"), tokens)
    encoder, decoder = model.ctc.config, model.decoder.config
    if encoder.hidden_size != decoder.hidden_size:
        problems.append(f"a decoder over {decoder.hidden_size} channels, an encoder of {encoder.hidden_size}")
    weights = [*model.decoder.state_dict().values()]
    if not all(bool(np.isfinite(tensor.numpy()).all()) for tensor in weights):
        problems.append("weights that are not finite")
    if problems:
        raise ExportError(
            f"{str(checkpoint)!r}: {'; '.join(problems)}",
            "encoder, decoder and tokens of one training run",
            "train the decoder on this encoder's states",
        )
