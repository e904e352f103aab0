"""Greedy error rates of both passes, while a model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.text import VOCABULARY, normalize_text
from training.common.mel import compute_log_mel
from training.common.metrics import collapse, compute_error_rates
from training.whisper.checkpoint import TwoPass


@torch.inference_mode()
def evaluate(model: TwoPass, clips: Sequence[tuple[Any, str]], max_tokens: int = 80) -> dict[str, float]:
    """Greedy error rates of both passes on clips, each alone; the second without help from CTC."""
    references = [normalize_text(text) for _, text in clips]
    first, second = [], []
    for samples, _ in clips:
        waveform = torch.from_numpy(samples)
        n_frames = waveform.numel() // 320
        tail = round(model.ctc.config.tail_silence_s * 16_000) + (-waveform.numel()) % 320
        features = compute_log_mel(functional.pad(waveform, (0, tail)), model.ctc.config.n_mels)
        states = model.ctc.encode(features[None].to(next(model.parameters()).device))
        best = model.ctc.classify(states)[0, :n_frames].argmax(-1)
        first.append(collapse(best.tolist(), VOCABULARY))
        limit = min(max_tokens, 10 + n_frames // 5)
        second.append(normalize_text(decode_greedy(model, states, limit)))
    rates = [compute_error_rates(references, hypotheses) for hypotheses in (first, second)]
    return {"ctc_cer": round(rates[0].cer, 2), "ctc_wer": round(rates[0].wer, 2),
            "attention_cer": round(rates[1].cer, 2), "attention_wer": round(rates[1].wer, 2)}  # fmt: skip


def decode_greedy(model: TwoPass, states: Tensor, limit: int) -> str:
    """The attention decoder's most probable text, token by token."""
    config = model.decoder.config
    tokens = torch.tensor([config.prompt], device=states.device)
    for _ in range(limit):
        logits = model.decoder(tokens, states)[0, -1]
        logits[[*config.prompt, config.no_speech_id]] = -torch.inf
        token = int(logits.argmax())
        if token == config.end_id:
            break
        tokens = torch.cat([tokens, torch.tensor([[token]], device=states.device)], dim=1)
    return model.vocabulary.decode(tokens[0].tolist())
