"""Examples for a two-pass recogniser: speech with text, joined clips, and sound without words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engine.text import VOCABULARY, spell_numbers
from training.asr.doctor import min_frames
from training.common.augment import Augmenter, made_noise
from training.common.data import SAMPLE_RATE, Sample, encode_text, load_waveform
from training.common.mel import N_MELS, compute_log_mel, quicken
from training.whisper.vocabulary import TokenVocabulary

Waveform = NDArray[np.float32]
SAMPLES_PER_FRAME = 320
QUOTES = str.maketrans(
    {"„": '"', "“": '"', "”": '"', "«": '"', "»": '"', "’": "'", "ʻ": "'", "‚": "'", "‘": "'"}
)
LABELS = {symbol: index for index, symbol in enumerate(VOCABULARY)}


@dataclasses.dataclass(frozen=True)
class Example:
    """One clip, ready for training.

    Attributes:
        features: float32 [n_mels, n_frames100], the tail silence included.
        tokens: prompt, text and end. labels: of CTC.
        source: index of the clip; -1 for joined clips and artificial sound.
    """

    features: Tensor
    tokens: list[int]
    labels: list[int]
    source: int = -1

    @property
    def n_frames(self) -> int:
        """How many states the encoder gives."""
        return (self.features.shape[1] + 1) // 2


@dataclasses.dataclass(frozen=True)
class ExampleConfig:
    """How clips are changed.

    Attributes:
        augment: fraction of clips whose waveform is changed.
        join: fraction of clips that another one follows; max_joined_s: the longest result.
        silent: fraction of examples without any speech: their text is empty.
        tail_s: least silence after the speech.
        quick: fastest tempo that clips are played at, pitch unchanged.
        n_mels: mel bands of the features, as the encoder takes them.
        mask_frames, mask_bands: widest stretch of frames (10 ms) and mel bands that is hidden.
    """

    augment: float = 0.75
    join: float = 0.25
    max_joined_s: float = 20.0
    silent: float = 0.03
    tail_s: float = 0.5
    quick: float = 1.35
    n_mels: int = N_MELS
    mask_frames: int = 25
    mask_bands: int = 12


def written_text(text: str) -> str:
    """A transcript as the decoder writes it: numbers as words, plain quotes, no space before punctuation."""
    text = spell_numbers(text.translate(QUOTES)).replace("_", " ")
    return re.sub(r"\s+([.,;:!?])", r"\1", " ".join(text.split()))


class ExampleMaker:
    """Draws examples from a corpus; the same generator state gives the same example."""

    def __init__(
        self, samples: Sequence[Sample], tokens: Sequence[list[int]], augmenter: Augmenter,
        vocabulary: TokenVocabulary, config: ExampleConfig,
    ) -> None:  # fmt: skip
        self.samples, self.tokens, self.augmenter = samples, tokens, augmenter
        self.vocabulary, self.config = vocabulary, config

    def make(self, index: int, rng: np.random.Generator) -> Example:
        """The clip of this index, changed at random; sometimes joined to another, or replaced by noise."""
        config = self.config
        if rng.random() < config.silent:
            return self._example(made_sound(rng, self.augmenter), [], [], -1, 1.0, rng)
        waveform, tokens, labels = self._clip(index)
        source = index
        if rng.random() < config.join:
            other = int(rng.integers(len(self.samples)))
            following = self._clip(other)
            if waveform.size + following[0].size < config.max_joined_s * SAMPLE_RATE:
                pause = np.zeros(int(rng.uniform(0.05, 0.6) * SAMPLE_RATE), np.float32)
                gain = np.float32(_rms(waveform) / _rms(following[0]))
                waveform = np.concatenate([waveform, pause, following[0] * gain])
                tokens, source = tokens + following[1], -1
                labels = [*labels, LABELS["|"], *following[2]]
        if rng.random() < config.augment:
            waveform = self.augmenter(surround(waveform, rng), rng)
        slowest = waveform.size / SAMPLES_PER_FRAME / max(min_frames(labels) * 1.6, 1.0)
        factor = min(float(rng.uniform(0.92, config.quick)), max(slowest, 1.0))
        return self._example(waveform, tokens, labels, source, factor, rng)

    def _clip(self, index: int) -> tuple[Waveform, list[int], list[int]]:
        sample = self.samples[index]
        return load_waveform(sample), self.tokens[index], encode_text(sample.text, LABELS)

    def _example(
        self, waveform: Waveform, tokens: list[int], labels: list[int], source: int, factor: float,
        rng: np.random.Generator,
    ) -> Example:  # fmt: skip
        tail = int(self.config.tail_s * SAMPLE_RATE * factor) + (-waveform.size) % SAMPLES_PER_FRAME
        padded = functional.pad(torch.from_numpy(waveform), (0, tail))
        features = quicken(compute_log_mel(padded, self.config.n_mels), factor)
        features = features[:, : features.shape[1] // 2 * 2]
        if labels:
            features = hide(features, self.config, rng)
        ids = [*self.vocabulary.prompt, *tokens, self.vocabulary.end_id]
        return Example(features, ids, labels, source)


def _rms(waveform: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(waveform)))) + 1e-5


def surround(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Add up to 0.5 s of silence before and after: people do not begin at the first sample."""
    before, behind = (int(rng.uniform(0.0, 0.5) * SAMPLE_RATE) if rng.random() < 0.6 else 0 for _ in range(2))
    return np.pad(waveform, (before, behind))


def made_sound(rng: np.random.Generator, augmenter: Augmenter) -> Waveform:
    """Sound without words, float32 [n_samples]: silence, noise, hum, tones, or a recorded room."""
    n_samples = int(rng.uniform(0.3, 12.0) * SAMPLE_RATE)
    kind = rng.integers(5)
    level = np.float32(10.0 ** rng.uniform(-4.0, -1.0))
    if kind == 0:
        return np.zeros(n_samples, np.float32)
    if kind == 1:
        return made_noise(n_samples, rng.uniform(0.0, 2.0), rng) / 3.0 * level
    times = np.arange(n_samples) / SAMPLE_RATE
    if kind == 2:
        base = rng.choice([50.0, 60.0, 100.0, 120.0])
        waves = [np.sin(2.0 * np.pi * base * (k + 1) * times) / (k + 1) for k in range(6)]
        return (np.sum(waves, axis=0) * level / 2.0).astype(np.float32)
    if kind == 3:
        return (made_melody(times, rng) * level).astype(np.float32)
    quiet = (rng.standard_normal(n_samples) * 1e-4).astype(np.float32)
    return augmenter.add_noise(quiet, rng) * np.float32(level / 1e-4 / 3.0)


def made_melody(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Notes of a tempered scale with three overtones each, some at the same time."""
    melody = np.zeros(times.size)
    start = 0.0
    while start < times[-1]:
        length = rng.uniform(0.12, 0.8)
        inside = (times >= start) & (times < start + length)
        for _ in range(int(rng.integers(1, 4))):
            pitch = 110.0 * 2.0 ** (rng.integers(0, 37) / 12.0)
            decay = np.exp(-(times[inside] - start) * rng.uniform(0.5, 6.0))
            overtones = [np.sin(2.0 * np.pi * pitch * k * times[inside]) / k**1.5 for k in (1, 2, 3, 4)]
            melody[inside] += decay * np.sum(overtones, axis=0) / 3.0
        start += length
    return melody


def hide(features: Tensor, config: ExampleConfig, rng: np.random.Generator) -> Tensor:
    """Hide up to two stretches of frames and one of bands, as SpecAugment does, with the features' mean."""
    features, mean = features.clone(), float(features.mean())
    for _ in range(int(rng.integers(0, 3))):
        width = int(rng.integers(0, config.mask_frames))
        start = int(rng.integers(0, max(features.shape[1] - width, 1)))
        features[:, start : start + width] = mean
    if rng.random() < 0.5:
        width = int(rng.integers(0, config.mask_bands))
        start = int(rng.integers(0, features.shape[0] - width))
        features[start : start + width] = mean
    return features
