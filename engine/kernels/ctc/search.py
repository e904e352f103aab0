"""The calls that run a CTC beam search: whole utterances at once, or begin, advance and finish.

Each takes a PACK instead of the search's arrays (see engine.kernels.ctc.pack), and works on views of its
arguments and of one arena that holds all scratch (see engine.kernels.ctc.scratch).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.beam import finish_search, run_frames, start_search
from engine.kernels.ctc.emissions import FINE, check_log_probs
from engine.kernels.ctc.ngram import CONTEXT
from engine.kernels.ctc.pack import (
    borrow,
    unpack_hotwords,
    unpack_lexicon,
    unpack_pieces,
    unpack_scorer,
    unpack_search,
    unpack_spoken,
)
from engine.kernels.ctc.scratch import (
    aligned_start,
    carve_work,
    check_end,
    lay_out_whole,
    size_whole,
    size_work,
)
from engine.kernels.ctc.state import BEAM, N_WORD_NODES, TOKEN_NODE, WORD_NODE
from engine.kernels.ctc.trace import trace_words


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
        log_probs, first_frame, unpack_pieces(pack[0]), search, unpack_scorer(pack[0]),
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
        The number of hypotheses, up to n_best; and, best first, the result of trace_words for
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
        The result of check_log_probs, the size that the arena needed, and the result of `finish`,
        which is empty where the first is not FINE.
    """
    fault = check_log_probs(log_probs)
    if fault != FINE:
        return fault, 0, (0, np.empty(0, np.int64), np.empty(0))
    width, n_frames = pack[0].beam_width, len(log_probs)
    n_nodes, sizes = n_frames * width, size_pack(pack, log_probs)
    n_bytes = size_whole(width, n_nodes, sizes[4])
    if len(arena) < n_bytes:
        arena = np.empty(n_bytes, np.uint8)
    beams, contexts, counts, scratch, token_nodes, word_nodes, end = lay_out_whole(
        aligned_start(arena), width, n_nodes, sizes[4]
    )
    check_end(end, arena)
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
