"""Greedy error rates of both passes, while a model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.text import VOCABULARY, normalize_text
from training.common.mel import compute_log_mel
from training.common.metrics import collapse, compute_spoken_error_rates
from training.whisper.checkpoint import TwoPass


@torch.inference_mode()
def evaluate(
    model: TwoPass, clips: Sequence[tuple[Any, str]], max_tokens: int = 80, batch: int = 16
) -> dict[str, float]:
    """Greedy error rates of both passes on clips; the second without CTC.

    Each clip is encoded alone, since padding changes the encoder's states; it does not change the decoder's
    results, which takes most of the time and runs over `batch` clips of similar length at once.
    """
    references = [text for _, text in clips]
    first, second = [""] * len(clips), [""] * len(clips)
    order = sorted(range(len(clips)), key=lambda place: len(clips[place][0]))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        states = [encode_clip(model, clips[place][0]) for place in places]
        n_frames = [len(clips[place][0]) // 320 for place in places]
        for place, found, length in zip(places, states, n_frames, strict=True):
            best = model.ctc.classify(found[None])[0, :length].argmax(-1)
            first[place] = collapse(best.tolist(), VOCABULARY)
        limits = [min(max_tokens, 10 + length // 5) for length in n_frames]
        for place, text in zip(places, decode_greedy(model, states, limits), strict=True):
            second[place] = normalize_text(text)
    rates = [compute_spoken_error_rates(references, hypotheses) for hypotheses in (first, second)]
    return {"ctc_cer": round(rates[0].cer, 2), "ctc_wer": round(rates[0].wer, 2),
            "attention_cer": round(rates[1].cer, 2), "attention_wer": round(rates[1].wer, 2)}  # fmt: skip


def encode_clip(model: TwoPass, samples: Any) -> Tensor:
    """The encoder's states [n_frames, d] of float32 [n_samples] and the silence after them."""
    waveform = torch.from_numpy(samples)
    tail = round(model.ctc.config.tail_silence_s * 16_000) + (-waveform.numel()) % 320
    features = compute_log_mel(functional.pad(waveform, (0, tail)), model.ctc.config.n_mels)
    states: Tensor = model.ctc.encode(features[None].to(next(model.parameters()).device))[0]
    return states


@torch.inference_mode()
def decode_greedy(model: TwoPass, states: Sequence[Tensor], limits: Sequence[int]) -> list[str]:
    """The attention decoder's most probable texts, token by token, of several clips together.

    Args:
        states: float32 [n_frames, d] of each clip.
        limits: most tokens of each.
    """
    config, device = model.decoder.config, states[0].device
    padded = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
    n_frames = torch.tensor([len(each) for each in states])
    tokens = torch.tensor([config.prompt] * len(states), device=device)
    open_ = torch.tensor([limit > 0 for limit in limits], device=device)
    most = torch.tensor(limits, device=device)
    for number in range(max(limits)):
        logits = model.decoder(tokens, padded, n_frames)[:, -1]
        logits[:, [*config.prompt, config.no_speech_id]] = -torch.inf
        chosen = logits.argmax(-1)
        open_ &= (chosen != config.end_id) & (number < most)
        if not bool(open_.any()):
            break
        tokens = torch.cat([tokens, chosen.where(open_, config.end_id)[:, None]], dim=1)
    rows = tokens[:, len(config.prompt) :].tolist()
    return [model.vocabulary.decode([*config.prompt, *_until(row, config.end_id)]) for row in rows]


def _until(row: list[int], end_id: int) -> list[int]:
    return row[: row.index(end_id)] if end_id in row else row
