"""Which candidates of a frame live on, and the beams they become."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from engine.kernels._jit import kernel
from engine.kernels.ctc_extend import EMPTY, enter_node, hash_token, mix_hash
from engine.kernels.ctc_state import N_CANDIDATES, N_CONTEXTS, N_TOKEN_NODES, N_WORD_NODES

_HALF = np.uint64(32)
_ONE, _NOTHING = np.uint64(1), np.uint64(0)
_BIT_SHIFT = np.uint64(58)  # of a hash, the 6 bits that number 64 of them
_HIGHEST_BITS = np.int64(0x7FFFFFFFFFFFFFFF)


@kernel(forceinline=True)
def prune(beams: Any, n_before: int, best: float, search: Any, work: Any) -> Any:
    """Choose the candidates that live on: work.chosen[:n] in ascending order. Returns n."""
    floor = best * search.prune
    if search.split:
        return prune_split(floor, search.beam_width, work)
    ranks, chosen = work.ranks, work.chosen
    n = 0
    for i in range(work.counts[N_CANDIDATES]):
        chosen[n] = i  # without a branch: which way it went could not be predicted
        n += (ranks[i] >= floor) & (ranks[i] > 0.0)
    if search.recombine and n > 1:
        n = recombine(beams, n_before, n, search.delimiter, work)
    if n > search.beam_width:
        n = keep_best(ranks, chosen, n, search.beam_width, work.values)
    return n


@kernel(forceinline=True)
def keep_best(ranks: Any, chosen: Any, n: int, limit: int, values: Any) -> int:
    """Keep the `limit` candidates with the highest ranks, of equal ones the first. Returns how many.

    The rank that parts them is found by halving the range of its bits, which for positive numbers are in
    the numbers' own order: each step is a count that the processor takes several ranks at a time.

    Args:
        chosen: int32, of which the first n count; more than `limit`.
        values: int64 [n] or more, scratch.
    """
    low, high = _HIGHEST_BITS, np.int64(0)
    for i in range(n):
        values[i] = float_to_bits(ranks[chosen[i]])
        low, high = min(low, values[i]), max(high, values[i])
    high += 1
    n_high = 0  # values of at least `high`; of at least `low` are too many
    while high - low > 1 and n_high < limit:
        middle = low + ((high - low) >> 1)
        count = 0
        for i in range(n):
            count += values[i] >= middle
        if count > limit:
            low = middle
        else:
            high, n_high = middle, count
    n_equal, kept = limit - n_high, 0
    for i in range(n):
        chosen[kept] = chosen[i]
        equal = (values[i] == low) & (n_equal > 0)
        n_equal -= equal
        kept += (values[i] >= high) | equal
    return kept


def _float_to_bits(_context: Any, value: Any) -> Any:
    """Reinterpret the 64 bits of a float64 as an int64."""
    signature = types.int64(types.float64)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return signature, generate


float_to_bits: Any = intrinsic(_float_to_bits)


@kernel
def prune_split(floor: float, limit: int, work: Any) -> int:
    """Prune blank and symbol ends of the prefixes apart: `limit` ends in all; see Search.split."""
    blanks, symbols, factors, chosen = work.new_blanks, work.new_symbols, work.new_factors, work.chosen
    n_candidates = work.counts[N_CANDIDATES]
    ranks = np.empty(2 * n_candidates)
    for i in range(n_candidates):
        ranks[2 * i], ranks[2 * i + 1] = blanks[i] * factors[i], symbols[i] * factors[i]
    lowest = floor
    if len(ranks) > limit:
        lowest = max(floor, np.partition(ranks, len(ranks) - limit)[len(ranks) - limit])
    kept = 0
    for i in range(n_candidates):
        if blanks[i] * factors[i] < lowest:
            blanks[i] = 0.0
        if symbols[i] * factors[i] < lowest:
            symbols[i] = 0.0
        if max(blanks[i], symbols[i]) * factors[i] > 0.0:
            chosen[kept] = i
            kept += 1
    return min(kept, limit)


@kernel
def recombine(beams: Any, n_before: int, n: int, delimiter: int, work: Any) -> int:
    """Keep the best of the candidates that no later frame or word can tell apart. Returns how many."""
    mask = np.uint64(len(work.seen) - 1)
    keys = np.empty(n, np.uint64)
    seen, chosen, ranks = work.seen, work.chosen, work.ranks
    for i in range(n):
        keys[i] = hash_future(beams, n_before, chosen[i], work.candidates, work.known, delimiter)
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
        elif ranks[chosen[i]] > ranks[chosen[other]]:
            chosen[other] = chosen[i]
    for i in range(kept):
        seen[touched[i]] = -1
    return kept


@kernel
def hash_future(beams: Any, n_before: int, index: int, candidates: Any, known: Any, delimiter: int) -> Any:
    """Hash of all that the rest of the search depends on: context, unfinished word, hotwords, last token."""
    candidate = candidates[index]
    parent = beams[index if index < n_before else candidate.parent]
    word, last, history, hotword = parent.word, parent.last, parent.history, parent.hotword
    if index >= n_before:
        last, hotword = candidate.token, candidate.hotword
        word = EMPTY if last == delimiter else hash_token(word, last)
        if candidate.context >= 0:
            history = known[candidate.context].history
    key = mix_hash(mix_hash(history, word), np.uint64(last + 2))
    return mix_hash(key, np.uint64(hotword + 2))


@kernel(forceinline=True)
def rebuild(
    beams: Any, n_before: int, n: int, frame: int, best_prob: float, search: Any, work: Any, scorer: Any,
    lexicon: Any, token_nodes: Any, word_nodes: Any, next_beams: Any,
) -> None:  # fmt: skip
    """Turn the chosen candidates into the beams of the next frame; best_prob is its best token's."""
    chosen, moved, known, counts, missing = work.chosen, work.moved, work.known, work.counts, work.missing
    for i in range(n_before):
        moved[i] = -1
    for i in range(n):
        if chosen[i] < n_before:
            moved[chosen[i]] = i
    n_missing, missing_bits, new_bits = 0, _NOTHING, _NOTHING  # a bit for each value of a hash's first six
    for i in range(n):
        if chosen[i] < n_before:
            old = beams[chosen[i]]
            parent = moved[old.parent] if old.parent >= 0 else -1
            missing[n_missing] = old.parent_key
            missing_bits |= np.uint64(parent < 0) << (old.parent_key >> _BIT_SHIFT)
            n_missing += parent < 0
            next_beams[i] = old
            next_beams[i].parent = parent
            hold(beams, next_beams[i], chosen[i], frame, best_prob, search.delimiter, work, word_nodes)
            continue
        candidate = work.candidates[chosen[i]]
        shorter, beam = beams[candidate.parent], next_beams[i]
        next_beams[i] = shorter
        beam.parent, beam.parent_key = moved[candidate.parent], shorter.key
        missing[n_missing] = shorter.key
        missing_bits |= np.uint64(beam.parent < 0) << (shorter.key >> _BIT_SHIFT)
        n_missing += beam.parent < 0
        beam.lm, beam.bound = candidate.lm, candidate.bound
        beam.hotword, beam.last = candidate.hotword, candidate.token
        enter_node(beam, candidate.lexicon, lexicon, scorer)
        if candidate.context >= 0:
            beam.context, beam.history = candidate.context, known[candidate.context].history
        if candidate.token == search.delimiter:
            beam.text, beam.word, beam.length = shorter.key, EMPTY, 0
            beam.word_node = append_word(shorter, counts, word_nodes)
        else:
            beam.word = hash_token(shorter.word, candidate.token)
            beam.length = shorter.length + 1
            beam.token_node = append_token(shorter.token_node, candidate.token, counts, token_nodes)
            time_letter(beam, shorter, frame, work.probs[candidate.token] * best_prob)
        key = mix_hash(beam.text, beam.word)
        beam.key = key
        new_bits |= _ONE << (key >> _BIT_SHIFT)
    if missing_bits & new_bits != _NOTHING:
        adopt(next_beams, n, n_before, chosen, missing, n_missing, missing_bits)
    spread(next_beams, n, work)


@kernel
def adopt(
    beams: Any, n: int, n_before: int, chosen: Any, missing: Any, n_missing: int, missing_bits: Any
) -> None:
    """Find the children of prefixes that are among the beams again, having been dropped before.

    missing: keys of the parents that are no beams. missing_bits: the bits of their first six bits.
    """
    for i in range(n):
        key = beams[i].key
        if chosen[i] < n_before or (missing_bits >> (key >> _BIT_SHIFT)) & _ONE == _NOTHING:
            continue
        found = 0
        for j in range(n_missing):
            found += missing[j] == key
        if found:
            adopt_children(beams, n, i)


@kernel
def adopt_children(beams: Any, n: int, parent: int) -> None:
    """Link the beams that are beam `parent` and one more token to it."""
    for i in range(n):
        if beams[i].parent_key == beams[parent].key:
            beams[i].parent = parent


@kernel(forceinline=True)
def spread(beams: Any, n: int, work: Any) -> None:
    """Fill the arrays of what every frame reads of every beam."""
    chosen, none = work.chosen, np.uint32(len(work.probs) - 1)
    blanks, symbols, factors, bounds = work.blanks, work.symbols, work.factors, work.bounds
    new_blanks, new_symbols, new_factors = work.new_blanks, work.new_symbols, work.new_factors
    lasts = work.lasts
    for i in range(n):
        index = chosen[i]
        blanks[i], symbols[i], factors[i] = new_blanks[index], new_symbols[index], new_factors[index]
        bounds[i] = beams[i].bound
        lasts[i] = np.uint32(beams[i].last) if beams[i].last >= 0 else none


@kernel
def open_beams(beams: Any, contexts: Any, n: int, work: Any) -> None:
    """Take beams over from records and contexts of their own, at the start of a chunk."""
    for i in range(n):
        work.new_blanks[i], work.new_symbols[i] = beams[i].blank, beams[i].symbol
        work.new_factors[i], work.chosen[i] = beams[i].factor, i
        work.contexts[i] = contexts[i]
        beams[i].context = i
    work.table[:] = -1
    work.counts[N_CONTEXTS] = n
    spread(beams, n, work)


@kernel
def close_beams(beams: Any, contexts: Any, n: int, work: Any) -> None:
    """Give beams back as open_beams took them."""
    for i in range(n):
        beams[i].blank, beams[i].symbol, beams[i].factor = work.blanks[i], work.symbols[i], work.factors[i]
        contexts[i] = work.contexts[beams[i].context]


@kernel(forceinline=True)
def make_room(beams: Any, n: int, n_more: int, spare: Any, work: Any) -> None:
    """Drop the contexts that no beam needs when there is no place for n_more."""
    contexts = work.contexts
    if work.counts[N_CONTEXTS] + n_more <= len(contexts):
        return
    for i in range(n):
        spare[i] = contexts[beams[i].context]
    for i in range(n):
        contexts[i] = spare[i]
        beams[i].context = i
    work.table[:] = -1
    work.counts[N_CONTEXTS] = n


@kernel(forceinline=True)
def append_token(parent: int, token: int, counts: Any, token_nodes: Any) -> Any:
    """Store one more token behind a chain of them. Returns its node."""
    node = counts[N_TOKEN_NODES]
    token_nodes[node].parent, token_nodes[node].token = parent, token
    counts[N_TOKEN_NODES] += 1
    return node


@kernel(forceinline=True)
def hold(
    beams: Any, beam: Any, index: int, frame: int, best_prob: float, delimiter: int, work: Any,
    word_nodes: Any,
) -> None:  # fmt: skip
    """Move the times of a prefix that stays with its best alignment: staying candidate `index`."""
    source = work.sources[index]
    if source >= 0:
        if beam.last < 0 or beam.last == delimiter:
            beam.word_node = append_word(beams[source], work.counts, word_nodes)
        else:
            time_letter(beam, beams[source], frame, work.probs[beam.last] * best_prob)
    elif work.new_symbols[index] > work.new_blanks[index] and beam.last != delimiter and beam.last >= 0:
        beam.end = frame + 1
        beam.peak = max(beam.peak, np.float32(work.probs[beam.last] * best_prob))


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
