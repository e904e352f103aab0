"""The calls that run a CTC beam search: whole utterances at once, or begin, advance and finish.

Each takes a PACK instead of the search's arrays, and works on views of what it is given and of one
arena that holds all scratch: see engine.kernels.ctc.pack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.beam import finish_search, run_frames, start_search
from engine.kernels.ctc.emissions import FINE, check_log_probs
from engine.kernels.ctc.ngram import CONTEXT
from engine.kernels.ctc.pack import (
    borrow,
    to_pointer,
    unpack_hotwords,
    unpack_lexicon,
    unpack_scorer,
    unpack_search,
    unpack_spoken,
)
from engine.kernels.ctc.state import (
    BEAM,
    CANDIDATE,
    KNOWN_SCORE,
    N_ADOPTERS,
    N_COUNTS,
    N_KNOWN,
    N_WORD_NODES,
    TOKEN_NODE,
    WORD_NODE,
    Work,
)
from engine.kernels.ctc.trace import trace_words

_BEAM_BYTES, _CONTEXT_BYTES, _CANDIDATE_BYTES = BEAM.itemsize, CONTEXT.itemsize, CANDIDATE.itemsize
_TOKEN_BYTES, _WORD_BYTES, _KNOWN_BYTES = TOKEN_NODE.itemsize, WORD_NODE.itemsize, KNOWN_SCORE.itemsize
_LINE = 64  # every array of the arena begins on a cache line
_N_ARRAYS = 39


@inner
def count_tokens(log_probs: Any, spoken: Any, token_min: float) -> Any:
    """The most tokens that any frame offers; at least 1."""
    most = 1
    for frame in range(len(log_probs)):
        n = 0
        for token in range(log_probs.shape[1]):
            n += spoken[token] != 0 and log_probs[frame, token] >= token_min
        most = max(most, n)
    return most


@inner
def size_work(log_probs: Any, spoken: Any, search: Any) -> Any:
    """How many words of bits, candidates, contexts and states a search needs; bytes of scratch."""
    width, vocab_size = search.beam_width, log_probs.shape[1]
    n_tokens, n_words = count_tokens(log_probs, spoken, search.token_min), (width + 63) >> 6
    n_pairs = width * n_tokens
    n_candidates = n_pairs + width + 8  # groups of eight are written
    n_contexts, n_seen = 2 * width + N_KNOWN + n_pairs, 4
    while search.recombine and n_seen < 2 * n_candidates:
        n_seen *= 2
    n_bytes = 16 * (vocab_size + 1) + (2 * _BEAM_BYTES + 120) * (width + 1) + 8 * N_ADOPTERS
    n_bytes += (
        8 * n_words * (n_tokens + 2) + (_CANDIDATE_BYTES + 44) * n_candidates + 4 * n_seen + 4 * N_KNOWN
    )
    n_bytes += _CONTEXT_BYTES * width + (_KNOWN_BYTES + _CONTEXT_BYTES) * n_contexts
    return n_words * n_tokens, n_candidates, n_contexts, n_seen, n_bytes + _N_ARRAYS * _LINE


@inner(forceinline=True)
def carve(address: int, length: int, dtype: Any, itemsize: int) -> Any:
    """A view of the arena's next `length` items, and the address behind them."""
    return carray(to_pointer(address), length, dtype), (address + length * itemsize + _LINE - 1) & -_LINE


@inner(forceinline=True)
def carve_work(arena: Any, vocab_size: int, width: int, sizes: Any, counts: Any) -> Any:
    """Scratch of one search as views of the arena: Work, the beams' slots and spare contexts."""
    n_taken, n_candidates, n_contexts, n_seen, _ = sizes
    at = (arena.ctypes.data + _LINE - 1) & -_LINE
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
    dropped, at = carve(at, width + 1, np.int32, 4)
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
    probs[:] = 0.0
    columns[:] = -1
    seen[:] = -1
    work = Work(
        tokens, probs, columns, blanks, symbols, factors, bounds, lms, lasts, parents, parent_keys, slots,
        free, weights, taken, reached, held, moved, sources, retimed, sums, starts, dropped, places,
        adopters, candidates, ranks, new_blanks, new_symbols, new_factors, chosen, values, seen, table, known,
        contexts, counts,
    )  # fmt: skip
    return work, beams, spare_contexts


@kernel
def begin(pack: Any, beams: Any, contexts: Any) -> None:
    """Make beam 0 the empty prefix at the start of an utterance."""
    start_search(
        beams,
        contexts,
        unpack_search(pack[0]),
        unpack_scorer(pack[0]),
        unpack_lexicon(pack[0]),
        unpack_hotwords(pack[0]),
    )


@kernel
def advance(
    pack: Any, log_probs: Any, first_frame: int, beams: Any, contexts: Any, n: int, scale: float,
    token_nodes: Any, word_nodes: Any, counts: Any,
) -> Any:  # fmt: skip
    """Carry the beams through the frames of one chunk; see run_frames for arguments and result.

    counts: int64 [N_COUNTS]; how much of the trees is in use.
    """
    sizes = size_pack(pack, log_probs)
    arena = np.empty(sizes[4], np.uint8)
    n, scale = advance_in(
        arena, sizes, pack, log_probs, first_frame, borrow(beams, BEAM), borrow(contexts, CONTEXT), n, scale,
        borrow(token_nodes, TOKEN_NODE), borrow(word_nodes, WORD_NODE), borrow(counts, np.int64),
    )  # fmt: skip
    arena[0] = 0  # it has to live until here
    return n, scale


@inner(forceinline=True)
def size_pack(pack: Any, log_probs: Any) -> Any:
    """size_work of a PACK."""
    return size_work(log_probs, unpack_spoken(pack[0]), unpack_search(pack[0]))


@inner
def advance_in(
    arena: Any, sizes: Any, pack: Any, log_probs: Any, first_frame: int, records: Any, contexts: Any, n: int,
    scale: float, token_nodes: Any, word_nodes: Any, counts: Any,
) -> Any:  # fmt: skip
    """`advance` on views, with an arena of sizes[4] bytes for its scratch."""
    search = unpack_search(pack[0])
    work, beams, spare_contexts = carve_work(arena, log_probs.shape[1], search.beam_width, sizes, counts)
    return run_frames(
        log_probs, first_frame, unpack_spoken(pack[0]), search, unpack_scorer(pack[0]),
        unpack_lexicon(pack[0]), unpack_hotwords(pack[0]), records, contexts, beams, spare_contexts, n,
        scale, token_nodes, word_nodes, work,
    )  # fmt: skip


@kernel
def finish(
    pack: Any, beams: Any, contexts: Any, n: int, token_nodes: Any, word_nodes: Any, counts: Any, n_best: int,
    scale: float, frame_s: float,
) -> Any:  # fmt: skip
    """End an utterance.

    Args:
        word_nodes: with room for n more.
        scale: natural log that the search took out of all weights.
        frame_s: seconds per frame.
    Returns:
        How many readings there are, up to n_best; and, best first, the result of trace_words for
        them, with the acoustic scores of all and then their language model scores.
    """
    finals = finish_search(
        beams, contexts, n, unpack_search(pack[0]), unpack_scorer(pack[0]), unpack_hotwords(pack[0]),
        word_nodes, counts,
    )  # fmt: skip
    n_finals = min(len(finals), n_best)
    scores, leaves = np.empty(2 * n_finals), np.empty(n_finals, np.int32)
    for i in range(n_finals):
        scores[i], scores[n_finals + i] = finals[i].acoustic + scale, finals[i].lm
        leaves[i] = finals[i].word_node
    numbers, values = trace_words(leaves, word_nodes, counts[N_WORD_NODES], token_nodes, frame_s, scores)
    return n_finals, numbers, values


@kernel(inline="always")
def search_whole(pack: Any, log_probs: Any, n_best: int, frame_s: float, arena: Any) -> Any:
    """Search one whole utterance.

    Args:
        arena: uint8, any size: scratch from an earlier call. One that is too small is not used.
    Returns:
        What check_log_probs says, the size that the arena should have had, and the result of
        `finish`, which is empty where the first is not FINE.
    """
    fault = check_log_probs(log_probs)
    if fault != FINE:
        return fault, 0, (0, np.empty(0, np.int64), np.empty(0))
    width, n_frames = pack[0].beam_width, len(log_probs)
    n_nodes, sizes = n_frames * width, size_pack(pack, log_probs)
    n_bytes = width * (_BEAM_BYTES + _CONTEXT_BYTES) + n_nodes * _TOKEN_BYTES + 8 * _LINE
    n_bytes += (n_nodes + width) * _WORD_BYTES + 8 * N_COUNTS + sizes[4]
    if len(arena) < n_bytes:
        arena = np.empty(n_bytes, np.uint8)
    at = (arena.ctypes.data + _LINE - 1) & -_LINE
    beams, at = carve(at, width, BEAM, _BEAM_BYTES)
    contexts, at = carve(at, width, CONTEXT, _CONTEXT_BYTES)
    counts, at = carve(at, N_COUNTS, np.int64, 8)
    scratch, at = carve(at, sizes[4], np.uint8, 1)
    token_nodes, at = carve(at, n_nodes, TOKEN_NODE, _TOKEN_BYTES)
    word_nodes, at = carve(at, n_nodes + width, WORD_NODE, _WORD_BYTES)
    counts[:] = 0
    begin(pack, beams, contexts)
    n, scale = advance_in(
        scratch,
        sizes,
        pack,
        log_probs,
        np.int64(0),
        beams,
        contexts,
        np.int64(1),
        0.0,
        token_nodes,
        word_nodes,
        counts,
    )
    found = finish(pack, beams, contexts, n, token_nodes, word_nodes, counts, n_best, scale, frame_s)
    arena[0] = 0  # it has to live until here
    return fault, n_bytes, found
