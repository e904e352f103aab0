"""Utterances to verify on: recordings or artificial signals, in length buckets, clean and noisy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.features import compute_features
from engine.audio.limits import SAMPLE_RATE
from engine.audio.parts import load_part
from engine.audio.sink import resample
from engine.bundle.schema import AcousticConfig
from engine.manifests import read_manifest
from engine.text import normalize_text
from export.errors import ExportError

BUCKETS_S = (1.0, 3.0, 6.0, 12.0, 20.0)
NOISE_LEVELS_DB = {"clean": None, "white 20 dB": 20.0, "red 10 dB": 10.0}
PER_BUCKET = 2
TIMED_S = 6.0  # a sentence or two
MAX_SPOKEN = 120  # evenly spread over the manifest

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One utterance as the encoder reads it.

    Attributes:
        features: float32 [n_samples] or [n_mels, n_frames].
        bucket: its length, "" for an utterance that is only transcribed. noise: what was mixed in.
        text: what is said, normalised; "" where it is not known.
        logits: of the original model, float32 [n_frames, vocab_size]; None until they are computed.
    """

    features: FloatArray
    bucket: str
    noise: str = "clean"
    text: str = ""
    logits: FloatArray | None = None


def build_cases(
    config: AcousticConfig, manifest: Path | None = None, lengths_s: Sequence[float] = ()
) -> list[Case]:
    """Cut waveforms to some lengths, clean and noisy; add a manifest's utterances with their texts.

    Args:
        manifest: as engine.manifests.read_manifest takes it; of a folder the split `test`.
        lengths_s: each gives a bucket; those of BUCKETS_S where there are none.
    Raises:
        ManifestError: lists every problem of the manifest. AudioError: a file cannot be read.
    """
    listed = read_manifest(manifest) if manifest is not None else []
    spoken = listed[:: math.ceil(len(listed) / MAX_SPOKEN) or 1]
    rate = config.features.sample_rate
    waveforms = [at_rate(load_part(row.path, row.offset_s, row.duration_s), rate) for row in spoken]
    speech = np.concatenate(waveforms) if spoken else speech_like(60 * rate, rate)
    cases = []
    for length_s in (b for b in lengths_s or BUCKETS_S if b + config.tail_silence_s <= config.max_window_s):
        for noise, level_db in NOISE_LEVELS_DB.items():
            for index in range(PER_BUCKET):
                start = index * int(length_s * rate) % len(speech)
                waveform = np.resize(np.roll(speech, -start), int(length_s * rate))
                waveform = mix_noise(waveform, noise.split()[0], level_db, index)
                cases.append(Case(features_of(waveform, config), f"{length_s:g} s", noise))
    for waveform, row in zip(waveforms, spoken, strict=True):
        if len(waveform) / rate + config.tail_silence_s <= config.max_window_s:
            cases.append(Case(features_of(waveform, config), "", "clean", normalize_text(row.text)))
    return cases


def case_to_time(cases: Sequence[Case]) -> Case:
    """The utterance on which speed is measured: the first of the bucket whose length is nearest to TIMED_S.

    Raises:
        ExportError: there is no bucket, because the model takes none of these lengths.
    """
    in_buckets = [case for case in cases if case.bucket]
    if not in_buckets:
        lengths = ", ".join(f"{length:g}" for length in BUCKETS_S)
        raise ExportError(
            "a model whose window (max_window_s) holds no utterance to time",
            f"one of {lengths} s",
            "raise max_window_s",
        )
    return min(in_buckets, key=lambda case: abs(float(case.bucket.removesuffix(" s")) - TIMED_S))


def at_rate(waveform: FloatArray, rate: int) -> FloatArray:
    """Audio as the engine loads it, at a model's own rate."""
    return waveform if rate == SAMPLE_RATE else resample(waveform, SAMPLE_RATE, rate)


def features_of(waveform: FloatArray, config: AcousticConfig) -> FloatArray:
    """The engine's features, with the model's tail silence."""
    n_tail = round(config.tail_silence_s * config.features.sample_rate)
    if config.features.kind == "waveform":
        return np.pad(compute_features(waveform, config.features), (0, n_tail))
    return compute_features(np.pad(waveform, (0, n_tail)), config.features)


def speech_like(n_samples: int, sample_rate: int, seed: int = 0) -> FloatArray:
    """Voiced bursts with gliding pitch and three resonances, hissing bursts, and pauses."""
    return _speech_like(n_samples, sample_rate, seed).copy()


@lru_cache(maxsize=8)
def _speech_like(n_samples: int, sample_rate: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    pieces, done = [], 0
    while done < n_samples:
        length = int(rng.uniform(0.06, 0.25) * sample_rate)
        time_s = np.arange(length) / sample_rate
        kind = rng.choice(["voiced", "voiced", "hiss", "pause"])
        if kind == "voiced":
            pitch = rng.uniform(90, 240) * (1 + rng.uniform(-0.3, 0.3) * time_s)
            formants = rng.uniform([300, 900, 2200], [800, 2000, 3200])
            harmonics = np.outer(np.arange(1, 30), pitch)
            weights = np.exp(-((harmonics[..., None] - formants) ** 2) / 150**2).sum(-1) + 0.02
            piece = (weights * np.sin(2 * np.pi * np.cumsum(harmonics, axis=1) / sample_rate)).sum(0)
        else:
            piece = rng.standard_normal(length) * (0.3 if kind == "hiss" else 0.001)
        pieces.append(piece * np.hanning(length) * rng.uniform(0.05, 0.3))
        done += length
    return np.concatenate(pieces)[:n_samples].astype(np.float32)


def mix_noise(waveform: FloatArray, kind: str, level_db: float | None, seed: int) -> FloatArray:
    """Add white or red noise at a signal-to-noise ratio in dB; None adds nothing."""
    if level_db is None:
        return waveform
    noise = np.random.default_rng(seed).standard_normal(waveform.size)
    if kind == "red":
        noise = np.cumsum(noise)
        noise -= np.linspace(noise[0], noise[-1], noise.size)
    power = np.sqrt((waveform**2).mean() / ((noise**2).mean() + 1e-20)) * 10 ** (-level_db / 20)
    mixed: FloatArray = (waveform + power * noise).astype(np.float32)
    return mixed
