"""The scratch memory of the beam search: an arena of exactly the size that is asked for is enough, a smaller
one is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoding import CtcBeamDecoder
from engine.decoding.beam import make_key
from engine.kernels._jit import kernel
from engine.kernels.ctc.batch import search_several
from engine.kernels.ctc.scratch import LINE, carve, carve_work, lay_out

pytestmark = pytest.mark.levels

BINARY = Path(__file__).resolve().parents[1] / "data" / "decoder" / "tiny.probing.bin"
LABELS = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyz")
NO_OFFSETS = np.empty(0, np.int64)
GUARD = 0xA5
DECODERS = {merging: CtcBeamDecoder(LABELS, BINARY, merging=merging) for merging in ("prefix", "pyctcdecode")}


@kernel
def carve_from(arena: Any, counts: Any) -> int:
    """Lay the scratch of a small search out in an arena; the bytes that it needs for an aligned one."""
    sizes = (3, 40, 600, 128, 0)
    carve_work(arena, 28, 10, sizes, counts)
    no_counts, _ = carve(np.int64(0), 0, np.int64, 8)
    _, _, _, n_bytes = lay_out(np.int64(0), 28, 10, sizes, no_counts)
    return n_bytes


def aligned_arena(n_bytes: int) -> np.ndarray:
    memory = np.zeros(n_bytes + LINE, np.uint8)
    return memory[-memory.ctypes.data % LINE :][:n_bytes]


def test_an_arena_that_is_too_small_is_an_error() -> None:
    counts = np.zeros(6, np.int64)
    needed = carve_from(aligned_arena(1 << 20), counts)
    assert carve_from(aligned_arena(needed), counts) == needed
    with pytest.raises(RuntimeError, match="arena"):
        carve_from(aligned_arena(needed - 1), counts)
    with pytest.raises(RuntimeError, match="arena"):
        carve_from(aligned_arena(0), counts)


@settings(max_examples=40, deadline=None)
@given(
    merging=st.sampled_from(sorted(DECODERS)),
    beam_width=st.sampled_from([1, 2, 63, 64, 65, 130]),
    n_frames=st.integers(0, 30),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    shift=st.integers(0, LINE),
    seed=st.integers(0, 99),
)
def test_nothing_is_written_outside_an_arena_of_the_size_asked_for(
    merging: str, beam_width: int, n_frames: int, spread: float, shift: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, spread, (n_frames, len(LABELS)))
    log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    prepared = DECODERS[merging]._prepare(make_key(beam_width, 5, ("zug",), 2.0, None, None))

    def search(arena: np.ndarray) -> Any:
        return search_several(prepared.pack, log_probs, NO_OFFSETS, 5, 0.02, arena)

    *expected, n_bytes = search(np.empty(0, np.uint8))
    memory = np.full(n_bytes + 4 * LINE, GUARD, np.uint8)
    arena = memory[shift : shift + n_bytes]
    *found, again = search(arena)
    assert again == n_bytes
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (memory[:shift] == GUARD).all()
    assert (memory[shift + n_bytes :] == GUARD).all()
    assert n_frames == 0 or (arena != GUARD).any()  # and the arena was used
