"""Which candidates of a frame live on, and the beams they become."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import kernel
from engine.kernels.ctc_extend import EMPTY, hash_token, mix_hash, rank_candidate
from engine.kernels.ctc_state import N_CANDIDATES, N_TOKEN_NODES, N_WORD_NODES

_HALF = np.uint64(32)
_START = np.uint64(0xD1B54A32D192ED03)
_STEP_BITS = 49  # of a float64's 52 behind the point
_N_STEPS = 256  # the last also holds all that is lower


@kernel(forceinline=True)
def prune(beams: Any, best: float, search: Any, work: Any) -> Any:
    """Choose the candidates that live on: work.chosen[:n] in ascending order. Returns n."""
    floor = best * search.prune
    if search.split:
        return prune_split(floor, search.beam_width, work)
    candidates, chosen = work.candidates, work.chosen
    n = 0
    for i in range(work.counts[N_CANDIDATES]):
        if candidates[i].rank >= floor and candidates[i].rank > 0.0:
            chosen[n] = i
            n += 1
    if search.recombine and n > 1:
        n = recombine(beams, n, search.delimiter, work)
    if n > search.beam_width:
        cut = find_nth_largest(candidates, chosen, n, search.beam_width)
        n = keep_above(candidates, chosen, n, cut, search.beam_width)
    return n


@kernel
def find_nth_largest(candidates: Any, chosen: Any, n: int, rank: int) -> Any:
    """The rank-th largest rank among the chosen candidates.

    Ranks are counted by their leading bits, eight steps for each power of two; only those of the
    step in which the result lies are then told apart.
    """
    values = np.empty(n)
    for i in range(n):
        values[i] = candidates[chosen[i]].rank
    bits = values.view(np.int64)
    highest = bits.max() >> _STEP_BITS
    counts = np.zeros(_N_STEPS, np.int32)
    for i in range(n):
        counts[min(highest - (bits[i] >> _STEP_BITS), _N_STEPS - 1)] += 1
    step, above = 0, 0
    while above + counts[step] < rank:
        above += counts[step]
        step += 1
    m = 0
    for i in range(n):
        if min(highest - (bits[i] >> _STEP_BITS), _N_STEPS - 1) == step:
            values[m] = values[i]
            m += 1
    return select_largest(values, m, rank - above)


@kernel
def select_largest(values: Any, n: int, rank: int) -> Any:
    """The rank-th largest of the first n values, by quickselect."""
    low, high, target = 0, n - 1, rank - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return values[target]


@kernel(forceinline=True)
def keep_above(candidates: Any, chosen: Any, n: int, cut: float, limit: int) -> int:
    """Keep the candidates above `cut`, and of those equal to it the first, up to `limit`."""
    n_above = 0
    for i in range(n):
        n_above += candidates[chosen[i]].rank > cut
    n_equal = limit - n_above
    kept = 0
    for i in range(n):
        rank = candidates[chosen[i]].rank
        if rank == cut:
            n_equal -= 1
        if rank > cut or (rank == cut and n_equal >= 0):
            chosen[kept] = chosen[i]
            kept += 1
    return kept


@kernel
def prune_split(floor: float, limit: int, work: Any) -> int:
    """Prune blank and symbol ends of the prefixes apart: `limit` ends in all; see Search.split."""
    candidates, chosen, n_candidates = work.candidates, work.chosen, work.counts[N_CANDIDATES]
    ranks = np.empty(2 * n_candidates)
    n = 0
    for i in range(n_candidates):
        candidate = candidates[i]
        ranks[n], ranks[n + 1] = candidate.blank * candidate.factor, candidate.symbol * candidate.factor
        n += 2
    lowest = floor
    if n > limit:
        lowest = max(floor, np.partition(ranks, n - limit)[n - limit])
    kept = 0
    for i in range(n_candidates):
        candidate = candidates[i]
        if candidate.blank * candidate.factor < lowest:
            candidate.blank = 0.0
        if candidate.symbol * candidate.factor < lowest:
            candidate.symbol = 0.0
        if rank_candidate(candidate, True) > 0.0:
            chosen[kept] = i
            kept += 1
    return min(kept, limit)


@kernel
def recombine(beams: Any, n: int, delimiter: int, work: Any) -> int:
    """Keep the best of the candidates that no later frame or word can tell apart. Returns how many."""
    mask = np.uint64(len(work.seen) - 1)
    keys = np.empty(n, np.uint64)
    seen, chosen, candidates, slots = work.seen, work.chosen, work.candidates, work.slots
    for i in range(n):
        keys[i] = hash_future(beams, candidates[chosen[i]], slots, delimiter)
    kept = 0
    touched = np.empty(n, np.uint64)
    for i in range(n):
        slot = (keys[i] >> _HALF) & mask
        while seen[slot] >= 0 and keys[seen[slot]] != keys[i]:
            slot = (slot + np.uint64(1)) & mask
        other = seen[slot]
        if other < 0:
            seen[slot], touched[kept], keys[kept], chosen[kept] = kept, slot, keys[i], chosen[i]
            kept += 1
        elif candidates[chosen[i]].rank > candidates[chosen[other]].rank:
            chosen[other] = chosen[i]
    for i in range(kept):
        seen[touched[i]] = -1
    return kept


@kernel
def hash_future(beams: Any, candidate: Any, slots: Any, delimiter: int) -> Any:
    """Hash of all that the rest of the search depends on: context, unfinished word, hotwords, last token."""
    parent = beams[candidate.parent]
    word, last, history = parent.word, parent.last, parent.history
    if candidate.token >= 0:
        last = candidate.token
        word = EMPTY if last == delimiter else hash_token(word, last)
    if candidate.slot >= 0:
        history = hash_context(slots[candidate.slot])
    key = mix_hash(mix_hash(history, word), np.uint64(last + 2))
    return mix_hash(key, np.uint64(candidate.hotword + 2))


@kernel(inline="always")
def hash_context(context: Any) -> Any:
    """Hash of the words that a language model still looks at."""
    key = mix_hash(_START, np.uint64(context.length + 1))  # small states and small words would collide
    for i in range(context.length):
        key = mix_hash(key, np.uint64(context.words[i]) + np.uint64(1))
    return key


@kernel(forceinline=True)
def rebuild(
    beams: Any, contexts: Any, n: int, frame: int, best_prob: float, search: Any, work: Any,
    token_nodes: Any, word_nodes: Any, next_beams: Any, next_contexts: Any,
) -> None:  # fmt: skip
    """Turn the chosen candidates into the beams of the next frame; best_prob is its best token's."""
    candidates, chosen, slots = work.candidates, work.chosen, work.slots
    probs, counts = work.probs, work.counts
    for i in range(n):
        candidate = candidates[chosen[i]]
        parent, beam = beams[candidate.parent], next_beams[i]
        next_beams[i] = parent
        beam.blank, beam.symbol = candidate.blank, candidate.symbol
        if candidate.slot >= 0:
            next_contexts[i] = slots[candidate.slot]
            beam.history = hash_context(slots[candidate.slot])
        else:
            next_contexts[i] = contexts[candidate.parent]
        if candidate.token < 0:
            source = beams[max(candidate.source, 0)]
            hold(beam, candidate, source, frame, best_prob, search.delimiter, probs, counts, word_nodes)
            continue
        beam.lm, beam.factor = candidate.lm, candidate.factor
        beam.lexicon, beam.hotword = candidate.lexicon, candidate.hotword
        beam.last, beam.parent_key = candidate.token, parent.key
        if candidate.token == search.delimiter:
            beam.text, beam.word, beam.length = parent.key, EMPTY, 0
            beam.word_node = append_word(parent, counts, word_nodes)
        else:
            beam.word = hash_token(parent.word, candidate.token)
            beam.length = parent.length + 1
            beam.token_node = append_token(parent.token_node, candidate.token, counts, token_nodes)
            time_letter(beam, parent, frame, probs[candidate.token] * best_prob)
        beam.key = mix_hash(beam.text, beam.word)


@kernel(forceinline=True)
def append_token(parent: int, token: int, counts: Any, token_nodes: Any) -> Any:
    """Store one more token behind a chain of them. Returns its node."""
    node = counts[N_TOKEN_NODES]
    token_nodes[node].parent, token_nodes[node].token = parent, token
    counts[N_TOKEN_NODES] += 1
    return node


@kernel(forceinline=True)
def hold(
    beam: Any, candidate: Any, source: Any, frame: int, best_prob: float, delimiter: int, probs: Any,
    counts: Any, word_nodes: Any,
) -> None:  # fmt: skip
    """Move the times of a prefix that stays with its best alignment, which came from `source`."""
    if beam.last < 0 or beam.last == delimiter:
        if candidate.source >= 0:
            beam.word_node = append_word(source, counts, word_nodes)
    elif candidate.source >= 0:
        time_letter(beam, source, frame, probs[beam.last] * best_prob)
    elif candidate.symbol > candidate.blank:
        beam.end = frame + 1
        beam.peak = max(beam.peak, np.float32(probs[beam.last] * best_prob))


@kernel(inline="always")
def time_letter(beam: Any, shorter: Any, frame: int, prob: float) -> None:
    """Set the times of a word whose last letter begins in this frame; `shorter` is it without that letter."""
    if shorter.length == 0:
        beam.start, beam.prob_sum = frame, 0.0
    else:
        beam.start, beam.prob_sum = shorter.start, shorter.prob_sum + shorter.peak
    beam.end, beam.peak = frame + 1, prob


@kernel(forceinline=True)
def append_word(beam: Any, counts: Any, word_nodes: Any) -> Any:
    """Store a beam's unfinished word as finished. Returns its node."""
    index = counts[N_WORD_NODES]
    node = word_nodes[index]
    node.parent, node.token_node, node.length = beam.word_node, beam.token_node, beam.length
    node.start, node.end = beam.start, beam.end
    node.confidence = (beam.prob_sum + beam.peak) / max(beam.length, 1)
    counts[N_WORD_NODES] += 1
    return index
