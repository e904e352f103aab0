"""The CTC head alone, on the states of an encoder that stays as it is: twenty times as fast as training all.

The states of every clip, changed at random as always, are computed once and kept in memory; a head that
can spell is where training of the whole begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.asr.log_mel_ctc import LogMelCtc
from training.asr.model import compute_ctc
from training.whisper.examples import Example, ExampleMaker

LOGGER = logging.getLogger("training.whisper")
BATCH_FRAMES = 3000
LEARNING_RATE = 2e-3
REPORT_EVERY = 100


@torch.inference_mode()
def compute_head_states(
    ctc: LogMelCtc, maker: ExampleMaker, indices: Sequence[int], seed: int
) -> list[tuple[Tensor, list[int]]]:
    """States float16 [n_frames, d] and labels of clips, each run alone."""
    device, found = next(ctc.parameters()).device, []
    for number, index in enumerate(indices):
        example: Example = maker.make(index, np.random.default_rng((seed, 2, number)))
        if example.labels and example.n_frames <= 1475:
            states = ctc.encode(example.features[None].to(device))[0]
            found.append((states.half().cpu(), example.labels))
        if (number + 1) % 500 == 0:
            LOGGER.info("states of %d of %d clips", number + 1, len(indices))
    return found


def train_head(ctc: LogMelCtc, clips: Sequence[tuple[Tensor, list[int]]], steps: int, seed: int) -> None:
    """Train ctc.head in place with a fresh optimiser; clips from compute_head_states."""
    device = next(ctc.parameters()).device
    optimizer = torch.optim.AdamW(
        ctc.head.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    rng, losses = np.random.default_rng((seed, 3)), []
    order = sorted(range(len(clips)), key=lambda index: len(clips[index][0]))
    ctc.head.train()
    for step in range(steps):
        chosen = [clips[index] for index in _draw(order, clips, rng)]
        factor = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        longest = max(len(states) for states, _ in chosen)
        padded = [functional.pad(states.float(), (0, 0, 0, longest - len(states))) for states, _ in chosen]
        n_frames = torch.tensor([len(states) for states, _ in chosen])
        total, _ = compute_ctc(
            ctc.classify(torch.stack(padded).to(device)), n_frames, [ids for _, ids in chosen]
        )
        loss = total / sum(len(ids) for _, ids in chosen)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(ctc.head.parameters(), 1.0)
        if math.isfinite(float(norm)) and math.isfinite(float(loss.detach())):
            optimizer.step()
            losses.append(float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % REPORT_EVERY == 0:
            LOGGER.info("head, step %d: loss a label %.3f", step + 1, float(np.mean(losses[-REPORT_EVERY:])))
    ctc.head.eval()


def _draw(
    order: Sequence[int], clips: Sequence[tuple[Tensor, list[int]]], rng: np.random.Generator
) -> list[int]:
    """Neighbours in length from a random place on, up to BATCH_FRAMES with padding."""
    first = int(rng.integers(len(order)))
    chosen: list[int] = []
    for index in order[first:]:
        if chosen and len(clips[index][0]) * (len(chosen) + 1) > BATCH_FRAMES:
            break
        chosen.append(index)
    return chosen


def copy_head(target: LogMelCtc, source: LogMelCtc, folder: Path) -> None:
    """Take the head of another checkpoint.

    Raises:
        ValueError: it is of another kind or size.
    """
    try:
        target.head.load_state_dict(source.head.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{folder}: its CTC head does not fit ({str(error).splitlines()[0]})") from error
