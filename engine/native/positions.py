"""wav2vec2's positional convolution: read, packed in one of two forms, and run over an utterance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import PositionalConvSpec
from engine.kernels.encoder.channel_fft import LENGTH, N_BINS
from engine.kernels.encoder.positional_fft import (
    FEWEST_TAPS,
    HOP,
    MOST_PAIRS,
    MOST_TAPS,
    ROWS_A_PAIR,
    PositionalSpectrum,
    SpectrumBuffers,
    convolve_spectrum,
    pack_bins,
)
from engine.kernels.encoder.waveform import NARROW_COLUMNS, PositionalConv, convolve_positions
from engine.kernels.layers.dense import to_bf16
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.native.packing import aligned, aligned_bytes
from engine.native.weights import Weights, beyond_kernels, expect
from engine.native.workers import Workers

F32Array = NDArray[np.float32]
Positions = PositionalConv | PositionalSpectrum
LANES = 16


def read_positional_conv(weights: Weights, spec: PositionalConvSpec, d: int) -> Positions:
    """The grouped convolution over time, d channels, padded to keep the length; either form of the exporter.

    Raises:
        LayoutError: groups that the kernels do not take, or weights of another shape.
    """
    expect("channels of the positional convolution", spec.n_channels, d)
    size = d // spec.n_groups
    if not size or size % LANES or spec.n_groups * size != d:
        raise beyond_kernels(f"{spec.n_groups} groups over {d} channels")
    read = _read_blocks if spec.block_taps else _read_plain
    return pack_positions(read(weights, spec, size), weights.vector(spec.bias, d))


def _read_plain(weights: Weights, spec: PositionalConvSpec, size: int) -> F32Array:
    weight = weights.array(spec.weight, (spec.n_channels, size, spec.width))
    matrices = weight.reshape(spec.n_groups, size, size, spec.width).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(matrices, np.float32)


def _read_blocks(weights: Weights, spec: PositionalConvSpec, size: int) -> F32Array:
    """The inverse of what the exporter does to the weights."""
    taps, n_blocks = spec.block_taps, spec.width // spec.block_taps
    expect("taps of the positional convolution's blocks", taps * n_blocks, spec.width)
    blocks = weights.array(spec.weight, (spec.n_groups, taps * size, n_blocks * size))
    split = blocks.reshape(spec.n_groups, taps, size, n_blocks, size)
    matrices = split.transpose(0, 3, 1, 2, 4).reshape(spec.n_groups, spec.width, size, size)
    return matrices.astype(np.float32)


def pack_positions(matrices: F32Array, bias: F32Array) -> Positions:
    """The form that is faster for so many taps.

    Args:
        matrices: float32 [n_groups, width, inputs, outputs]. bias: float32 [n_groups * outputs].
    """
    if FEWEST_TAPS <= matrices.shape[1] <= MOST_TAPS:
        return pack_spectrum(matrices, bias)
    return pack_taps(matrices, bias)


def pack_taps(matrices: F32Array, bias: F32Array) -> PositionalConv:
    """As one product over windows; arguments as pack_positions."""
    n_groups, width, size, _ = matrices.shape
    rows = matrices.reshape(n_groups, width * size, size)
    columns, padded = _panels(size)
    bits = to_bf16(np.pad(rows, ((0, 0), (0, 0), (0, padded - size))))
    packed = aligned(bits.reshape(n_groups, -1, 2, padded // columns, columns).transpose(0, 3, 1, 4, 2))
    return PositionalConv(width, n_groups, packed, bias)


def pack_spectrum(matrices: F32Array, bias: F32Array) -> PositionalSpectrum:
    """As products at 129 frequencies; arguments as pack_positions."""
    n_groups, width, size, _ = matrices.shape
    angles = 2 * np.pi * np.outer(np.arange(N_BINS), np.arange(width)) / LENGTH
    table = (np.stack([np.cos(angles), np.sin(angles)], axis=1) / LENGTH).astype(np.float32)
    weight = aligned_bytes(n_groups * N_BINS * size * _panels(size)[1] * 4)
    for group, taps in enumerate(matrices):
        spectrum = table.reshape(-1, width) @ taps.reshape(width, -1)
        pack_bins(spectrum, size, weight.ctypes.data + group * (weight.size // n_groups))
    return PositionalSpectrum(width, n_groups, weight, bias)


def _panels(size: int) -> tuple[int, int]:
    """Columns of a panel, and of all that hold so many channels."""
    columns = NARROW_COLUMNS if size % NARROW_COLUMNS == 0 else TILE_COLUMNS
    return columns, -(-size // columns) * columns


def convolve(conv: Positions, hidden: F32Array, workers: Workers) -> F32Array:
    """GELU of the positional convolution of one utterance; float32, as hidden [n_frames, d]."""
    out = np.empty_like(hidden)
    n_frames, d = hidden.shape
    size = d // conv.n_groups
    if isinstance(conv, PositionalSpectrum):
        spectra = [make_spectrum_buffers(size, n_frames) for _ in range(workers.count)]
        workers.share(
            conv.n_groups, 1, lambda w, a, b: convolve_spectrum(conv, hidden, a, b, spectra[w], out)
        )
        return out
    n_rows = n_frames + conv.width + TILE_ROWS
    rows = [np.zeros(n_rows * size, np.uint16) for _ in range(workers.count)]
    workers.share(conv.n_groups, 1, lambda w, a, b: convolve_positions(conv, hidden, a, b, rows[w], out))
    return out


def make_spectrum_buffers(size: int, n_frames: int) -> SpectrumBuffers:
    """Scratch of one thread for groups of size channels."""
    n_pairs = min(MOST_PAIRS, -(-n_frames // (2 * HOP)))
    n_rows = N_BINS * ROWS_A_PAIR * n_pairs + TILE_ROWS
    return SpectrumBuffers(
        points=aligned_bytes(LENGTH * 2 * LANES * 4),
        rows=aligned_bytes((2 * n_pairs + 1) * HOP * size * 4),
        pairs=aligned_bytes(n_rows * size * 4),
        sums=aligned_bytes(n_rows * _panels(size)[1] * 4),
        zeros=aligned_bytes(NARROW_COLUMNS * 4),
    )
