"""Log-mel features in Whisper's convention, without its padding to 30 s.

Versions, 30 s of audio on one core of a busy Xeon, CPU time: numpy's FFT over all frames 16 ms; a block of
frames in the lanes of one mixed-radix FFT 3.3 ms; hops transposed once a block 2.4 ms; a logarithm
without a test for division by zero 2.0 ms, half of it the FFT.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import inner, kernel
from engine.kernels.features.real_fft import BLOCK, HALF, LANES, N_BINS, compute_power_block

HOP_LENGTH = 160
DYNAMIC_RANGE = np.float32(1e-8)  # Whisper keeps 80 dB below the loudest cell of the utterance
FLOOR = np.float32(1e-10)
WIDTH = LANES + 2  # hops of a block: a window of 400 samples touches three of 160
_TILE = 1024
_LOG10_E = np.float32(0.25 / math.log(10.0))
_LOG10_2 = np.float32(0.25 * math.log10(2.0))
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA_BITS, _MANTISSA_WIDTH = np.int32(0x007FFFFF), np.int32(23)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@kernel
def reflect_index(index: int, n_samples: int) -> int:
    """The sample that `index` mirrors to; a short signal is mirrored as often as needed."""
    if n_samples == 1:
        return 0
    period = 2 * (n_samples - 1)
    index = abs(index) % period
    return period - index if index >= n_samples else index


@inner
def split_hops(waveform: FloatArray, first: int, hops: FloatArray) -> None:
    """Write the hops of LANES frames, from frame `first` on.

    Args:
        waveform: float32 [n_samples], read as if mirrored at both ends.
        hops: float32 [160 * WIDTH], written; hops[r * WIDTH + h] is sample 160 (first + h) + r - 200:
            so the same sample of neighbouring frames is one vector load.
    """
    n_samples = waveform.size
    for hop in range(WIDTH):
        start = (first + hop) * HOP_LENGTH - HALF
        if start >= 0 and start + HOP_LENGTH <= n_samples:
            inside = waveform[start : start + HOP_LENGTH]
            for row in range(HOP_LENGTH):
                hops[row * WIDTH + hop] = inside[row]
        else:
            for row in range(HOP_LENGTH):
                hops[row * WIDTH + hop] = waveform[reflect_index(start + row, n_samples)]


@inner
def load_windows(hops: FloatArray, window: FloatArray, samples: FloatArray) -> None:
    """Window the frames of a block: first the even ones of `samples`, then the odd ones."""
    for pair in range(HALF):
        even, odd = 2 * pair, 2 * pair + 1
        from_even = even % HOP_LENGTH * WIDTH + even // HOP_LENGTH
        from_odd = odd % HOP_LENGTH * WIDTH + odd // HOP_LENGTH
        weight_even, weight_odd = window[even], window[odd]
        for lane in range(LANES):
            samples[pair * LANES + lane] = hops[from_even + lane] * weight_even
        for lane in range(LANES):
            samples[pair * LANES + BLOCK + lane] = hops[from_odd + lane] * weight_odd


@inner
def apply_filters(
    power: FloatArray, filters: FloatArray, bounds: IntArray, mel: FloatArray, peaks: FloatArray
) -> None:
    """Sum the power under each triangle: mel [n_mels, LANES]; raises peaks [LANES] to the largest sums."""
    for band in range(filters.shape[0]):
        target = mel[band]
        target[:] = np.float32(0.0)
        for k in range(bounds[band, 0], bounds[band, 1]):
            weight = filters[band, k]
            source = power[k * LANES : k * LANES + LANES]
            for lane in range(LANES):
                target[lane] += source[lane] * weight
        for lane in range(LANES):
            peaks[lane] = target[lane] if target[lane] > peaks[lane] else peaks[lane]


@inner
def clear_lanes(power: FloatArray, width: int) -> None:
    """Set all lanes from `width` on to 0. power: float32 [N_BINS * LANES]."""
    for at in range(0, power.size, LANES):
        for lane in range(width, LANES):
            power[at + lane] = np.float32(0.0)


@inner
def write_columns(mel: FloatArray, width: int, out: FloatArray, first: int) -> None:
    """Write the first `width` lanes of mel [n_mels, LANES] to columns of the last n_mels rows of `out`.

    Loops, since an assignment to a slice takes seconds to compile.
    """
    above = out.shape[0] - mel.shape[0]
    for band in range(mel.shape[0]):
        for lane in range(width):
            out[above + band, first + lane] = mel[band, lane]


@kernel
def scale_log10(values: FloatArray, floor: float) -> None:
    """Replace every value by (log10(max(value, floor)) + 4) / 4, in place; arguments as for log_affine."""
    log_affine(values, floor, _LOG10_E, _LOG10_2, np.float32(1.0))


@inner(error_model="numpy")  # no test for division by zero, which would keep the loop scalar
def log_affine(values: FloatArray, floor: float, per_e: float, per_2: float, offset: float) -> None:
    """Replace every value by a multiple of its logarithm plus an offset, in place.

    Args:
        values: float32 [n], non-negative.
        floor: positive and normal; smaller values count as this.
        per_e, per_2: float32, what a factor e or 2 adds to the result.
        offset: float32, the result for 1.
    The logarithm: exponent from the bits, then the series of atanh around 1; error below 2e-7.
    """
    lowest = np.float32(floor)
    mantissa, exponents = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    mantissa_bits = mantissa.view(np.int32)
    for start in range(0, values.size, _TILE):
        tile = values[start : start + _TILE]
        bits = tile.view(np.int32)
        for i in range(tile.size):
            tile[i] = tile[i] if tile[i] > lowest else lowest
        for i in range(tile.size):  # separate arrays: a loop over two views of the same memory stays scalar
            above = np.int32(bits[i] - _SQRT_HALF_BITS)
            exponents[i] = np.float32(np.int32(above >> _MANTISSA_WIDTH))
            mantissa_bits[i] = np.int32((above & _MANTISSA_BITS) + _SQRT_HALF_BITS)
        for i in range(tile.size):
            s = (mantissa[i] - np.float32(1.0)) / (mantissa[i] + np.float32(1.0))
            z = s * s
            tail = np.float32(1 / 7) + z * np.float32(1 / 9)
            series = np.float32(1.0) + z * (np.float32(1 / 3) + z * (np.float32(1 / 5) + z * tail))
            tile[i] = np.float32(2.0) * s * series * per_e + exponents[i] * per_2 + offset


@kernel
def compute_log_mel_into(
    waveform: FloatArray, window: FloatArray, filters: FloatArray, bounds: IntArray, out: FloatArray
) -> None:
    """Log-mel features of one utterance.

    Args:
        waveform: float32 [n_samples], at least one sample.
        window: float32 [400]. filters: float32 [n_mels, 201].
        bounds: int32 [n_mels, 2], the first bin of each filter and the one after its last.
        out: float32 [n_mels, n_frames], written; n_frames = n_samples // 160.
    """
    n_mels, n_frames = out.shape
    hops = np.empty(HOP_LENGTH * WIDTH, np.float32)
    samples, scratch = np.empty(2 * BLOCK, np.float32), np.empty(2 * BLOCK, np.float32)
    power = np.empty(N_BINS * LANES, np.float32)
    mel, peaks = np.empty((n_mels, LANES), np.float32), np.zeros(LANES, np.float32)
    for first in range(0, n_frames, LANES):
        split_hops(waveform, first, hops)
        load_windows(hops, window, samples)
        compute_power_block(samples, scratch, power)
        width = min(LANES, n_frames - first)
        if width < LANES:  # frames after the end must not count as the loudest
            clear_lanes(power, width)
        apply_filters(power, filters, bounds, mel, peaks)
        write_columns(mel, width, out, first)
    highest = np.float32(0.0)
    for lane in range(LANES):
        highest = max(highest, peaks[lane])
    scale_log10(out.reshape(-1), max(FLOOR, highest * DYNAMIC_RANGE))
