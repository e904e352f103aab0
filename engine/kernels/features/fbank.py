"""Kaldi's log filterbank: 25 ms frames without their mean, pre-emphasised, windowed, 512-point spectrum.

As in log_mel, LANES frames are next to each other in the innermost axis, so every step is a loop over
contiguous floats. Mean and pre-emphasis take one pass:
(x[i] - m) - c (x[i-1] - m) = x[i] - c x[i-1] - (1 - c) m.
"""

from __future__ import annotations

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.features.log_mel import (
    HOP_LENGTH,
    WIDTH,
    FloatArray,
    IntArray,
    apply_filters,
    log_affine,
    write_columns,
)
from engine.kernels.features.real_fft import LANES
from engine.kernels.features.real_fft512 import BLOCK, HALF, compute_power_block_512

FRAME_LENGTH = 400
EPSILON = np.float32(1.1920929e-07)  # Kaldi's floor: float32's machine epsilon
_ONE, _LN_2 = np.float32(1.0), np.float32(np.log(2.0))


@kernel
def mirror_index(index: int, n_samples: int) -> int:
    """The sample that `index` mirrors to, with the outermost one repeated, as often as needed."""
    while index < 0 or index >= n_samples:
        index = -index - 1 if index < 0 else 2 * n_samples - 1 - index
    return index


@inner
def split_frames(waveform: FloatArray, first: int, offset: int, scale: float, hops: FloatArray) -> None:
    """Write the hops that LANES frames from `first` on touch.

    Args:
        waveform: float32 [n_samples], read as if mirrored at both ends.
        offset: of frame 0's first sample.
        scale: factor on every sample.
        hops: float32 [160 * WIDTH], written; hops[r * WIDTH + h] is sample 160 (first + h) + r + offset.
    """
    n_samples, factor = waveform.size, np.float32(scale)
    for hop in range(WIDTH):
        start = (first + hop) * HOP_LENGTH + offset
        if start >= 0 and start + HOP_LENGTH <= n_samples:
            inside = waveform[start : start + HOP_LENGTH]
            for row in range(HOP_LENGTH):
                hops[row * WIDTH + hop] = inside[row] * factor
        else:
            for row in range(HOP_LENGTH):
                hops[row * WIDTH + hop] = waveform[mirror_index(start + row, n_samples)] * factor


@inner
def lane_means(hops: FloatArray, means: FloatArray) -> None:
    """The mean of each frame's 400 samples: means float32 [LANES], written."""
    means[:] = np.float32(0.0)
    for i in range(FRAME_LENGTH):
        at = i % HOP_LENGTH * WIDTH + i // HOP_LENGTH
        for lane in range(LANES):
            means[lane] += hops[at + lane]
    for lane in range(LANES):
        means[lane] *= np.float32(1.0 / FRAME_LENGTH)


@inner
def lane_energies(hops: FloatArray, means: FloatArray, energies: FloatArray) -> None:
    """The sum of squares of each frame less its mean: energies float32 [LANES], written."""
    energies[:] = np.float32(0.0)
    for i in range(FRAME_LENGTH):
        at = i % HOP_LENGTH * WIDTH + i // HOP_LENGTH
        for lane in range(LANES):
            value = hops[at + lane] - means[lane]
            energies[lane] += value * value


@inner
def load_emphasised(
    hops: FloatArray, means: FloatArray, window: FloatArray, preemphasis: float, samples: FloatArray
) -> None:
    """Remove means, pre-emphasise and window a block of frames.

    Args:
        means: float32 [LANES]; zeros keep the constant part.
        samples: float32 [2 * BLOCK], written: even samples, then odd ones; zeros after the 400th.
    """
    c = np.float32(preemphasis)
    rest = _ONE - c
    for i in range(FRAME_LENGTH):
        at = i % HOP_LENGTH * WIDTH + i // HOP_LENGTH
        j = max(i - 1, 0)  # the first sample is its own predecessor
        before = j % HOP_LENGTH * WIDTH + j // HOP_LENGTH
        to = i // 2 * LANES + i % 2 * BLOCK
        weight = window[i]
        for lane in range(LANES):
            samples[to + lane] = (hops[at + lane] - c * hops[before + lane] - rest * means[lane]) * weight
    samples[FRAME_LENGTH // 2 * LANES : BLOCK] = np.float32(0.0)
    samples[BLOCK + FRAME_LENGTH // 2 * LANES :] = np.float32(0.0)


@kernel
def compute_fbank_into(
    waveform: FloatArray,
    offset: int,
    scale: float,
    preemphasis: float,
    remove_dc: bool,
    energy_floor: float,
    window: FloatArray,
    filters: FloatArray,
    bounds: IntArray,
    out: FloatArray,
) -> None:
    """Log filterbank energies of one utterance.

    Args:
        waveform: float32 [n_samples], at least one sample.
        offset: of the first frame's first sample: 0, or -120 where frames are centred on their hops.
        scale: factor on every sample (Kaldi's models expect 16-bit integers: 32768).
        energy_floor: lowest energy of the row "energy", where out has one more row than there are filters.
        window: float32 [400]. filters: float32 [n_mels, 257].
        bounds: int32 [n_mels, 2], the first bin of each filter and the one after its last.
        out: float32 [n_mels, n_frames] or [1 + n_mels, n_frames] with the energy first, written; natural log.
    """
    n_mels, n_frames = filters.shape[0], out.shape[1]
    n_before = out.shape[0] - n_mels
    hops, means = np.empty(HOP_LENGTH * WIDTH, np.float32), np.zeros(LANES, np.float32)
    samples, scratch = np.empty(2 * BLOCK, np.float32), np.empty(2 * BLOCK, np.float32)
    power = np.empty((HALF + 1) * LANES, np.float32)
    mel, peaks = np.empty((n_mels, LANES), np.float32), np.zeros(LANES, np.float32)
    for first in range(0, n_frames, LANES):
        width = min(LANES, n_frames - first)
        split_frames(waveform, first, offset, scale, hops)
        if remove_dc:
            lane_means(hops, means)
        if n_before:
            lane_energies(hops, means, peaks)
            for lane in range(width):
                out[0, first + lane] = max(peaks[lane], np.float32(energy_floor))
        load_emphasised(hops, means, window, preemphasis, samples)
        compute_power_block_512(samples, scratch, power)
        apply_filters(power, filters, bounds, mel, peaks)
        write_columns(mel, width, out, first)
    log_affine(out.reshape(-1), EPSILON, _ONE, _LN_2, np.float32(0.0))
