"""The scratch memory of a search: many arrays in one arena.

One function lays out the arrays from an address. For address 0 it gives the bytes that they need, since
nothing is read or written then: the size that is allocated and the places of the arrays cannot differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from engine.kernels._jit import address, inner
from engine.kernels.ctc.ngram import CONTEXT
from engine.kernels.ctc.pack import to_pointer
from engine.kernels.ctc.state import (
    BEAM,
    CANDIDATE,
    KNOWN_SCORE,
    N_ADOPTERS,
    N_COUNTS,
    N_KNOWN,
    TOKEN_NODE,
    WORD_NODE,
    Work,
)

_BEAM_BYTES, _CONTEXT_BYTES, _CANDIDATE_BYTES = BEAM.itemsize, CONTEXT.itemsize, CANDIDATE.itemsize
_TOKEN_BYTES, _WORD_BYTES, _KNOWN_BYTES = TOKEN_NODE.itemsize, WORD_NODE.itemsize, KNOWN_SCORE.itemsize
LINE = 64  # every array of the arena begins on a cache line


@inner(forceinline=True)
def carve(at: int, length: int, dtype: Any, itemsize: int) -> Any:
    """A view of `length` items from an address on, and the address of the next array."""
    return carray(to_pointer(at), length, dtype), (at + length * itemsize + LINE - 1) & -LINE


@inner(forceinline=True)
def aligned_start(arena: Any) -> Any:
    """The first address of an arena that begins a cache line."""
    return (address(arena) + LINE - 1) & -LINE


@inner
def check_end(end: int, arena: Any) -> None:
    """Refuse an arena that ends before the arrays in it do.

    Raises:
        RuntimeError: the arena is too small.
    """
    if end - address(arena) > len(arena):
        raise RuntimeError("the scratch arena of a search is smaller than its arrays")


@inner
def count_tokens(log_probs: Any, spoken: Any, token_min: float) -> Any:
    """The most tokens that any frame offers; at least 1."""
    most = 1
    for frame in range(len(log_probs)):
        n = 0
        for token in range(log_probs.shape[1]):
            n += (spoken[token] != 0) & (log_probs[frame, token] >= token_min)
        most = max(most, n)
    return most


@inner
def size_work(log_probs: Any, spoken: Any, search: Any) -> Any:
    """How many words of bits, candidates, contexts and states a search needs; bytes of its arena."""
    width, vocab_size = search.beam_width, log_probs.shape[1]
    n_tokens, n_words = count_tokens(log_probs, spoken, search.token_min), (width + 63) >> 6
    n_pairs = width * n_tokens
    n_candidates = n_pairs + width + 8  # groups of eight are written
    n_contexts, n_seen = 2 * width + N_KNOWN + n_pairs, 4
    while (search.recombine or search.pieces) and n_seen < 2 * n_candidates:
        n_seen *= 2
    sizes = (n_words * n_tokens, n_candidates, n_contexts, n_seen, 0)
    no_counts, _ = carve(np.int64(0), 0, np.int64, 8)
    _, _, _, n_bytes = lay_out(np.int64(0), vocab_size, width, sizes, no_counts)
    return n_words * n_tokens, n_candidates, n_contexts, n_seen, n_bytes + LINE


@inner(forceinline=True)
def lay_out(at: int, vocab_size: int, width: int, sizes: Any, counts: Any) -> Any:
    """The scratch of one search from an address on; nothing is written.

    Returns:
        Work, the beams' slots, spare contexts, and the address after all of them.
    """
    n_taken, n_candidates, n_contexts, n_seen, _ = sizes
    tokens, at = carve(at, vocab_size, np.int32, 4)
    probs, at = carve(at, vocab_size + 1, np.float64, 8)
    columns, at = carve(at, vocab_size + 1, np.int32, 4)
    blanks, at = carve(at, width, np.float64, 8)
    symbols, at = carve(at, width, np.float64, 8)
    factors, at = carve(at, width, np.float64, 8)
    bounds, at = carve(at, width, np.float64, 8)
    lms, at = carve(at, width, np.float64, 8)
    lasts, at = carve(at, width, np.uint32, 4)
    parents, at = carve(at, width, np.int32, 4)
    parent_keys, at = carve(at, width, np.uint64, 8)
    slots, at = carve(at, width, np.int32, 4)
    free, at = carve(at, 2 * width, np.int32, 4)
    weights, at = carve(at, width, np.float64, 8)
    taken, at = carve(at, n_taken, np.uint64, 8)
    reached, at = carve(at, (width + 63) >> 6, np.uint64, 8)
    held, at = carve(at, (width + 63) >> 6, np.uint64, 8)
    moved, at = carve(at, width + 1, np.int32, 4)
    sources, at = carve(at, width, np.int32, 4)
    retimed, at = carve(at, width, np.int32, 4)
    sums, at = carve(at, width, np.float32, 4)
    starts, at = carve(at, width, np.int32, 4)
    ended, at = carve(at, width, np.int32, 4)
    dropped, at = carve(at, width + 1, np.int32, 4)
    gains, at = carve(at, width, np.float64, 8)
    gain_lms, at = carve(at, width, np.float64, 8)
    places, at = carve(at, width, np.int32, 4)
    adopters, at = carve(at, N_ADOPTERS, np.uint64, 8)
    beams, at = carve(at, 2 * width, BEAM, _BEAM_BYTES)
    spare_contexts, at = carve(at, width, CONTEXT, _CONTEXT_BYTES)
    ranks, at = carve(at, n_candidates, np.float64, 8)
    new_blanks, at = carve(at, n_candidates, np.float64, 8)
    new_symbols, at = carve(at, n_candidates, np.float64, 8)
    new_factors, at = carve(at, n_candidates, np.float64, 8)
    chosen, at = carve(at, n_candidates, np.int32, 4)
    values, at = carve(at, n_candidates, np.float64, 8)
    candidates, at = carve(at, n_candidates, CANDIDATE, _CANDIDATE_BYTES)
    seen, at = carve(at, n_seen, np.int32, 4)
    table, at = carve(at, N_KNOWN, np.int32, 4)
    known, at = carve(at, n_contexts, KNOWN_SCORE, _KNOWN_BYTES)
    contexts, at = carve(at, n_contexts, CONTEXT, _CONTEXT_BYTES)
    work = Work(
        tokens, probs, columns, blanks, symbols, factors, bounds, lms, lasts, parents, parent_keys, slots,
        free, weights, taken, reached, held, moved, sources, retimed, sums, starts, ended, dropped, gains,
        gain_lms, places, adopters, candidates, ranks, new_blanks, new_symbols, new_factors, chosen, values,
        seen, table, known, contexts, counts,
    )  # fmt: skip
    return work, beams, spare_contexts, at


@inner(forceinline=True)
def carve_work(arena: Any, vocab_size: int, width: int, sizes: Any, counts: Any) -> Any:
    """Scratch of one search as views of the arena: Work, the beams' slots and spare contexts.

    Args:
        sizes: of size_work; the arena has the last of them in bytes.
        counts: int64 [N_COUNTS], outlives the scratch.
    Raises:
        RuntimeError: the arena is too small.
    """
    work, beams, spare_contexts, end = lay_out(aligned_start(arena), vocab_size, width, sizes, counts)
    check_end(end, arena)
    work.probs[:] = 0.0
    work.columns[:] = -1
    work.seen[:] = -1
    return work, beams, spare_contexts


@inner(forceinline=True)
def lay_out_whole(at: int, width: int, n_nodes: int, n_scratch: int) -> Any:
    """What the search of a whole utterance needs, from an address on; nothing is written.

    Returns:
        Beams, contexts, counts, the arena of the scratch, token nodes, word nodes; the address after them.
    """
    beams, at = carve(at, width, BEAM, _BEAM_BYTES)
    contexts, at = carve(at, width, CONTEXT, _CONTEXT_BYTES)
    counts, at = carve(at, N_COUNTS, np.int64, 8)
    scratch, at = carve(at, n_scratch, np.uint8, 1)
    token_nodes, at = carve(at, n_nodes, TOKEN_NODE, _TOKEN_BYTES)
    word_nodes, at = carve(at, n_nodes + width, WORD_NODE, _WORD_BYTES)
    return beams, contexts, counts, scratch, token_nodes, word_nodes, at


@inner
def size_whole(width: int, n_nodes: int, n_scratch: int) -> Any:
    """Bytes of the arena of a whole utterance."""
    _, _, _, _, _, _, n_bytes = lay_out_whole(np.int64(0), width, n_nodes, n_scratch)
    return n_bytes + LINE
