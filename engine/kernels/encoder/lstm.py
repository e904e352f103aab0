"""A bidirectional LSTM over the frames of one utterance; what the input contributes is computed before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import address, kernel
from engine.kernels.vector import simd
from engine.kernels.vector.gemm import bf16_vector_tile, vector_tile_columns

F32Array = NDArray[np.float32]
U8Array = NDArray[np.uint8]


@kernel
def run_direction(
    projected: F32Array, weight: U8Array, size: int, direction: int, out: F32Array
) -> None:  # fmt: skip
    """One direction: 0 forwards, 1 backwards.

    Args:
        projected: float32 [n_frames, 8 * size], input and bias of both directions; gates of a direction
            in the order input, output, forget, cell.
        weight: bfloat16 bytes of this direction, panels of vector_columns() over [size, 4 * size];
            4 * size is a multiple of 128.
        out: float32 [n_frames, 2 * size]; this direction's half is written.
    """
    n_frames = len(projected)
    gates = np.empty(4 * size, np.float32)
    cell, state = np.zeros(size, np.float32), np.zeros(size, np.uint16)
    columns = vector_tile_columns()
    n_steps, n_panels = size // 2, 4 * size // columns
    for index in range(n_frames):
        g, c = address(gates), address(cell)  # inside: numba frees an array behind its last use
        frame = index if direction == 0 else n_frames - 1 - index
        start = address(projected[frame, direction * 4 * size :])
        for turn in range(n_panels):
            # There and back: what was read last may still be in the core's cache, which cannot hold all.
            panel = turn if index % 2 == 0 else n_panels - 1 - turn
            column = 4 * columns * panel
            right = address(weight) + column * n_steps
            bf16_vector_tile(address(state), 0, right, n_steps, g + column, 0, right, start + column)
        target = address(out[frame, direction * size :])
        for at in range(0, size, 16):
            place = 4 * at
            enter = simd.sigmoid(simd.load_f32(g + place))
            leave = simd.sigmoid(simd.load_f32(g + 4 * size + place))
            keep = simd.sigmoid(simd.load_f32(g + 8 * size + place))
            fresh = simd.tanh(simd.load_f32(g + 12 * size + place))
            total = simd.fma(keep, simd.load_f32(c + place), simd.multiply(enter, fresh))
            value = simd.multiply(leave, simd.tanh(total))
            simd.store_f32(c + place, total)
            simd.store_f32(target + place, value)
            simd.store_bf16(address(state) + 2 * at, value)
