"""One frame of CTC prefix beam search: prefixes that become one token longer, and their weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.ngram import UNKNOWN, locate_ngram, locate_unigram, score_word
from engine.kernels.ctc.state import (
    CHAR_LM,
    LEXICON_NODE,
    N_CANDIDATES,
    N_CONTEXTS,
    N_KNOWN,
    N_OOV_FACTORS,
    NO_LM,
    WORD_LM,
)
from engine.kernels.ctc.stay import lowest_bits
from engine.kernels.vector import lanes

EMPTY = np.uint64(0x51ED27)  # hash of no letters
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)
_HALF = np.uint64(32)
_MOST = 300.0  # natural log: what one word or letter may add, so that no product leaves a float's range
_START = np.uint64(0xD1B54A32D192ED03)
_NODE_BYTES = LEXICON_NODE.itemsize
_ONE, _NOTHING, _LAST_BIT = np.uint64(1), np.uint64(0), np.uint64(63)


@kernel(inline="always")
def mix_hash(state: Any, value: Any) -> Any:
    """Fold one more 64-bit value into a hash."""
    mixed = (state ^ value) * _SPREAD
    return mixed ^ (mixed >> _FOLD)


@kernel(inline="always")
def hash_text(beam: Any) -> Any:
    """Hash of a beam's words, the unfinished one included."""
    return beam.text if beam.length == 0 else mix_hash(beam.text, beam.word)


@kernel(inline="always")
def hash_token(word: Any, token: int) -> Any:
    """Hash of a word with one more token."""
    return mix_hash(word, np.uint64(token + 1))


@inner(forceinline=True)
def enter_node(beam: Any, node: int, lexicon: Any, scorer: Any) -> None:
    """Move a beam to a node of the lexicon, or outside for -1.

    It prefetches what the next letter or the end of the word will read.
    """
    beam.lexicon = node
    if node < 0:
        beam.children, beam.first, beam.word_id = _NOTHING, -1, UNKNOWN
        return
    record = lexicon.nodes[np.uint64(node)]
    beam.children, beam.first, beam.word_id = record.children, record.first, record.word
    prefetch(lexicon.nodes.ctypes.data + np.int64(record.first) * _NODE_BYTES)
    prefetch(lexicon.lookahead.ctypes.data + np.int64(record.first))
    if record.word != UNKNOWN and scorer.weights[0].kind == WORD_LM:
        prefetch(locate_unigram(scorer.memory, scorer.layout, record.word))


def _prefetch(_context: Any, address: Any) -> Any:
    """Prefetch the cache line of an address; any address is allowed."""
    signature = types.void(types.int64)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), (pointer.type, number, number, number))
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind)
        builder.call(function, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return signature, generate


prefetch: Any = intrinsic(_prefetch)


@inner(forceinline=True)
def pick(first: int, n: int, column: int, floor: float, highest: float, bounds: int, work: Any) -> Any:
    """Choose the beams that the frame's token number `column` can extend to a rank of `floor` or more.

    The weights of the beams after that token are written to work.weights.

    Args:
        first: looks at beams `first` to first + 63; a multiple of 64.
        highest: the largest factor from weight to rank; 0 to use each beam's own.
        bounds: address of float64 [n], these.
    Returns:
        A bit for each.
    """
    blanks, symbols = work.blanks.ctypes.data, work.symbols.ctypes.data
    lasts, weights = work.lasts.ctypes.data, work.weights.ctypes.data
    token = np.int64(work.tokens[column])
    prob, lowest, bound = lanes.splat(work.probs[token]), lanes.splat(floor), lanes.splat(highest)
    picked = _NOTHING
    for i in range(first, min(n, first + 64), lanes.LANES):
        blank = lanes.load(blanks + 8 * i)
        total = lanes.add(blank, lanes.load(symbols + 8 * i))
        repeated = lanes.equal_32(lasts + 4 * i, token)
        weight = lanes.multiply(lanes.choose(repeated, blank, total), prob)
        lanes.store(weights + 8 * i, weight)
        if highest == 0.0:
            bound = lanes.load(bounds + 8 * i)
        enough = lanes.at_least(lanes.multiply(weight, bound), lowest)
        picked |= np.uint64(enough) << np.uint64(i - first)
    taken = work.taken[column * ((n + 63) >> 6) + (first >> 6)]
    return picked & lowest_bits(n - first) & ~taken


def _count_ones(_context: Any, bits: Any) -> Any:
    """How many bits of a uint64 are set."""
    signature = types.int64(types.uint64)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return signature, generate


count_ones: Any = intrinsic(_count_ones)


@kernel(forceinline=True)
def find_child(nodes: Any, label: Any, distinct: bool, node: int, token: int) -> Any:
    """The child of a lexicon's node by a token; -1 if there is none or the node is -1."""
    if node < 0:
        return -1
    bit = _ONE << (np.uint64(token) & _LAST_BIT)
    if nodes[node].children & bit == _NOTHING:
        return -1
    low, high = np.int64(nodes[node].first), np.int64(nodes[node + 1].first)
    if distinct:
        return low + count_ones(nodes[node].children & (bit - _ONE))
    while high - low > 4:
        middle = (low + high) >> 1
        if label[middle] <= token:
            low = middle
        else:
            high = middle
    for child in range(low, high):
        if label[child] == token:
            return child
    return -1


@inner(forceinline=True)
def follow_lexicon(beam: Any, token: int, nodes: Any, label: Any, distinct: bool) -> Any:
    """The lexicon's node that a token leads to from a beam's; -1 if there is none."""
    bit = _ONE << (np.uint64(token) & _LAST_BIT)
    if beam.children & bit == _NOTHING:
        return -1
    if distinct:
        return np.int64(beam.first) + count_ones(beam.children & (bit - _ONE))
    return find_child(nodes, label, distinct, beam.lexicon, token)


@inner(forceinline=True)
def extend_letter(
    beams: Any, n: int, column: int, best: float, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    work: Any, highest: float,
) -> float:  # fmt: skip
    """Add the frame's token number `column`, part of a word, to every prefix.

    Candidates that rank below search.prune times the best are not made. (Arrays are read from
    their tuples before the loop: each access would count references.)

    Args:
        best: the best rank of the frame so far.
        highest: the largest factor of a hotword.
    Returns:
        The best rank, these candidates included.
    """
    nodes, label, lookahead, distinct = lexicon.nodes, lexicon.label, lexicon.lookahead, lexicon.distinct
    factors, unknown_factors = lexicon.factors, lexicon.unknown_factors
    follows, hot_factors, spelled = hotwords.follow, hotwords.factors, scorer.weights[0].kind == CHAR_LM
    candidates, weights, slots, token = work.candidates, work.weights, work.slots, work.tokens[column]
    n_candidates, floor = work.counts[N_CANDIDATES], best * search.prune
    favoured = 0 if len(hot_factors) > 1 else 1  # without hotwords no node matters
    for first in range(0, n, 64):
        bits = pick(first, n, column, floor, 0.0, work.bounds.ctypes.data, work)
        while bits != _NOTHING:
            i = first + np.int64(lanes.first_bit(bits))
            bits &= bits - _ONE
            slot, weight = slots[np.uint64(i)], weights[np.uint64(i)]
            beam = beams[np.uint64(slot)]
            node = follow_lexicon(beam, token, nodes, label, distinct)
            follow = follows[beam.hotword, token] if beam.hotword >= favoured else -1
            longer, factor, score, context = np.uint64(min(beam.length + 2, N_OOV_FACTORS - 1)), 1.0, 0.0, -1
            if node >= 0:
                factor = factors[lookahead[np.uint64(node)]]
            elif follow < 0:
                factor = unknown_factors[np.uint64(min(beam.length + 1, N_OOV_FACTORS - 1))]
            bound = max(factor, unknown_factors[longer])
            if follow >= 0:
                factor *= hot_factors[follow]
                bound = max(bound, 1.0) * highest
            rank = weight * factor
            if rank <= 0.0 or rank < floor:
                continue
            if spelled:
                score, context = score_letter(token, beam.context, scorer, work)
                weight *= math.exp(score)
                rank = weight * factor
                if rank <= 0.0 or rank < floor:
                    continue
                work.counts[N_CONTEXTS] += 1
            add_candidate(np.uint64(n_candidates), rank, weight, factor, work)
            candidate = candidates[np.uint64(n_candidates)]
            candidate.lm, candidate.parent, candidate.slot, candidate.token = beam.lm + score, i, slot, token
            candidate.bound = bound
            candidate.lexicon, candidate.hotword, candidate.context = node, follow, context
            prefetch(nodes.ctypes.data + node * _NODE_BYTES)
            n_candidates += 1
            best = max(best, rank)
            floor = best * search.prune
    work.counts[N_CANDIDATES] = n_candidates
    return best


@kernel(inline="always")
def add_candidate(index: int, rank: float, weight: float, factor: float, work: Any) -> None:
    """Store the values that all candidates have, for a prefix that became one token longer."""
    work.ranks[index], work.new_factors[index] = rank, factor
    work.new_blanks[index], work.new_symbols[index] = 0.0, weight


@inner(forceinline=True)
def score_letter(token: int, context: int, scorer: Any, work: Any) -> Any:
    """A character model's weighted score of one token, and the place that holds the context after it."""
    place, contexts, weights = work.counts[N_CONTEXTS], work.contexts, scorer.weights[0]
    word = scorer.token_words[token]
    log10_prob = score_word(
        scorer.memory, scorer.layout, weights.order, contexts[context], word, contexts[place]
    )
    work.known[place].history = hash_context(contexts[place])
    return limit_log(weights.weight * log10_prob), place


@inner(forceinline=True)
def limit_log(score: float) -> float:
    """A natural logarithm, limited to a range outside of which differences have no effect."""
    return min(max(score, -_MOST), _MOST)


@inner(forceinline=True)
def identify_word(beam: Any, kind: int, token_words: Any) -> Any:
    """The language model's id of what ends a beam's unfinished word."""
    if kind == CHAR_LM:
        return np.int64(token_words[len(token_words) - 1])
    return np.int64(beam.word_id)


@inner(forceinline=True)
def weigh_word(
    beam: Any, n_letters: int, word: int, log10_prob: float, weights: Any, complete: Any, ends_word: Any
) -> Any:
    """Natural log of what finishing a beam's word adds; log10_prob is the language model's part."""
    score = complete[beam.hotword] if beam.hotword >= 0 else 0.0
    if weights.kind == NO_LM:
        return score
    score += weights.weight * log10_prob + weights.word_bonus
    favoured = beam.hotword >= 0 and ends_word[beam.hotword] != 0
    if word == UNKNOWN and not favoured and weights.kind != CHAR_LM:
        score += weights.unknown + weights.unknown_letter * n_letters
    return limit_log(score)


@inner(forceinline=True)
def look_up_word(beam: Any, word: int, weights: Any, memory: Any, layout: Any, work: Any) -> Any:
    """The place in work.known and work.contexts of a word after a beam's context.

    They are a cache: the same word ends in several frames, after a context that many beams share.
    """
    known, contexts, table = work.known, work.contexts, work.table
    key = mix_hash(beam.history, np.uint64(word + 1))
    slot = (key >> _HALF) & np.uint64(N_KNOWN - 1)
    place = np.int64(table[slot])
    if place >= 0 and known[place].key == key:
        return place
    place = work.counts[N_CONTEXTS]
    work.counts[N_CONTEXTS] += 1
    context, extended = contexts[beam.context], contexts[place]
    log10_prob = score_word(memory, layout, weights.order, context, word, extended)
    known[place].key, known[place].score = key, log10_prob
    known[place].gain = math.exp(limit_log(weights.weight * log10_prob + weights.word_bonus))
    known[place].history = hash_context(extended)
    table[slot] = place
    return place


@inner(forceinline=True)
def find_words(beams: Any, first: int, bits: Any, scorer: Any, work: Any) -> None:
    """Look up the ends of words of the beams with a bit in the cache: work.places.

    For the others, prefetch what look_up_word will read of the model.
    """
    known, contexts, table, slots, places = work.known, work.contexts, work.table, work.slots, work.places
    kind, order = scorer.weights[0].kind, scorer.weights[0].order
    while bits != _NOTHING:
        i = np.uint64(first) + lanes.first_bit(bits)
        bits &= bits - _ONE
        beam = beams[np.uint64(slots[i])]
        if beam.length == 0:
            continue
        word = identify_word(beam, kind, scorer.token_words)
        key = mix_hash(beam.history, np.uint64(word + 1))
        place = table[(key >> _HALF) & np.uint64(N_KNOWN - 1)]
        places[i] = place
        if place < 0 or known[np.uint64(place)].key != key:
            places[i] = -1
            context, n_longer = contexts[beam.context], 1
            prefetch(locate_unigram(scorer.memory, scorer.layout, word))
            while n_longer < order and n_longer <= context.length:
                n_longer += 1
                prefetch(locate_ngram(scorer.memory, scorer.layout, n_longer, order, context, word))


@kernel(inline="always")
def hash_context(context: Any) -> Any:
    """Hash of the words that the language model's next score depends on."""
    key = mix_hash(_START, np.uint64(context.length + 1))  # small states and small words would collide
    for i in range(context.length):
        key = mix_hash(key, np.uint64(context.words[i]) + np.uint64(1))
    return key


@inner(forceinline=True)
def follow_delimiter(follows: Any, node: int, delimiter: int) -> int:
    """The hotwords' node at the start of the next word."""
    return follows[node, delimiter] if node >= 0 and delimiter >= 0 else 0


@inner(forceinline=True)
def extend_word(
    beams: Any, n: int, column: int, best: float, search: Any, scorer: Any, hotwords: Any, work: Any,
    letter_highest: float, highest: float,
) -> float:  # fmt: skip
    """End the unfinished word of every prefix; arguments and result as for extend_letter.

    letter_highest, highest: no letter or end of a word makes a weight's rank larger.
    """
    candidates, known, weights_of, slots = work.candidates, work.known, work.weights, work.slots
    memory, layout, token_words = scorer.memory, scorer.layout, scorer.token_words
    weights, follows, hot_factors = scorer.weights[0], hotwords.follow, hotwords.factors
    complete, ends_word = hotwords.complete, hotwords.ends_word
    delimiter, n_candidates, floor = search.delimiter, work.counts[N_CANDIDATES], best * search.prune
    for first in range(0, n, 64):
        bits = pick(first, n, column, floor, highest, work.bounds.ctypes.data, work)
        if weights.kind != NO_LM:
            find_words(beams, first, bits, scorer, work)
        while bits != _NOTHING:
            i = first + np.int64(lanes.first_bit(bits))
            bits &= bits - _ONE
            slot, weight = slots[np.uint64(i)], weights_of[np.uint64(i)]
            beam = beams[np.uint64(slot)]
            if beam.length == 0:
                continue
            word, log10_prob = UNKNOWN, 0.0
            place: Any = -1
            if weights.kind != NO_LM:
                word = identify_word(beam, weights.kind, token_words)
                place = np.int64(work.places[np.uint64(i)])
                if place < 0:
                    place = look_up_word(beam, word, weights, memory, layout, work)
                log10_prob = known[np.uint64(place)].score
            score = weigh_word(beam, beam.letters, word, log10_prob, weights, complete, ends_word)
            follow = follow_delimiter(follows, beam.hotword, search.space)
            if place >= 0 and word != UNKNOWN and (beam.hotword < 0 or complete[beam.hotword] == 0.0):
                weight *= known[np.uint64(place)].gain
            else:
                weight *= math.exp(score)
            rank = weight * hot_factors[follow]
            if rank <= 0.0 or rank < floor:
                continue
            add_candidate(np.uint64(n_candidates), rank, weight, hot_factors[follow], work)
            candidate = candidates[np.uint64(n_candidates)]
            candidate.lm, candidate.parent, candidate.slot = beam.lm + score, i, slot
            candidate.token = delimiter
            candidate.bound, candidate.lexicon = letter_highest, 0
            candidate.hotword, candidate.context = follow, place
            n_candidates += 1
            best = max(best, rank)
            floor = best * search.prune
    work.counts[N_CANDIDATES] = n_candidates
    return best
