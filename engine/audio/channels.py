"""Several channels -> one, without losing speech that cancels out in the sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Of the power that unrelated channels keep when they are averaged. Below it they cancel each other:
# for two channels of equal level this is a correlation under -0.9.
CANCELLED: Final = 0.1
QUIET: Final = 1e-8  # power (-80 dB): dither is no speech, whatever its channels do
BLOCK_FRAMES: Final = 1 << 16  # the choice is made anew, as a call or a film may invert only a part
CANCELLED_NOTE: Final = (
    "the channels cancel each other (one is inverted): one channel is used, not their mean"
)


SAME: Final = 1e-4  # of the louder one's power: by so little a copy may differ


def drop_copies(waveforms: Sequence[NDArray[np.float32]]) -> tuple[list[int], str]:
    """The channels of which none is a copy of another, and a note where some are.

    Args:
        waveforms: float32 [n_samples] each, of equal lengths.
    Returns:
        Indices of the channels to keep, the first of those that are alike; "" where all are kept.
    """
    kept: list[int] = []
    for number, waveform in enumerate(waveforms):
        if not any(_is_copy(waveforms[other], waveform) for other in kept):
            kept.append(number)
    n_copies = len(waveforms) - len(kept)
    note = f"{n_copies} of {len(waveforms)} channels are copies of another one; they are left out"
    return kept, note if n_copies else ""


def _is_copy(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether one is the other, inverted or not."""
    powers = float(np.dot(first, first)), float(np.dot(second, second))
    apart = powers[0] + powers[1] - 2 * abs(float(np.dot(first, second)))
    return apart <= SAME * max(powers) and max(powers) > 0


def mix_channels(samples: NDArray[Any]) -> tuple[NDArray[np.float32], bool]:
    """Average channels; where they cancel each other, take the loudest one instead.

    Args:
        samples: float32 [n_samples, n_channels].
    Returns:
        float32 [n_samples], and whether the channels cancelled each other anywhere.
    """
    if samples.shape[1] == 1:
        return samples[:, 0], False
    with np.errstate(over="ignore", invalid="ignore"):  # refused later, as values that are not finite
        mixed = samples.mean(axis=1, dtype=np.float32)
    cancelled = False
    for first in range(0, len(samples), BLOCK_FRAMES):
        part = slice(first, first + BLOCK_FRAMES)
        channel = _find_cancelled(samples[part], mixed[part])
        if channel is not None:
            mixed[part] = samples[part, channel]
            cancelled = True
    return mixed, cancelled


def _find_cancelled(block: NDArray[np.float32], mean: NDArray[np.float32]) -> int | None:
    """The loudest channel of a block whose channels cancel each other, else None."""
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.einsum("ij,ij->j", block, block, dtype=np.float64) / len(block)
        power = float(np.einsum("i,i->", mean, mean, dtype=np.float64)) / len(block)
    unrelated = float(powers.sum()) / block.shape[1] ** 2
    if not np.isfinite(unrelated) or unrelated < QUIET or power >= CANCELLED * unrelated:
        return None
    return int(np.argmax(powers))
