"""A Wav2Vec2ForCTC (stable layer norm) that starts as a Whisper encoder.

Whisper's layers have the same form and frame rate as Wav2Vec2's, so they are copied; the steps before them
differ. Whisper reads log-mel features and adds absolute positions; Wav2Vec2 reads the waveform and adds a
convolution over the states. Both are learned by distillation from speech, without labels: first the waveform
front end reproduces Whisper's stem, then Whisper's positions fade out while the convolution learns to
replace them.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from engine.text import VOCABULARY
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig
from training.asr.model import SETTINGS
from training.common.mel import HOP_LENGTH, N_FFT, SAMPLE_RATE, compute_log_mel

# The front end's frame j sees samples around 320 j + 520, Whisper's around 320 j: without the first 200
# samples of Whisper's waveform, the front end's frame j has the same time as Whisper's frame j + 1.
TEACHER_CUT, TEACHER_SKIP = 200, 1
TEACHER_LEVEL = 0.1  # RMS of Whisper's input, for any recording; the student's is 1.0


def build_wav2vec2(whisper: LogMelCtc) -> Wav2Vec2ForCTC:
    """Make a Wav2Vec2ForCTC with the layers of a Whisper encoder.

    Args:
        whisper: its sinks are not copied, since Wav2Vec2's attention has none.
    Returns:
        The model: layers and final norm are Whisper's, the first convolution a bank of mel-spaced Gabor
        filters, the positional convolution silent, the rest of the front end and the CTC head random.
    """
    model = Wav2Vec2ForCTC(wav2vec2_config(whisper.config))
    copy_layers(whisper, model)
    front = model.wav2vec2.feature_extractor.conv_layers
    with torch.no_grad():
        front[0].conv.weight.copy_(gabor_filters(front[0].conv.weight.shape[0])[:, None])
        model.wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0.zero_()
        model.wav2vec2.encoder.pos_conv_embed.conv.bias.zero_()
    return model


def wav2vec2_config(config: LogMelCtcConfig) -> Wav2Vec2Config:
    """Return a configuration with a Whisper encoder's sizes and a front end of 50 frames a second."""
    size = config.hidden_size
    dropouts = ("hidden", "attention", "activation", "feat_proj", "final")
    return Wav2Vec2Config(
        vocab_size=len(VOCABULARY), pad_token_id=0, bos_token_id=None, eos_token_id=None,
        hidden_size=size, num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
        intermediate_size=config.intermediate_size, do_stable_layer_norm=True, feat_extract_norm="layer",
        conv_dim=(size, max(size // 2, 16), size, size), conv_kernel=(N_FFT, 1, 3, 3),
        conv_stride=(HOP_LENGTH, 1, 1, 2), conv_bias=True, num_feat_extract_layers=4,
        num_conv_pos_embeddings=64, num_conv_pos_embedding_groups=16 if size % 16 == 0 else 1,
        **{f"{name}_dropout": 0.0 for name in dropouts}, **SETTINGS,
    )  # fmt: skip


@torch.no_grad()
def copy_layers(whisper: LogMelCtc, model: Wav2Vec2ForCTC) -> None:
    """Copy Whisper's layers and final norm into a Wav2Vec2 of the same sizes; keys get a bias of zero."""
    encoder = model.wav2vec2.encoder
    for source, target in zip(whisper.layers, encoder.layers, strict=True):
        pairs = [
            (getattr(source.attention, name), getattr(target.attention, name))
            for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        ]
        pairs += [(source.layer_norm, target.layer_norm), (source.final_layer_norm, target.final_layer_norm)]
        pairs += [
            (source.intermediate_dense, target.feed_forward.intermediate_dense),
            (source.output_dense, target.feed_forward.output_dense),
        ]
        for left, right in pairs:
            right.weight.copy_(left.weight)
            right.bias.zero_() if left.bias is None else right.bias.copy_(left.bias)
    encoder.layer_norm.weight.copy_(whisper.layer_norm.weight)
    encoder.layer_norm.bias.copy_(whisper.layer_norm.bias)


def gabor_filters(n_filters: int) -> Tensor:
    """Return windowed cosines and sines, mel-spaced from 40 Hz to 7.8 kHz, float32 [n_filters, 400]."""
    n_pairs = (n_filters + 1) // 2
    mel = torch.linspace(1127.0 * _log1p(40.0 / 700.0), 1127.0 * _log1p(7800.0 / 700.0), n_pairs)
    hz = 700.0 * torch.expm1(mel / 1127.0)
    angles = 2.0 * torch.pi * hz[:, None] * torch.arange(N_FFT)[None, :] / SAMPLE_RATE
    window = torch.hann_window(N_FFT)
    filters = torch.stack([angles.cos(), angles.sin()], dim=1).flatten(0, 1)[:n_filters] * window
    return filters / filters.norm(dim=1, keepdim=True)


def _log1p(value: float) -> float:
    return float(torch.log1p(torch.tensor(value)))


def compute_stem(model: Wav2Vec2ForCTC, waveforms: Tensor) -> Tensor:
    """Run the front end: normalised waveforms [batch, n_samples] to [batch, n_frames, hidden]."""
    features = model.wav2vec2.feature_extractor(waveforms).transpose(1, 2)
    return model.wav2vec2.feature_projection(features)[0]


def run_encoder(model: Wav2Vec2ForCTC, stem: Tensor, positions: Tensor | None = None) -> Tensor:
    """Run positional convolution, layers and norm on [batch, n_frames, hidden], `positions` added first."""
    encoder = model.wav2vec2.encoder
    hidden = stem if positions is None else stem + positions
    hidden = hidden + encoder.pos_conv_embed(hidden)
    for layer in encoder.layers:
        hidden = layer(hidden)
    return encoder.layer_norm(hidden)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Whisper's encoder, with the student's input.

    Attributes:
        whisper: frozen, in evaluation mode.
        tail_silence_s: silence after the clips, which its attention needs; its frames are removed again.
    """

    whisper: LogMelCtc
    tail_silence_s: float = 0.5

    @classmethod
    def of(cls, whisper: LogMelCtc) -> Teacher:
        """Freeze a copy of Whisper's encoder."""
        frozen = copy.deepcopy(whisper).eval().requires_grad_(False)
        return cls(frozen, whisper.config.tail_silence_s)

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, n_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return (stem without positions, positions, final states) of the student's frames.

        Args:
            waveforms: float32 [batch, n_samples], normalised to an RMS of 1.
            n_frames: of the student.
        Returns:
            [batch, n_frames, hidden], [n_frames, hidden], [batch, n_frames, hidden].
        """
        heard = waveforms[:, TEACHER_CUT:] * TEACHER_LEVEL
        tail = int(self.tail_silence_s * SAMPLE_RATE) + 2 * 320
        padded = functional.pad(heard, (0, tail - heard.shape[1] % 320))
        stem = self.whisper.stem(compute_log_mel(padded, self.whisper.config.n_mels))
        positions = self.whisper.positions[: stem.shape[1]].to(stem.dtype)
        states = self.whisper.run_layers(stem, 0)
        chosen = slice(TEACHER_SKIP, TEACHER_SKIP + n_frames)
        return (stem - positions)[:, chosen], positions[chosen], states[:, chosen]


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared relative L2 error, a scalar."""
    return (found - wanted).float().square().sum() / wanted.float().square().sum()


def distil_step(model: Any, teacher: Teacher, waveforms: Tensor, fade: float | None) -> Tensor:
    """Compute the loss of one distillation step.

    Args:
        model: the student.
        teacher: see Teacher.
        waveforms: float32 [batch, n_samples], normalised.
        fade: share of Whisper's positions that is left; None compares the stems alone.
    Returns:
        The squared relative error: of the stem, and with a fade of the final states too.
    """
    found = compute_stem(model, waveforms)
    stem, positions, states = teacher(waveforms, found.shape[1])
    loss = relative_error(found, stem)
    if fade is None:
        return loss
    return loss + relative_error(run_encoder(model, found, fade * positions), states)
