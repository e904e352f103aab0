"""Waveform augmentation: rooms, noise, colour, level, speed, coding; and masks, but not for short clips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
Waveform = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How often each change is made, and how strong it is.

    Attributes:
        speed, room, colour, noise, band, coding, clip: probabilities.
        snr_db: lowest and highest signal-to-noise ratio.
        level_db: lowest and highest RMS level of the result, dB re full scale.
        noise_dir: folder of recordings to cut noise from; without it, only artificial noise.
    """

    speed: float = 0.5
    room: float = 0.4
    colour: float = 0.7
    noise: float = 0.5
    band: float = 0.15
    coding: float = 0.1
    clip: float = 0.05
    snr_db: tuple[float, float] = (3.0, 35.0)
    level_db: tuple[float, float] = (-38.0, -14.0)
    noise_dir: Path | None = None


class Augmenter:
    """Draws one random change of a waveform after another; holds the noise recordings."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        paths = sorted(config.noise_dir.rglob("*")) if config.noise_dir else []
        recordings = [
            soundfile.read(path, dtype="float32", always_2d=True)
            for path in paths
            if path.suffix in (".wav", ".flac", ".ogg")
        ]
        self._noises = [_resample(samples.mean(1), rate / SAMPLE_RATE) for samples, rate in recordings]

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return a changed copy, float32 [n_samples'], 16 kHz; the same rng state gives the same copy."""
        config = self.config
        steps = (
            (config.speed, lambda x: _resample(x, rng.uniform(0.9, 1.12))),
            (config.room, lambda x: add_room(x, rng)),
            (config.colour, lambda x: colour(x, rng)),
            (config.noise, lambda x: self.add_noise(x, rng)),
            (config.band, lambda x: limit_band(x, rng.uniform(3200.0, 6800.0))),
            (config.coding, lambda x: code_mu_law(x)),
        )
        for probability, step in steps:
            if rng.random() < probability:
                waveform = step(waveform)
        rms = float(np.sqrt(np.mean(np.square(waveform)))) + 1e-7
        waveform = waveform * (10.0 ** (rng.uniform(*config.level_db) / 20.0) / rms)
        if rng.random() < config.clip:
            waveform = waveform * rng.uniform(2.0, 5.0)
        return np.clip(waveform, -1.0, 1.0).astype(np.float32)

    def add_noise(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Add recorded or artificial coloured noise at a random signal-to-noise ratio."""
        if self._noises and rng.random() < 0.6:
            source = self._noises[rng.integers(len(self._noises))]
            start = int(rng.integers(source.size))
            noise = np.resize(np.roll(source, -start), waveform.size)
        else:
            noise = made_noise(waveform.size, rng.uniform(0.0, 2.0), rng)
        return mix_at_snr(waveform, noise, float(rng.uniform(*self.config.snr_db)))


def mix_at_snr(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise, float32 [n_samples], scaled to `snr_db` below the waveform's mean power."""
    power = float(np.mean(np.square(waveform))) / (float(np.mean(np.square(noise))) + 1e-12)
    return (waveform + noise * np.float32(np.sqrt(power / 10.0 ** (snr_db / 10.0)))).astype(np.float32)


def made_noise(n_samples: int, slope: float, rng: np.random.Generator) -> Waveform:
    """Return Gaussian noise whose power falls as 1 / f**slope: 0 white, 1 pink, 2 red."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum /= np.maximum(np.arange(spectrum.size), 1) ** (slope / 2.0)
    return np.fft.irfft(spectrum, n_samples).astype(np.float32)


def add_room(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Convolve with an artificial room: the direct sound, a few early echoes, an exponential tail."""
    decay_s = rng.uniform(0.08, 0.6)
    n_taps = int(decay_s * SAMPLE_RATE)
    times = np.arange(n_taps) / SAMPLE_RATE
    response = rng.standard_normal(n_taps) * 10.0 ** (-3.0 * times / decay_s)
    response[: int(rng.uniform(0.001, 0.012) * SAMPLE_RATE)] = 0.0
    response *= rng.uniform(0.1, 0.8) / (np.sqrt(np.square(response).sum()) + 1e-9)
    response[0] = 1.0
    return _convolve(waveform, response)


def colour(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Filter with a smooth random spectrum, a tilt and broad bumps, like microphones and distances."""
    octaves = np.linspace(-1.0, 1.0, 129)
    gain_db = rng.uniform(-9.0, 9.0) * octaves
    for _ in range(3):
        centre, width = rng.uniform(-1.0, 1.0), rng.uniform(0.1, 0.5)
        gain_db += rng.uniform(-7.0, 7.0) * np.exp(-0.5 * ((octaves - centre) / width) ** 2)
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2.0, 257)
    position = np.log2(np.maximum(frequencies, 60.0) / 60.0) / np.log2(8000.0 / 60.0) * 2.0 - 1.0
    gain = 10.0 ** (np.interp(position, octaves, gain_db) / 20.0)
    response = np.fft.irfft(gain)
    return _convolve(waveform, np.roll(response, 128) * np.hanning(response.size))


def limit_band(waveform: Waveform, cutoff_hz: float) -> Waveform:
    """Remove everything above a frequency, as telephones and old codecs do."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(waveform.size, 1.0 / SAMPLE_RATE)
    spectrum *= 1.0 / (1.0 + np.exp((frequencies - cutoff_hz) / 60.0))
    return np.fft.irfft(spectrum, waveform.size).astype(np.float32)


def code_mu_law(waveform: Waveform) -> Waveform:
    """Round to 8-bit mu-law steps, telephony's codec."""
    peak = float(np.abs(waveform).max()) + 1e-9
    compressed = np.sign(waveform) * np.log1p(255.0 * np.abs(waveform) / peak) / np.log(256.0)
    rounded = np.round(compressed * 127.0) / 127.0
    return (np.sign(rounded) * np.expm1(np.abs(rounded) * np.log(256.0)) / 255.0 * peak).astype(np.float32)


def mask_spans(
    n_frames: int, rate: float, span: int, rng: np.random.Generator, min_left: float = 0.6
) -> NDArray[np.bool_]:
    """Choose frames to mask, in spans.

    Args:
        n_frames: length of the clip; a clip shorter than two spans is not masked.
        rate: expected fraction of frames masked.
        span: frames per span.
        min_left: least fraction of frames that stay.
    Returns:
        bool [n_frames], True where masked.
    """
    mask = np.zeros(n_frames, dtype=np.bool_)
    if n_frames < 2 * span:
        return mask
    for _ in range(rng.poisson(rate * n_frames / span)):
        length = int(rng.integers(1, span + 1))
        start = int(rng.integers(0, n_frames - length + 1))
        if mask.sum() + length <= (1.0 - min_left) * n_frames:
            mask[start : start + length] = True
    return mask


def _resample(waveform: Waveform, factor: float) -> Waveform:
    """Return the waveform played `factor` times faster."""
    return np.asarray(soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ"), np.float32)


def _convolve(waveform: Waveform, response: NDArray[np.float64]) -> Waveform:
    n_fft = 1 << (waveform.size + response.size - 1).bit_length()
    product = np.fft.rfft(waveform, n_fft) * np.fft.rfft(response, n_fft)
    return np.fft.irfft(product, n_fft)[: waveform.size].astype(np.float32)
