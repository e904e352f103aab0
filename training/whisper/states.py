"""States of the frozen lower layers, computed once for distorted clips and stored on disk."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.asr.doctor import min_frames
from training.asr.log_mel_ctc import LogMelCtc
from training.common.augment import Augmenter
from training.common.data import SAMPLE_RATE, Sample, encode_text, load_waveform
from training.common.mel import N_MELS, compute_log_mel, quicken

LOGGER = logging.getLogger("training.whisper.command")
SPARE_FRAMES = 20  # states after the speech: the head learns to be silent there


@dataclasses.dataclass(frozen=True)
class StatesConfig:
    """How clips become states.

    Attributes:
        n_frozen: layers below the states.
        augment: fraction of clips whose waveform is changed.
        frames_per_label: range of the speaking rate to reach, in 20 ms frames per character. People speak at
            2.2 to 4, speech engines at 3.5 to 5: a model trained on this unchanged speech drops letters.
        shard_size: clips per file.
        n_mels: mel bands, as the encoder takes them.
    """

    n_frozen: int
    augment: float = 0.93
    frames_per_label: tuple[float, float] = (2.2, 3.9)
    shard_size: int = 700
    n_mels: int = N_MELS


@dataclasses.dataclass(frozen=True)
class Clip:
    """States float16 [n_frames, hidden] and labels of one clip."""

    states: Tensor
    labels: list[int]


def distort_clip(
    sample: Sample,
    vocabulary: dict[str, int],
    augmenter: Augmenter,
    config: StatesConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, list[int], int]:
    """Return a clip's log-mel features [n_mels, n_frames100], its labels, and how many states to keep."""
    waveform = _trim(load_waveform(sample))
    labels = encode_text(sample.text, vocabulary)
    rate = waveform.size / 320 / max(len(labels), 1)
    factor = float(np.clip(rate / rng.uniform(*config.frames_per_label), 1.0, 2.0))
    if rng.random() < config.augment:
        waveform = augmenter(waveform, rng)
    waveform = _surround(waveform, rng)
    tail = int(0.5 * SAMPLE_RATE * factor * rng.uniform(1.0, 1.3))
    features = compute_log_mel(functional.pad(torch.from_numpy(waveform), (0, tail)), config.n_mels)
    return quicken(features, factor), labels, int(waveform.size / 320 / factor) + SPARE_FRAMES


def _trim(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove the digital silence around synthetic speech, which real speech does not have."""
    loud = np.flatnonzero(np.abs(waveform) > 0.02 * np.abs(waveform).max())
    return waveform[max(0, loud[0] - 800) : loud[-1] + 1600] if loud.size else waveform


def _surround(waveform: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Add up to 0.4 s of faint noise or silence before, and up to 0.3 s after."""
    before = int(rng.uniform(0.0, 0.4) * SAMPLE_RATE) if rng.random() < 0.6 else 0
    behind = int(rng.uniform(0.0, 0.3) * SAMPLE_RATE) if rng.random() < 0.5 else 0
    level = np.float32(10.0 ** rng.uniform(-4.5, -3.0)) if rng.random() < 0.6 else np.float32(0.0)
    noise = rng.standard_normal(before + behind).astype(np.float32) * level
    return np.concatenate([noise[:before], waveform, noise[before:]])


@torch.inference_mode()
def compute_states(
    model: LogMelCtc, clips: Sequence[tuple[Tensor, list[int], int]], n_frozen: int
) -> Iterator[Clip]:
    """Run the stem and the first layers over clips of similar length, each padded with its last frame."""
    longest = max(features.shape[1] for features, _, _ in clips)
    longest += longest % 2
    padded = [torch.cat([f, f[:, -1:].expand(-1, longest - f.shape[1])], dim=1) for f, _, _ in clips]
    hidden = model.stem(torch.stack(padded).to(next(model.parameters()).device))
    for layer in model.layers[:n_frozen]:
        hidden = layer(hidden)
    for row, (_, labels, n_kept) in enumerate(clips):
        states = hidden[row, : min(n_kept, hidden.shape[1])].half().cpu()
        if len(states) > min_frames(labels):
            yield Clip(states, labels)


def write_shards(
    model: LogMelCtc, samples: Sequence[Sample], vocabulary: dict[str, int], augmenter: Augmenter,
    config: StatesConfig, folder: Path, seed: int,
) -> list[Path]:  # fmt: skip
    """Compute the states of all samples, shard by shard; existing shards are not computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(samples), config.shard_size):
        path = folder / f"states_{seed}_{first:07d}.pt"
        paths.append(path)
        if path.exists():
            continue
        rng = np.random.default_rng((seed, first))
        chosen = samples[first : first + config.shard_size]
        distorted = [distort_clip(sample, vocabulary, augmenter, config, rng) for sample in chosen]
        distorted.sort(key=lambda clip: clip[0].shape[1])
        clips = [
            clip for group in _groups(distorted) for clip in compute_states(model, group, config.n_frozen)
        ]
        beside = path.with_suffix(".part")
        lengths = [len(clip.states) for clip in clips]
        content = {"states": torch.cat([clip.states for clip in clips]), "lengths": lengths}
        torch.save(content | {"labels": [clip.labels for clip in clips]}, beside)
        beside.replace(path)
        LOGGER.info("%s: %d clips, %.2f h", path.name, len(clips), sum(lengths) / 180_000)
    return paths


def _groups(distorted: list[Any], frames: int = 6000) -> Iterator[list[Any]]:
    """Cut a list sorted by length into batches of at most `frames` padded feature frames."""
    group: list[Any] = []
    for clip in distorted:
        if group and clip[0].shape[1] * (len(group) + 1) > frames:
            yield group
            group = []
        group.append(clip)
    if group:
        yield group


def read_shard(path: Path) -> list[Clip]:
    """Read a shard that `write_shards` wrote."""
    content = torch.load(path, weights_only=True)
    states = content["states"].split(content["lengths"])
    return [Clip(one, labels) for one, labels in zip(states, content["labels"], strict=True)]
