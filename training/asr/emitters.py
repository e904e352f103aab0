"""Checkpoints as functions from clips to log-probabilities, for several clips at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.asr import conformer, log_mel_ctc
from training.asr.networks import network_of
from training.common.mel import compute_log_mel

Waveform = NDArray[np.float32]
SAMPLES_PER_FRAME = 320  # of a LogMelCtc


@dataclasses.dataclass(frozen=True)
class Emitter:
    """A checkpoint that computes emissions.

    Attributes:
        emit: waveforms -> log_probs [n_frames, vocab_size] of each, natural log.
        equal: which clips may share a call, see training.asr.evaluation.group_clips.
    """

    emit: Callable[[Sequence[Waveform]], list[NDArray[np.float32]]]
    equal: int


def load_emitter(folder: Path, device: torch.device) -> Emitter:
    """Load a checkpoint: LogMelCTC, ConformerCTC or Wav2Vec2ForCTC.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architecture") == log_mel_ctc.ARCHITECTURE:
        return _load_log_mel(folder, device)
    return _load_network(folder, config.get("architecture") == conformer.ARCHITECTURE, device)


def _load_log_mel(folder: Path, device: torch.device) -> Emitter:
    model = log_mel_ctc.load_checkpoint(folder).to(device)
    tail = int(model.config.tail_silence_s * 16_000)

    @torch.inference_mode()
    def emit(waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        # It takes no mask. Silence fills the last frame, so clips of equally many frames do not differ here.
        length = max(map(len, waveforms))
        length += tail + (-length) % SAMPLES_PER_FRAME
        rows = [functional.pad(torch.from_numpy(each), (0, length - each.size)) for each in waveforms]
        logits = model(compute_log_mel(torch.stack(rows).to(device), model.config.n_mels))
        return _split(logits, [each.size // SAMPLES_PER_FRAME for each in waveforms])

    return Emitter(emit, SAMPLES_PER_FRAME)


def _load_network(folder: Path, is_conformer: bool, device: torch.device) -> Emitter:
    from transformers import Wav2Vec2ForCTC

    loaders: dict[bool, Callable[[Path], Any]] = {
        True: conformer.load_checkpoint,
        False: Wav2Vec2ForCTC.from_pretrained,
    }
    model = loaders[is_conformer](folder).eval().to(device)
    network = network_of(model)

    @torch.inference_mode()
    def emit(waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        batch = network.make_batch(list(waveforms), [[] for _ in waveforms]).to(device)
        logits, frames = network.compute_logits(model, batch)
        return _split(logits, frames.tolist())

    return Emitter(emit, int(network.hears_padding))


def _split(logits: torch.Tensor, n_frames: Sequence[int]) -> list[NDArray[np.float32]]:
    """Log-probabilities of each clip without its padding."""
    log_probs = logits.float().log_softmax(-1).cpu().numpy()
    return [np.ascontiguousarray(row[:n]) for row, n in zip(log_probs, n_frames, strict=True)]
