"""The beams that a frame's chosen candidates become."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.extend import EMPTY, enter_node, hash_token, mix_hash
from engine.kernels.ctc.pieces import count_letters, hash_prefix, spell_on
from engine.kernels.ctc.state import (
    MAX_ADOPTED,
    MAX_LETTERS,
    N_ADOPTED,
    N_CONTEXTS,
    N_FREE,
    N_TOKEN_NODES,
    N_WORD_NODES,
    OPENS_WORD,
)
from engine.kernels.ctc.stay import lowest_bits
from engine.kernels.vector.lanes import LANES, equal_64, first_bit

_ONE, _NOTHING = np.uint64(1), np.uint64(0)
_WORD, _BIT, _LAST_BIT = np.uint64(58), np.uint64(52), np.uint64(63)  # of a key in work.adopters
_HELD = -1  # in work.starts: a beam whose last letter only continues


@kernel(inline="always")
def rebuild(
    beams: Any, n_before: int, n: int, frame: int, best_prob: float, search: Any, work: Any, scorer: Any,
    lexicon: Any, pieces: Any, token_nodes: Any, word_nodes: Any,
) -> None:  # fmt: skip
    """Turn the chosen candidates into the beams of the next frame; best_prob is its best token's.

    Nothing is read after it was changed: times are gathered first and written last, and new beams
    are written to slots that were free before.
    """
    n_stay = number_stays(n_before, n, work)
    n_retimed = gather_times(beams, n_before, frame, search, work, pieces, word_nodes)
    n_dropped = move_stays(n_before, n_stay, work) if n_stay < n_before else 0
    if work.counts[N_ADOPTED] > MAX_ADOPTED:
        list_adopters(n_stay, work)
    add_beams(
        beams, n_stay, n, frame, best_prob, search, work, scorer, lexicon, pieces, token_nodes, word_nodes
    )  # fmt: skip
    for i in range(n_dropped):
        work.free[work.counts[N_FREE] + i] = work.dropped[i]
    work.counts[N_FREE] += n_dropped
    write_times(beams, n_retimed, frame, best_prob, search, work, pieces)
    spread(n, work)


@inner(forceinline=True)
def number_stays(n_before: int, n: int, work: Any) -> int:
    """Find the new places of the beams that stay: work.moved[i + 1] for beam i. Returns how many stay."""
    chosen, moved = work.chosen, work.moved
    for i in range(n_before + 1):
        moved[i] = -1
    n_stay = 0
    while n_stay < n and chosen[n_stay] < n_before:
        moved[chosen[n_stay] + 1] = n_stay
        n_stay += 1
    return n_stay


@inner(forceinline=True)
def gather_times(
    beams: Any, n_before: int, frame: int, search: Any, work: Any, pieces: Any, word_nodes: Any
) -> int:  # fmt: skip
    """Find the staying prefixes whose times move with their best alignment. Returns how many.

    Their slots are written to work.retimed, the new times to work.starts, work.sums and work.ended: they come
    from the prefix one token shorter.
    """
    sources, slots, lasts, moved, held = work.sources, work.slots, work.lasts, work.moved, work.held
    counts, retimed, starts, sums = work.counts, work.retimed, work.starts, work.sums
    wordless, none, n = np.uint32(search.delimiter), np.uint32(len(work.probs) - 1), 0
    for word in range((n_before + 63) >> 6):
        bits = held[word] & lowest_bits(n_before - 64 * word)
        while bits != _NOTHING:
            i = 64 * word + np.int64(first_bit(bits))
            bits &= bits - _ONE
            source, spelled = sources[i], lasts[i] != wordless and lasts[i] != none
            if moved[i + 1] < 0 or (source < 0 and not spelled):
                continue
            retimed[n], starts[n] = slots[i], _HELD
            if source >= 0:
                shorter = beams[slots[source]]
                if not spelled:
                    starts[n] = append_word(shorter, counts, word_nodes)
                elif search.pieces and pieces.spoken[lasts[i]] == OPENS_WORD:
                    starts[n], sums[n] = frame, 0.0
                    work.ended[n] = end_word(shorter, counts, word_nodes)
                elif shorter.length == 0:
                    starts[n], sums[n] = frame, 0.0
                else:
                    starts[n], sums[n] = shorter.start, shorter.prob_sum + shorter.peak
            n += 1
    return n


@inner(forceinline=True)
def write_times(
    beams: Any, n_retimed: int, frame: int, best_prob: float, search: Any, work: Any, pieces: Any
) -> None:  # fmt: skip
    """Give staying beams the times that gather_times found."""
    retimed, starts, sums, probs = work.retimed, work.starts, work.sums, work.probs
    for i in range(n_retimed):
        beam = beams[retimed[i]]
        if beam.last == search.delimiter or beam.last < 0:
            beam.word_node = starts[i]
            continue
        prob = np.float32(probs[beam.last] * best_prob)
        beam.end = frame + 1
        if starts[i] == _HELD:
            beam.peak = max(beam.peak, prob)
        else:
            beam.start, beam.prob_sum, beam.peak = starts[i], sums[i], prob
            if search.pieces and pieces.spoken[np.uint64(beam.last)] == OPENS_WORD:
                beam.word_node = work.ended[i]


@inner(forceinline=True)
def move_stays(n_before: int, n_stay: int, work: Any) -> int:
    """Close the gaps that dropped beams leave. Returns how many; work.dropped receives their slots."""
    chosen, moved, dropped, slots = work.chosen, work.moved, work.dropped, work.slots
    parents, parent_keys, lms = work.parents, work.parent_keys, work.lms
    bounds, lasts = work.bounds, work.lasts
    n_dropped, n_still = 0, 0
    for k in range(n_before):
        dropped[np.uint64(n_dropped)] = slots[k]
        n_dropped += moved[k + 1] < 0
    while n_still < n_stay and chosen[n_still] == n_still:
        parents[n_still] = moved[np.uint64(parents[n_still] + 1)]
        n_still += 1
    for k in range(n_still, n_stay):
        i, index = np.uint64(k), np.uint64(chosen[np.uint64(k)])
        parents[i] = moved[np.uint64(parents[index] + 1)]
        parent_keys[i], slots[i], lasts[i] = parent_keys[index], slots[index], lasts[index]
        lms[i], bounds[i] = lms[index], bounds[index]
    return n_dropped


@inner(forceinline=True)
def add_beams(
    beams: Any, n_stay: int, n: int, frame: int, best_prob: float, search: Any, work: Any, scorer: Any,
    lexicon: Any, pieces: Any, token_nodes: Any, word_nodes: Any,
) -> None:  # fmt: skip
    """Make beams of the chosen candidates that are new."""
    chosen, moved, known, counts, free = work.chosen, work.moved, work.known, work.counts, work.free
    candidates, slots, lasts, probs = work.candidates, work.slots, work.lasts, work.probs
    parents, parent_keys, lms, bounds = work.parents, work.parent_keys, work.lms, work.bounds
    delimiter, n_free = search.delimiter, counts[N_FREE]
    for k in range(n_stay, n):  # indices without a sign, here and elsewhere: -1 would mean the last item
        i = np.uint64(k)
        candidate = candidates[np.uint64(chosen[i])]
        n_free -= 1
        slot, token = np.uint64(free[np.uint64(n_free)]), candidate.token
        shorter, beam = beams[np.uint64(candidate.slot)], beams[slot]
        slots[i], lasts[i] = slot, np.uint32(token)
        parents[i], parent_keys[i] = moved[np.uint64(candidate.parent + 1)], shorter.key
        list_adopter(shorter.key, work)
        lms[i], bounds[i] = candidate.lm, candidate.bound
        beam.lm, beam.hotword, beam.last = candidate.lm, candidate.hotword, token
        beam.context, beam.history = shorter.context, shorter.history
        if candidate.context >= 0:
            beam.context, beam.history = candidate.context, known[np.uint64(candidate.context)].history
        enter_node(beam, candidate.lexicon, lexicon, scorer)
        if search.pieces:
            prob = probs[np.uint64(token)] * best_prob
            add_piece(beam, shorter, token, frame, prob, delimiter, pieces, counts, token_nodes, word_nodes)
        elif token == delimiter:
            beam.text, beam.word, beam.length, beam.letters = shorter.key, EMPTY, 0, 0
            beam.word_node, beam.token_node = append_word(shorter, counts, word_nodes), shorter.token_node
            beam.start, beam.end = shorter.start, shorter.end
            beam.prob_sum, beam.peak = shorter.prob_sum, shorter.peak
            beam.key = mix_hash(beam.text, beam.word)
        else:
            beam.text, beam.word = shorter.text, hash_token(shorter.word, token)
            beam.length, beam.word_node = shorter.length + 1, shorter.word_node
            beam.letters = min(beam.length, MAX_LETTERS)
            beam.token_node = append_token(shorter.token_node, token, counts, token_nodes)
            time_letter(beam, shorter, frame, probs[np.uint64(token)] * best_prob)
            beam.key = mix_hash(beam.text, beam.word)
        if work.adopters[beam.key >> _WORD] & bit_of_key(beam.key) != _NOTHING:
            adopt(beam.key, k, n_stay, work)
    counts[N_FREE] = n_free


@inner(forceinline=True)
def add_piece(
    beam: Any, shorter: Any, token: int, frame: int, prob: float, delimiter: int, pieces: Any, counts: Any,
    token_nodes: Any, word_nodes: Any,
) -> None:  # fmt: skip
    """Make a beam of `shorter` and the delimiter or a piece of a word, which may be the first of the next."""
    beam.text, beam.word = spell_on(shorter, token, delimiter, pieces)
    beam.key = hash_prefix(beam.text, beam.word, token)
    if token == delimiter:
        beam.word_node, beam.token_node = append_word(shorter, counts, word_nodes), shorter.token_node
        beam.length, beam.letters, beam.start, beam.end = 0, 0, shorter.start, shorter.end
        beam.prob_sum, beam.peak = shorter.prob_sum, shorter.peak
        return
    beam.token_node = append_token(shorter.token_node, token, counts, token_nodes)
    n_letters = count_letters(token, pieces)
    if pieces.spoken[np.uint64(token)] == OPENS_WORD:
        beam.word_node = end_word(shorter, counts, word_nodes)
        beam.length, beam.letters = 1, n_letters
        beam.start, beam.end, beam.prob_sum, beam.peak = frame, frame + 1, 0.0, prob
        return
    beam.word_node, beam.length = shorter.word_node, shorter.length + 1
    beam.letters = min(np.int64(shorter.letters) + n_letters, MAX_LETTERS)
    time_letter(beam, shorter, frame, prob)


@inner(forceinline=True)
def end_word(beam: Any, counts: Any, word_nodes: Any) -> Any:
    """The node of a beam's last word, stored now where it is unfinished."""
    return beam.word_node if beam.length == 0 else append_word(beam, counts, word_nodes)


@kernel(inline="always")
def bit_of_key(key: Any) -> Any:
    """A prefix's bit in its word of work.adopters."""
    return _ONE << ((key >> _BIT) & _LAST_BIT)


@inner(forceinline=True)
def list_adopter(key: Any, work: Any) -> None:
    """Set a prefix's bit in work.adopters."""
    work.adopters[key >> _WORD] |= bit_of_key(key)
    work.counts[N_ADOPTED] += 1


@inner
def list_adopters(n: int, work: Any) -> None:
    """Build work.adopters again: the prefixes that n beams are one token longer than."""
    work.adopters[:] = _NOTHING
    work.counts[N_ADOPTED] = 0
    for i in range(n):
        list_adopter(work.parent_keys[i], work)


@kernel(inline="always")
def time_letter(beam: Any, shorter: Any, frame: int, prob: float) -> None:
    """Set the times of a word whose last letter begins in this frame; `shorter` is it without that letter."""
    if shorter.length == 0:
        beam.start, beam.prob_sum = frame, 0.0
    else:
        beam.start, beam.prob_sum = shorter.start, shorter.prob_sum + shorter.peak
    beam.end, beam.peak = frame + 1, prob


@inner(forceinline=True)
def adopt(key: Any, parent: int, n_stay: int, work: Any) -> None:
    """Link the staying children of a prefix that was dropped before and is a beam again."""
    parents, address, found = work.parents, work.parent_keys.ctypes.data, np.int64(0)
    for i in range(0, n_stay, LANES):
        found |= equal_64(address + 8 * i, key)
    if found == 0:
        return
    for i in range(n_stay):
        if work.parent_keys[i] == key:
            parents[i] = parent


@inner(forceinline=True)
def spread(n: int, work: Any) -> None:
    """Copy the chosen candidates' weights."""
    chosen = work.chosen
    blanks, symbols, factors = work.blanks, work.symbols, work.factors
    new_blanks, new_symbols, new_factors = work.new_blanks, work.new_symbols, work.new_factors
    for i in range(n):
        index = np.uint64(chosen[i])
        blanks[i], symbols[i], factors[i] = new_blanks[index], new_symbols[index], new_factors[index]


@inner
def open_beams(records: Any, contexts: Any, n: int, beams: Any, work: Any) -> None:
    """Read beams from records and contexts, at the start of a chunk.

    beams: BEAM [2 * beam_width], the slots.
    """
    none = np.uint32(len(work.probs) - 1)
    for i in range(n):
        record = records[i]
        beams[i] = record
        beams[i].context, work.contexts[i], work.slots[i] = i, contexts[i], i
        work.blanks[i], work.symbols[i], work.factors[i] = record.blank, record.symbol, record.factor
        work.bounds[i], work.lms[i] = record.bound, record.lm
        work.parents[i], work.parent_keys[i] = record.parent, record.parent_key
        work.lasts[i] = np.uint32(record.last) if record.last >= 0 else none
    n_free = len(beams) - n
    for i in range(n_free):
        work.free[i] = len(beams) - 1 - i
    work.table[:] = -1
    work.counts[N_CONTEXTS], work.counts[N_FREE] = n, n_free
    list_adopters(n, work)


@inner
def close_beams(records: Any, contexts: Any, n: int, beams: Any, work: Any) -> None:
    """Write beams back to records and contexts: the inverse of open_beams."""
    for i in range(n):
        record = records[i]
        records[i] = beams[work.slots[i]]
        record.blank, record.symbol, record.factor = work.blanks[i], work.symbols[i], work.factors[i]
        record.bound, record.parent, record.parent_key = work.bounds[i], work.parents[i], work.parent_keys[i]
        contexts[i] = work.contexts[record.context]


@inner(forceinline=True)
def make_room(beams: Any, n: int, n_more: int, spare: Any, work: Any) -> None:
    """Drop the contexts that no beam needs when there is no place for n_more."""
    contexts, slots = work.contexts, work.slots
    if work.counts[N_CONTEXTS] + n_more <= len(contexts):
        return
    for i in range(n):
        spare[i] = contexts[beams[slots[i]].context]
    for i in range(n):
        contexts[i] = spare[i]
        beams[slots[i]].context = i
    work.table[:] = -1
    work.counts[N_CONTEXTS] = n


@inner(forceinline=True)
def append_token(parent: int, token: int, counts: Any, token_nodes: Any) -> Any:
    """Store one more token after a chain of them. Returns its node."""
    node = counts[N_TOKEN_NODES]
    added = token_nodes[np.uint64(node)]
    added.parent, added.token = parent, token
    counts[N_TOKEN_NODES] += 1
    return node


@inner(forceinline=True)
def append_word(beam: Any, counts: Any, word_nodes: Any) -> Any:
    """Store a beam's unfinished word as finished. Returns its node."""
    index = counts[N_WORD_NODES]
    node = word_nodes[index]
    node.parent, node.token_node, node.length = beam.word_node, beam.token_node, beam.length
    node.start, node.end = beam.start, beam.end
    node.confidence = (beam.prob_sum + beam.peak) / max(beam.length, 1)
    counts[N_WORD_NODES] += 1
    return index
