"""An order of a layer's steps in which most can be joined two by two (engine.kernels.vector.ordered_tile).

A step's codes make sums of two products in 16 bits, at a place for every pair of codes. The sums of two steps
fit together where at every place the positive codes of both make at most 128, and the negative ones at least
-128: 255 * 128 < 2**15. Half the steps of a trained layer do not fit their neighbour, but nearly every one
fits another. As sums of whole numbers do not depend on their order, results are the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import kernel
from engine.kernels.vector.gemm import STEP_BYTES
from engine.kernels.vector.ordered_tile import AT_ONCE, ORDERED_COLUMNS

MOST_SUM = 128
MOST_TRIES = 64  # others that a step is compared with: a layer where nothing fits must not take forever
PLACES = 2 * ORDERED_COLUMNS  # of a step: pairs of codes
I32Array = NDArray[np.int32]
U8Array = NDArray[np.uint8]


@kernel
def sum_signs(codes: NDArray[np.int8], sums: U8Array, rooms: U8Array) -> None:
    """What the codes of each sign make at every place, and what is left to 128.

    Args:
        codes: pair-safe, int8 [n_steps, 16 * 4]. sums, rooms: uint8 [n_steps, 64], positive codes first.
    """
    for step in range(len(codes)):
        for place in range(PLACES):
            first, second = int(codes[step, 2 * place]), int(codes[step, 2 * place + 1])
            above, below = max(first, 0) + max(second, 0), -min(first, 0) - min(second, 0)
            sums[step, place], sums[step, PLACES + place] = above, below
            rooms[step, place], rooms[step, PLACES + place] = MOST_SUM - above, MOST_SUM - below


@kernel
def fits(sums: U8Array, rooms: U8Array) -> bool:
    """Whether one step's sums fit into what another leaves."""
    beyond = False
    for place in range(2 * PLACES):
        beyond |= sums[place] > rooms[place]
    return not beyond


@kernel
def order_steps(codes: NDArray[np.int8], order: I32Array) -> None:
    """Join steps two by two: those with the largest codes first, each with the smallest that it fits.

    Args:
        codes: pair-safe, int8 [n_steps, 16 * 4].
        order: int32 [1 + n_steps], written: how many steps are joined, a multiple of 4, and the steps, those
            first.
    """
    n_steps = len(codes)
    sums, rooms = np.empty((n_steps, 2 * PLACES), np.uint8), np.empty((n_steps, 2 * PLACES), np.uint8)
    sum_signs(codes, sums, rooms)
    sizes = np.zeros(n_steps, np.int64)
    for step in range(n_steps):
        for place in range(2 * PLACES):
            sizes[step] += np.int64(sums[step, place]) ** 2
    by_size = np.argsort(sizes, kind="mergesort")
    # The steps that are left, from the smallest to the largest, as a chain: a step's neighbour on each side.
    smaller, larger = np.arange(n_steps + 2) - 1, np.arange(n_steps + 2) + 1
    n_joined, n_single, largest = 0, 0, n_steps
    while largest > 0:
        step, other, n_tries = by_size[largest - 1], larger[0], 0
        while other != largest and not fits(sums[step], rooms[by_size[other - 1]]):
            other, n_tries = larger[other], n_tries + 1
            if n_tries == MOST_TRIES:
                other = largest
        if other == largest:
            n_single += 1
            order[1 + n_steps - n_single] = step
        else:
            order[1 + n_joined], order[2 + n_joined] = step, by_size[other - 1]
            n_joined += 2
            larger[smaller[other]], smaller[larger[other]] = larger[other], smaller[other]
        largest = smaller[largest]
        larger[largest] = n_steps + 1
    order[0] = n_joined // AT_ONCE * AT_ONCE


def put_in_order(codes: NDArray[np.int8]) -> tuple[NDArray[np.int8], I32Array]:
    """Pack a pair-safe matrix int8 [n_in, n_out] for ordered tiles.

    n_in is a multiple of 4, n_out of 16.

    Returns:
        int8 [panel of 16 columns, step, 16, 4], steps in their order; and int32 [panel, 1 + n_steps], see
        engine.kernels.vector.ordered_tile.
    """
    n_in, n_out = codes.shape
    n_steps = n_in // STEP_BYTES
    split = codes.reshape(n_steps, STEP_BYTES, n_out // ORDERED_COLUMNS, ORDERED_COLUMNS)
    panels = np.ascontiguousarray(split.transpose(2, 0, 3, 1)).reshape(-1, n_steps, 2 * PLACES)
    order = np.zeros((len(panels), 1 + n_steps), np.int32)
    for panel, row in zip(panels, order, strict=True):
        order_steps(panel, row)
        panel[:] = panel[row[1:]]
        row[1:] *= STEP_BYTES
    return panels, order
