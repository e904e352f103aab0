"""wav2vec2's positional convolution by way of the frequencies, for 64 to 128 taps.

Blocks of 256 frames that overlap by half (overlap-save) give 128 frames each; two of them travel as the
real and imaginary parts of one transform, which a filter of real taps keeps apart. Between the transforms
every bin is a product of complex rows by [size, size] in each group, done by the tiles of bfloat16: 129
bins of two numbers in place of 128 taps times 128 frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, inner, kernel
from engine.kernels.encoder.channel_fft import LENGTH, N_BINS, POINT_BYTES, transform, transform_back
from engine.kernels.encoder.waveform import NARROW_COLUMNS
from engine.kernels.layers.rows import copy_row
from engine.kernels.vector import simd
from engine.kernels.vector.gemm import NARROW_ROWS, TILE_COLUMNS, TILE_ROWS, bf16_narrow_tile, bf16_tile

HOP = LENGTH // 2
FEWEST_TAPS, MOST_TAPS = 64, LENGTH - HOP
ROWS_A_PAIR = 4  # real and imaginary parts at a frequency and at its negative
MOST_PAIRS = TILE_ROWS // ROWS_A_PAIR
LANES = 16
F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]


class PositionalSpectrum(NamedTuple):
    """The grouped convolution over time, transformed.

    Attributes:
        width: taps, FEWEST_TAPS to MOST_TAPS. n_groups: groups of size channels each.
        weight: bfloat16 bytes [group, bin, panel, size, panel columns, 2], conjugated, divided by 256; panels
            have 48 columns where size is a multiple of 48, else 32.
        bias: float32 [n_groups * size].
    """

    width: int
    n_groups: int
    weight: U8Array
    bias: F32Array


class SpectrumBuffers(NamedTuple):
    """Scratch of one thread, as bytes.

    Attributes:
        points: 256 points. rows: float32 [(2 MOST_PAIRS + 1) * 128, size].
        pairs: bfloat16 [129, 4 MOST_PAIRS, size, 2]. sums: float32 [129, 4 MOST_PAIRS, padded size]; both
            with slack for 12 more rows. zeros: float32 [48].
    """

    points: U8Array
    rows: U8Array
    pairs: U8Array
    sums: U8Array
    zeros: U8Array


@inner
def take_rows(hidden: F32Array, channel: int, size: int, start: int, n_rows: int, rows: int) -> None:
    """Channels of frames start to start + n_rows to the address rows; zeros where there is no such frame."""
    zero = simd.splat(np.float32(0.0))
    for row in range(n_rows):
        frame, target = start + row, rows + 4 * size * row
        if 0 <= frame < len(hidden):
            copy_row(address(hidden[frame, channel:]), size, target)
        else:
            for at in range(0, size, LANES):
                simd.store_f32(target + 4 * at, zero)


@inner
def multiply_bins(weight: int, size: int, n_rows: int, pairs: int, sums: int, zeros: int) -> None:
    """For each bin, n_rows rows of pairs times a group's matrix. Addresses."""
    columns = NARROW_COLUMNS if size % NARROW_COLUMNS == 0 else TILE_COLUMNS
    tile_rows = NARROW_ROWS if columns == NARROW_COLUMNS else TILE_ROWS
    n_panels = (size + columns - 1) // columns
    row_bytes, stride, right = 4 * size, 4 * columns * n_panels, weight
    for index in range(N_BINS):
        for panel in range(n_panels):
            following = right + 4 * size * columns
            for row in range(0, n_rows, tile_rows):
                left = pairs + (index * n_rows + row) * row_bytes
                target = sums + (index * n_rows + row) * stride + 4 * panel * columns
                if columns == NARROW_COLUMNS:
                    bf16_narrow_tile(left, row_bytes, right, size, target, stride, following, zeros)
                else:
                    bf16_tile(left, row_bytes, right, size, target, stride, following, zeros)
            right = following


@inner
def activate_frames(values: int, n_rows: int, bias: int, out: int, stride: int) -> None:
    """GELU of 16 channels of n_rows points' parts from the address values on, to rows stride apart."""
    shift = simd.load_f32(bias)
    for row in range(n_rows):
        value = simd.add(simd.load_f32(values + row * POINT_BYTES), shift)
        simd.store_f32(out + row * stride, simd.gelu(value))


@kernel
def convolve_spectrum(
    conv: PositionalSpectrum, hidden: F32Array, start: int, end: int, buffers: SpectrumBuffers, out: F32Array
) -> None:
    """Groups start to end of GELU of the positional convolution of hidden, into out (float32, same shape)."""
    n_frames, d = hidden.shape
    size = d // conv.n_groups
    columns = NARROW_COLUMNS if size % NARROW_COLUMNS == 0 else TILE_COLUMNS
    most = NARROW_ROWS // ROWS_A_PAIR if columns == NARROW_COLUMNS else MOST_PAIRS
    row_bytes, sum_bytes = 4 * size, 4 * columns * ((size + columns - 1) // columns)
    points, rows = address(buffers.points), address(buffers.rows)
    pairs, sums = address(buffers.pairs), address(buffers.sums)
    for group in range(start, end):
        weight = address(conv.weight) + group * N_BINS * size * sum_bytes
        for begin in range(0, n_frames, 2 * HOP * most):
            count = min(most, (n_frames - begin + 2 * HOP - 1) // (2 * HOP))
            n_rows = ROWS_A_PAIR * count
            take_rows(hidden, group * size, size, begin - conv.width // 2, (2 * count + 1) * HOP, rows)
            for pair in range(count):
                for at in range(0, size, LANES):
                    real = rows + 2 * HOP * pair * row_bytes + 4 * at
                    place = pairs + ROWS_A_PAIR * pair * row_bytes + 4 * at
                    transform(
                        real, real + HOP * row_bytes, row_bytes, points, place, row_bytes, n_rows * row_bytes
                    )
            multiply_bins(weight, size, n_rows, pairs, sums, address(buffers.zeros))
            for pair in range(count):
                for at in range(0, size, LANES):
                    place = sums + ROWS_A_PAIR * pair * sum_bytes + 4 * at
                    transform_back(place, sum_bytes, n_rows * sum_bytes, points)
                    channel = group * size + at
                    for part in range(2):
                        frame = begin + (2 * pair + part) * HOP
                        n_kept = min(HOP, n_frames - frame)
                        if n_kept > 0:
                            activate_frames(
                                points + part * (POINT_BYTES // 2), n_kept, address(conv.bias[channel:]),
                                address(out[frame:, channel:]), 4 * d,
                            )  # fmt: skip


@kernel
def pack_bins(spectrum: F32Array, size: int, weight: int) -> None:
    """float32 [129, 2 (real, imaginary), inputs, outputs] to a group's part of the weight, zeroed before."""
    columns = NARROW_COLUMNS if size % NARROW_COLUMNS == 0 else TILE_COLUMNS
    n_panels = (size + columns - 1) // columns
    source = address(spectrum)
    for index in range(N_BINS):
        for channel in range(size):
            real = source + 4 * size * (2 * index * size + channel)
            for at in range(0, size, LANES):
                step = (index * n_panels + at // columns) * size + channel
                place = weight + 4 * (step * columns + at % columns)
                value = simd.load_f32(real + 4 * at)
                simd.store_bf16_pairs(place, value, simd.load_f32(real + 4 * (size * size + at)))
