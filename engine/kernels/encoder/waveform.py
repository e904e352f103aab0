"""wav2vec2's front end for one utterance: convolutions in chunks of time, projection, positions.

A chunk of final frames is taken through all convolutions before the next one starts, so that the rows
between them (3,200 a second at the first) never leave the core's cache; the overlap costs one percent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, kernel
from engine.kernels.encoder.attention import pack_queries
from engine.kernels.encoder.conv_rows import (
    Conv,
    ConvBuffers,
    FirstConv,
    convolve_last,
    convolve_rows,
    start_rows,
)
from engine.kernels.encoder.layer import BLOCK_ROWS, Norm, Scratch, dense_rows, normalize_rows
from engine.kernels.layers.dense import Dense
from engine.kernels.layers.rows import add_row, copy_row, gelu_row
from engine.kernels.vector.gemm import NARROW_ROWS, TILE_COLUMNS, TILE_ROWS, bf16_narrow_tile, bf16_tile

CHUNK_FRAMES = 24
NARROW_COLUMNS = 48
F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]
U16Array = NDArray[np.uint16]


@kernel
def convolve_frames(
    first: FirstConv, convs: tuple[Conv, ...], waveform: F32Array, buffers: ConvBuffers,
    start: int, end: int, out: F32Array,
) -> None:  # fmt: skip
    """Frames start to end of the convolutions, float32 [n_frames, n_channels]."""
    n_convs = len(convs)
    begins, counts = np.zeros(n_convs + 1, np.int64), np.zeros(n_convs + 1, np.int64)
    for frame in range(start, end, CHUNK_FRAMES):
        begins[n_convs], counts[n_convs] = frame, min(CHUNK_FRAMES, end - frame)
        for index in range(n_convs - 1, -1, -1):
            conv = convs[index]
            begins[index] = begins[index + 1] * conv.stride
            counts[index] = (counts[index + 1] - 1) * conv.stride + conv.width
        start_rows(
            first, waveform, begins[0], counts[0], convs[0].kind,
            buffers.first, buffers.first_scale, buffers.first_offset, buffers,
        )  # fmt: skip
        swap = False
        for index in range(n_convs - 1):
            conv, kind, count = convs[index], convs[index + 1].kind, counts[index + 1]
            if swap:
                convolve_rows(
                    conv, buffers.second, buffers.second_scale, buffers.second_offset, count, kind,
                    buffers.first, buffers.first_scale, buffers.first_offset, buffers,
                )  # fmt: skip
            else:
                convolve_rows(
                    conv, buffers.first, buffers.first_scale, buffers.first_offset, count, kind,
                    buffers.second, buffers.second_scale, buffers.second_offset, buffers,
                )  # fmt: skip
            swap = not swap
        target = address(out[frame:])
        last, count = convs[n_convs - 1], counts[n_convs]
        if swap:
            convolve_last(
                last, buffers.second, buffers.second_scale, buffers.second_offset, count, target, buffers
            )
        else:
            convolve_last(
                last, buffers.first, buffers.first_scale, buffers.first_offset, count, target, buffers
            )


@kernel
def project_frames(
    has_norm: bool, norm: Norm, layer: Dense, frames: F32Array, scratch: Scratch, start: int, end: int,
    hidden: F32Array,
) -> None:  # fmt: skip
    """The feature projection of frames start to end; frames are normalised in place."""
    n, d = frames.shape[1], hidden.shape[1]
    stride = scratch.narrow.strides[0]
    for at in range(start, end, BLOCK_ROWS):
        count = min(BLOCK_ROWS, end - at)
        source, target = address(frames[at:]), address(scratch.narrow)
        if has_norm:
            normalize_rows(norm, source, 4 * n, count, n, source, 4 * n)
        dense_rows(layer, source, 4 * n, count, scratch, target, stride)
        for row in range(count):
            copy_row(target + row * stride, d, address(hidden[at + row :]))


class PositionalConv(NamedTuple):
    """The grouped convolution over time.

    Attributes:
        width: taps. n_groups: groups of size channels each.
        weight: bfloat16 bytes [group, panel, width * size / 2, panel columns, 2]; panels have 48
            columns where size is a multiple of 48, else 32.
        bias: float32 [n_groups * size].
    """

    width: int
    n_groups: int
    weight: U8Array
    bias: F32Array


@kernel
def convolve_positions(
    conv: PositionalConv, hidden: F32Array, start: int, end: int, rows: U16Array, out: F32Array
) -> None:
    """Groups start to end of GELU of the positional convolution of hidden, into out (float32, same shape).

    rows: scratch of one thread, uint16 [(n_frames + width + 12) * size], zeroed.
    """
    n_frames, d = hidden.shape
    size = d // conv.n_groups
    columns = NARROW_COLUMNS if size % NARROW_COLUMNS == 0 else TILE_COLUMNS
    tile_rows = NARROW_ROWS if columns == NARROW_COLUMNS else TILE_ROWS
    n_panels, n_steps = (size + columns - 1) // columns, conv.width * size // 2
    tile = np.zeros((TILE_ROWS, columns * n_panels), np.float32)
    zeros = np.zeros(NARROW_COLUMNS, np.float32)
    stride = 4 * columns * n_panels
    for group in range(start, end):
        for frame in range(n_frames):
            target = address(rows[(frame + conv.width // 2) * size :])
            pack_queries(address(hidden[frame, group * size :]), size, 0, np.float32(1.0), target)
        for row in range(0, n_frames, tile_rows):
            left = address(rows[row * size :])
            base = address(tile)  # inside: numba frees an array behind its last use
            for panel in range(n_panels):
                right = address(conv.weight) + 4 * (group * n_panels + panel) * n_steps * columns
                place = base + 4 * panel * columns
                if columns == NARROW_COLUMNS:
                    bf16_narrow_tile(left, 2 * size, right, n_steps, place, stride, right, address(zeros))
                else:
                    bf16_tile(left, 2 * size, right, n_steps, place, stride, right, address(zeros))
            for line in range(min(tile_rows, n_frames - row)):
                add_row(base + line * stride, address(conv.bias[group * size :]), size)
                gelu_row(base + line * stride, size)
                copy_row(base + line * stride, size, address(out[row + line, group * size :]))


@kernel
def add_positions(
    hidden: F32Array, positions: F32Array, has_norm: bool, norm: Norm, start: int, end: int
) -> None:  # fmt: skip
    """hidden += positions for rows start to end, and the norm behind it where it comes before the layers."""
    d = hidden.shape[1]
    for row in range(start, end):
        add_row(address(hidden[row:]), address(positions[row:]), d)
    if has_norm:
        source = address(hidden[start:])
        normalize_rows(norm, source, 4 * d, end - start, d, source, 4 * d)
