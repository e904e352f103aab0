"""One frame of CTC prefix beam search: prefixes that become one token longer, and their weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels._jit import kernel
from engine.kernels.ctc_state import (
    CHAR_LM,
    LEXICON_NODE,
    N_CANDIDATES,
    N_CONTEXTS,
    N_KNOWN,
    N_OOV_FACTORS,
    NO_LM,
    WORD_LM,
)
from engine.kernels.ngram import UNKNOWN, locate_unigram, score_word

EMPTY = np.uint64(0x51ED27)  # hash of no letters
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)
_HALF = np.uint64(32)
_START = np.uint64(0xD1B54A32D192ED03)
_NODE_BYTES = LEXICON_NODE.itemsize
_ONE, _NOTHING, _LAST_BIT = np.uint64(1), np.uint64(0), np.uint64(63)


@kernel(inline="always")
def mix_hash(state: Any, value: Any) -> Any:
    """Fold one more 64-bit value into a hash."""
    mixed = (state ^ value) * _SPREAD
    return mixed ^ (mixed >> _FOLD)


@kernel(inline="always")
def hash_token(word: Any, token: int) -> Any:
    """Hash of a word with one more token."""
    return mix_hash(word, np.uint64(token + 1))


@kernel(forceinline=True)
def enter_node(beam: Any, node: int, lexicon: Any, scorer: Any) -> None:
    """Move a beam to a node of the lexicon, or outside for -1.

    What the next letter or the end of the word will read is fetched into the cache meanwhile.
    """
    beam.lexicon = node
    if node < 0:
        beam.children, beam.first, beam.word_id = _NOTHING, -1, UNKNOWN
        return
    record = lexicon.nodes[node]
    beam.children, beam.first, beam.word_id = record.children, record.first, record.word
    prefetch(lexicon.nodes.ctypes.data + np.int64(record.first) * _NODE_BYTES)
    prefetch(lexicon.lookahead.ctypes.data + np.int64(record.first))
    if record.word != UNKNOWN and scorer.weights[0].kind == WORD_LM:
        prefetch(locate_unigram(scorer.memory, scorer.layout, record.word))


def _prefetch(_context: Any, address: Any) -> Any:
    """Ask for the cache line of an address, without waiting for it; any address is harmless."""
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


@kernel(forceinline=True)
def pick(n: int, column: int, floor: float, highest: float, work: Any) -> int:
    """Choose the beams that the frame's token number `column` can extend to a rank of `floor` or more.

    Their indices go to work.picked and the weights of all to work.weights.

    Args:
        highest: the most that a rank may gain over the weight; 0 to go by each beam's own bound.
    Returns:
        How many there are.
    """
    blanks, symbols, lasts, bounds = work.blanks, work.symbols, work.lasts, work.bounds
    weights, taken, picked = work.weights, work.taken, work.picked
    token, begin = np.uint32(work.tokens[column]), column * n
    prob = work.probs[token]
    for i in range(n):
        weights[i] = (blanks[i] if lasts[i] == token else blanks[i] + symbols[i]) * prob
    n_picked = 0
    for i in range(n):  # without a branch: which way it goes cannot be predicted
        picked[n_picked] = i
        bound = bounds[i] if highest == 0.0 else highest
        n_picked += (weights[i] * bound >= floor) & (taken[begin + i] == 0)
    return n_picked


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


@kernel(forceinline=True)
def follow_lexicon(beam: Any, token: int, nodes: Any, label: Any, distinct: bool) -> Any:
    """The lexicon's node behind a beam's by a token; -1 if there is none."""
    bit = _ONE << (np.uint64(token) & _LAST_BIT)
    if beam.children & bit == _NOTHING:
        return -1
    if distinct:
        return np.int64(beam.first) + count_ones(beam.children & (bit - _ONE))
    return find_child(nodes, label, distinct, beam.lexicon, token)


@kernel(forceinline=True)
def extend_letter(
    beams: Any, n: int, column: int, best: float, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    work: Any, highest: float,
) -> float:  # fmt: skip
    """Add the frame's token number `column`, part of a word, to every prefix.

    Candidates that rank below search.prune times the best are not made. (Arrays are taken out
    of their tuples before the loop: each access would count references.)

    Args:
        best: the best rank of the frame so far.
        highest: the largest factor of a hotword.
    Returns:
        The best rank, these candidates included.
    """
    nodes, label, lookahead, distinct = lexicon.nodes, lexicon.label, lexicon.lookahead, lexicon.distinct
    factors, unknown_factors = lexicon.factors, lexicon.unknown_factors
    follows, hot_factors, spelled = hotwords.follow, hotwords.factors, scorer.weights[0].kind == CHAR_LM
    candidates, weights, picked = work.candidates, work.weights, work.picked
    token, n_candidates = work.tokens[column], work.counts[N_CANDIDATES]
    floor = best * search.prune
    for p in range(pick(n, column, floor, 0.0, work)):
        i = picked[p]
        beam, weight = beams[i], weights[i]
        node = follow_lexicon(beam, token, nodes, label, distinct)
        follow = follows[beam.hotword, token] if beam.hotword >= 0 else -1
        factor, longer = 1.0, min(beam.length + 2, N_OOV_FACTORS - 1)
        if node >= 0:
            factor = factors[lookahead[node]]
        elif follow < 0:
            factor = unknown_factors[min(beam.length + 1, N_OOV_FACTORS - 1)]
        bound = max(factor, unknown_factors[longer])
        if follow >= 0:
            factor *= hot_factors[follow]
            bound = max(bound, 1.0) * highest
        rank = weight * factor
        if rank <= 0.0 or rank < floor:
            continue
        score, context = 0.0, -1
        if spelled:
            score, context = score_letter(token, beam.context, scorer, work)
            weight *= math.exp(score)
            rank = weight * factor
            if rank <= 0.0 or rank < floor:
                continue
            work.counts[N_CONTEXTS] += 1
        add_candidate(n_candidates, rank, weight, factor, work)
        candidate = candidates[n_candidates]
        candidate.lm, candidate.parent, candidate.token, candidate.bound = beam.lm + score, i, token, bound
        candidate.lexicon, candidate.hotword, candidate.context = node, follow, context
        n_candidates += 1
        best = max(best, rank)
        floor = best * search.prune
    work.counts[N_CANDIDATES] = n_candidates
    return best


@kernel(inline="always")
def add_candidate(index: int, rank: float, weight: float, factor: float, work: Any) -> None:
    """Store what all candidates have for a prefix that became one token longer."""
    work.ranks[index], work.new_factors[index] = rank, factor
    work.new_blanks[index], work.new_symbols[index] = 0.0, weight


@kernel(forceinline=True)
def score_letter(token: int, context: int, scorer: Any, work: Any) -> Any:
    """A character model's weighted score of one token, and the place that holds the context after it."""
    place, contexts, weights = work.counts[N_CONTEXTS], work.contexts, scorer.weights[0]
    word = scorer.token_words[token]
    log10_prob = score_word(
        scorer.memory, scorer.layout, weights.order, contexts[context], word, contexts[place]
    )
    work.known[place].history = hash_context(contexts[place])
    return weights.weight * log10_prob, place


@kernel(forceinline=True)
def identify_word(beam: Any, kind: int, token_words: Any) -> Any:
    """The language model's id of what ends a beam's unfinished word."""
    if kind == CHAR_LM:
        return np.int64(token_words[len(token_words) - 1])
    return np.int64(beam.word_id)


@kernel(forceinline=True)
def weigh_word(beam: Any, word: int, log10_prob: float, weights: Any, complete: Any, ends_word: Any) -> Any:
    """Natural log of what finishing a beam's word adds, of which the model says log10_prob."""
    score = complete[beam.hotword] if beam.hotword >= 0 else 0.0
    if weights.kind == NO_LM:
        return score
    score += weights.weight * log10_prob + weights.word_bonus
    favoured = beam.hotword >= 0 and ends_word[beam.hotword] != 0
    if word == UNKNOWN and not favoured and weights.kind != CHAR_LM:
        score += weights.unknown + weights.unknown_letter * beam.length
    return score


@kernel(forceinline=True)
def look_up_word(beam: Any, word: int, order: int, memory: Any, layout: Any, work: Any) -> Any:
    """The place in work.known and work.contexts of a word after a beam's context.

    The same word ends in several frames, and after a context that many beams share: what was
    looked up before is found again.
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
    log10_prob = score_word(memory, layout, order, context, word, extended)
    known[place].key, known[place].score = key, log10_prob
    known[place].history = hash_context(extended)
    table[slot] = place
    return place


@kernel(inline="always")
def hash_context(context: Any) -> Any:
    """Hash of the words that a language model still looks at."""
    key = mix_hash(_START, np.uint64(context.length + 1))  # small states and small words would collide
    for i in range(context.length):
        key = mix_hash(key, np.uint64(context.words[i]) + np.uint64(1))
    return key


@kernel(forceinline=True)
def follow_delimiter(follows: Any, node: int, delimiter: int) -> int:
    """The hotwords' node at the start of the next word."""
    return follows[node, delimiter] if node >= 0 and delimiter >= 0 else 0


@kernel(forceinline=True)
def extend_word(
    beams: Any, n: int, column: int, best: float, search: Any, scorer: Any, hotwords: Any, work: Any,
    letter_highest: float, highest: float,
) -> float:  # fmt: skip
    """End the unfinished word of every prefix; arguments and result as for extend_letter.

    letter_highest, highest: no letter or end of a word makes a weight's rank larger.
    """
    candidates, known, weights_of, picked = work.candidates, work.known, work.weights, work.picked
    memory, layout, token_words = scorer.memory, scorer.layout, scorer.token_words
    weights, follows, hot_factors = scorer.weights[0], hotwords.follow, hotwords.factors
    complete, ends_word = hotwords.complete, hotwords.ends_word
    delimiter, n_candidates, floor = search.delimiter, work.counts[N_CANDIDATES], best * search.prune
    for p in range(pick(n, column, floor, highest, work)):
        i = picked[p]
        beam, weight = beams[i], weights_of[i]
        if beam.length == 0:
            continue
        word, log10_prob, place = UNKNOWN, 0.0, -1
        if weights.kind != NO_LM:
            word = identify_word(beam, weights.kind, token_words)
            place = look_up_word(beam, word, weights.order, memory, layout, work)
            log10_prob = known[place].score
        score = weigh_word(beam, word, log10_prob, weights, complete, ends_word)
        follow = follow_delimiter(follows, beam.hotword, delimiter)
        weight *= math.exp(score)
        rank = weight * hot_factors[follow]
        if rank <= 0.0 or rank < floor:
            continue
        add_candidate(n_candidates, rank, weight, hot_factors[follow], work)
        candidate = candidates[n_candidates]
        candidate.lm, candidate.parent, candidate.token = beam.lm + score, i, delimiter
        candidate.bound, candidate.lexicon = letter_highest, 0
        candidate.hotword, candidate.context = follow, place
        n_candidates += 1
        best = max(best, rank)
        floor = best * search.prune
    work.counts[N_CANDIDATES] = n_candidates
    return best
