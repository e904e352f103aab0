"""What Whisper itself, with its whole window, expects at every token: a target in addition to the text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.asr.log_mel_ctc import LogMelCtc
from training.common.data import Sample, load_waveform
from training.common.mel import compute_log_mel
from training.whisper.decoder import AttentionDecoder

LOGGER = logging.getLogger("training.whisper")
SAMPLE_RATE, WINDOW_S = 16_000, 30.0
N_KEPT = 12  # most probable tokens of each position


class TeacherTargets:
    """The most probable tokens of each position of each clip.

    Attributes:
        ids: for each clip, int32 [n_tokens - 1, N_KEPT], what may follow each token but the last.
        log_probs: float16 of the same shape.
    """

    def __init__(self, ids: list[Tensor], log_probs: list[Tensor]) -> None:
        self.ids, self.log_probs = ids, log_probs

    def divergence(self, source: int, log_probs: Tensor) -> Tensor:
        """Cross entropy of the student's [n_tokens - 1, vocab] with the teacher, per position."""
        found = log_probs.gather(1, self.ids[source].long().to(log_probs.device))
        weights = self.log_probs[source].float().exp().to(log_probs.device)
        return -(weights * found).sum(1) / weights.sum(1).clamp(min=1e-3)


@torch.inference_mode()
def encode_window(ctc: LogMelCtc, waveform: Tensor, window_s: float) -> Tensor:
    """Whisper's states [1, n_frames, d] of a clip in a window of some seconds (at least the clip's)."""
    n_samples = max(round(window_s * SAMPLE_RATE), waveform.numel())
    n_samples = min(n_samples + (-n_samples) % 320, round(WINDOW_S * SAMPLE_RATE))
    waveform = waveform[:n_samples]
    padded = functional.pad(waveform, (0, n_samples - waveform.numel()))
    hidden = ctc.stem(compute_log_mel(padded, ctc.config.n_mels)[None])
    for layer in ctc.layers:
        hidden = layer(hidden, use_sinks=False)
    return ctc.layer_norm(hidden)


@torch.inference_mode()
def compute_targets(
    ctc: LogMelCtc, decoder: AttentionDecoder, samples: Sequence[Sample], tokens: Sequence[list[int]],
    path: Path, tail_s: float,
) -> TeacherTargets:  # fmt: skip
    """Run the original Whisper over all unchanged clips; a file stores the result for the next run.

    Args:
        tokens: of each clip, prompt and end included.
        tail_s: silence after each clip; above WINDOW_S: Whisper's whole window.
    """
    if path.exists():
        content = torch.load(path, weights_only=True)
        if [len(ids) for ids in content["ids"]] == [len(ids) - 1 for ids in tokens]:
            return TeacherTargets(content["ids"], content["log_probs"])
    kept_ids, kept = [], []
    for number, (sample, ids) in enumerate(zip(samples, tokens, strict=True)):
        waveform = torch.from_numpy(load_waveform(sample))
        states = encode_window(ctc, waveform, min(waveform.numel() / SAMPLE_RATE + tail_s, WINDOW_S))
        log_probs = decoder(torch.tensor([ids[:-1]]), states)[0].log_softmax(-1)
        values, places = log_probs.topk(N_KEPT)
        kept_ids.append(places.int())
        kept.append(values.half())
        if (number + 1) % 200 == 0:
            LOGGER.info("teacher: %d of %d clips", number + 1, len(samples))
    partial = path.with_suffix(".part")
    torch.save({"ids": kept_ids, "log_probs": kept}, partial)
    partial.replace(path)
    return TeacherTargets(kept_ids, kept)
