"""One frame of CTC prefix beam search: which prefixes the frame allows, and their weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from engine.kernels._jit import kernel
from engine.kernels.ctc_state import CHAR_LM, N_CANDIDATES, N_OOV_FACTORS, N_SLOTS, NO_LM
from engine.kernels.ngram import UNKNOWN, score_word

EMPTY = np.uint64(0x51ED27)  # hash of no letters
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)
_HALF = np.uint64(32)
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
def select_tokens(row: Any, spoken: Any, blank: int, token_min: float, tokens: Any, probs: Any) -> Any:
    """Choose the tokens of one frame that are worth following.

    Args:
        row: float32 [vocab_size], natural log.
        spoken: uint8 [vocab_size], 0 for labels that are never text.
        tokens: int32 [vocab_size], receives the chosen tokens in ascending order.
        probs: float64 [vocab_size], receives their probabilities over that of the best.
    Returns:
        How many were chosen (0 for a frame of only -inf) and the best one's log probability.
    """
    best = blank
    for token in range(len(row)):
        if spoken[token] and row[token] > row[best]:
            best = token
    largest = row[best]
    if largest == -np.inf:
        return 0, 0.0
    n = 0
    for token in range(len(row)):
        if spoken[token] and (row[token] >= token_min or token == best):
            tokens[n] = token
            probs[token] = math.exp(row[token] - largest)
            n += 1
    return n, np.float64(largest)


@kernel(forceinline=True)
def link_parents(beams: Any, n: int, table: Any, parents: Any) -> None:
    """Find for each beam the beam whose prefix is one token shorter: parents[i], -1 if there is none.

    table: int32, a power of two of at least twice the beams; only its content here matters.
    """
    mask = np.uint64(len(table) - 1)
    table[:] = -1
    for i in range(n):
        slot = (beams[i].key >> _HALF) & mask
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = i
    for i in range(n):
        key = beams[i].parent_key
        slot = (key >> _HALF) & mask
        parents[i] = -1
        while table[slot] >= 0:
            if beams[table[slot]].key == key:
                parents[i] = table[slot]
                break
            slot = (slot + np.uint64(1)) & mask


@kernel(forceinline=True)
def stay(beams: Any, n: int, search: Any, work: Any) -> float:
    """Candidates 0 to n: every prefix as it is, by a blank or its last token once more.

    Returns:
        The best rank among them.
    """
    best = 0.0
    probs, candidates, split = work.probs, work.candidates, search.split
    for i in range(n):
        beam, candidate = beams[i], candidates[i]
        total = beam.blank + beam.symbol
        candidate.blank = total * probs[search.blank]
        candidate.symbol = 0.0
        if beam.last >= 0:
            repeatable = total if beam.last == search.delimiter else beam.symbol
            candidate.symbol = repeatable * probs[beam.last]
        candidate.lm, candidate.factor = beam.lm, beam.factor
        candidate.lexicon, candidate.hotword = beam.lexicon, beam.hotword
        candidate.parent, candidate.token, candidate.slot, candidate.source = i, -1, -1, -1
        best = max(best, rank_candidate(candidate, split))
    work.counts[N_CANDIDATES], work.counts[N_SLOTS] = n, 0
    return best


@kernel(inline="always")
def rank_candidate(candidate: Any, split: bool) -> Any:
    """Set and return what a candidate is compared by."""
    if split:
        candidate.rank = max(candidate.blank, candidate.symbol) * candidate.factor
    else:
        candidate.rank = (candidate.blank + candidate.symbol) * candidate.factor
    return candidate.rank


@kernel(forceinline=True)
def find_children(beams: Any, n: int, parents: Any, token: int, delimiter: int, children: Any) -> None:
    """children[p]: the beam that is beam p's prefix plus `token`; -1 if it is not among the beams."""
    for i in range(n):
        children[i] = -1
    for i in range(n):
        if beams[i].last == token and parents[i] >= 0 and (token == delimiter or beams[i].length > 0):
            children[parents[i]] = i


@kernel(inline="always")
def realign(candidate: Any, source: int, beam: Any, weight: float, split: bool) -> Any:
    """Add a longer way to a staying prefix; note it when it outweighs all others. Returns the rank."""
    if weight <= 0.0:
        return 0.0
    if candidate.lm != beam.lm:
        weight *= math.exp(candidate.lm - beam.lm)
    if weight > candidate.blank + candidate.symbol:
        candidate.source = source
    candidate.symbol += weight
    return rank_candidate(candidate, split)


@kernel(inline="always")
def fill_candidate(
    candidate: Any, parent: int, token: int, beam: Any, weight: float, score: float, factor: float
) -> None:
    """Describe a prefix that is one token longer than beam `parent`."""
    candidate.rank, candidate.blank, candidate.symbol = weight * factor, 0.0, weight
    candidate.lm, candidate.factor = beam.lm + score, factor
    candidate.parent, candidate.token, candidate.slot, candidate.source = parent, token, -1, -1


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
def extend_letter(
    beams: Any, n: int, token: int, best: float, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    contexts: Any, work: Any,
) -> float:  # fmt: skip
    """Add `token`, part of a word, to every prefix.

    Candidates that rank below search.prune times the best are not made. (Arrays are taken out
    of their tuples before the loop: each access would count references.)

    Args:
        best: the best rank of the frame so far.
    Returns:
        The best rank, these candidates included.
    """
    candidates, children, nodes, label = work.candidates, work.children, lexicon.nodes, lexicon.label
    factors, unknown_factors = lexicon.factors, lexicon.unknown_factors
    follows, hot_factors, spelled = hotwords.follow, hotwords.factors, scorer.weights[0].kind == CHAR_LM
    prob, n_candidates = work.probs[token], work.counts[N_CANDIDATES]
    highest = lexicon.highest * math.exp(hotwords.highest)
    for i in range(n):
        beam = beams[i]
        repeated = token == beam.last and beam.length > 0
        weight = (beam.blank if repeated else beam.blank + beam.symbol) * prob
        if children[i] >= 0:
            best = max(best, realign(candidates[children[i]], i, beam, weight, search.split))
            continue
        floor = best * search.prune
        if weight * highest < floor:
            continue
        node = find_child(nodes, label, lexicon.distinct, beam.lexicon, token)
        follow = follows[beam.hotword, token] if beam.hotword >= 0 else -1
        factor = 1.0
        if node >= 0:
            factor = factors[nodes[node].lookahead]
        elif follow < 0:
            factor = unknown_factors[min(beam.length + 1, N_OOV_FACTORS - 1)]
        if follow >= 0:
            factor *= hot_factors[follow]
        rank = weight * factor
        if rank <= 0.0 or rank < floor:
            continue
        score, slot = 0.0, -1
        if spelled:
            score, slot = score_letter(token, contexts[i], scorer, work)
            weight *= math.exp(score)
            rank = weight * factor
            if rank <= 0.0 or rank < floor:
                continue
            work.counts[N_SLOTS] += 1
        candidate = candidates[n_candidates]
        n_candidates += 1
        fill_candidate(candidate, i, token, beam, weight, score, factor)
        candidate.lexicon, candidate.hotword, candidate.slot = node, follow, slot
        best = max(best, rank)
    work.counts[N_CANDIDATES] = n_candidates
    return best


@kernel(forceinline=True)
def score_letter(token: int, context: Any, scorer: Any, work: Any) -> Any:
    """A character model's weighted score of one token, and the slot that holds the context after it."""
    slot = work.counts[N_SLOTS]
    word = scorer.token_words[token]
    weights = scorer.weights[0]
    log10_prob = score_word(scorer.memory, scorer.layout, weights.order, context, word, work.slots[slot])
    return weights.weight * log10_prob, slot


@kernel(forceinline=True)
def identify_word(beam: Any, kind: int, token_words: Any, words: Any) -> Any:
    """The language model's id of what ends a beam's unfinished word."""
    if kind == CHAR_LM:
        return np.int64(token_words[len(token_words) - 1])
    return np.int64(words[beam.lexicon]) if beam.lexicon >= 0 else UNKNOWN


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
def look_up_word(
    beam: Any, word: int, context: Any, extended: Any, order: int, memory: Any, layout: Any, known: Any,
    known_contexts: Any,
) -> Any:  # fmt: skip
    """The log10 probability of a word after a beam's context, and in `extended` the context behind it.

    The same word ends in several frames, and after a context that many beams share: what was
    looked up before is kept in `known`, a table of one place for each hash.
    """
    key = mix_hash(beam.history, np.uint64(word + 1)) | _ONE  # 0 marks an empty place
    slot = (key >> _HALF) & np.uint64(len(known) - 1)
    if known[slot].key == key:
        extended[0] = known_contexts[slot]
        return known[slot].score
    log10_prob = score_word(memory, layout, order, context, word, extended[0])
    known[slot].key, known[slot].score, known_contexts[slot] = key, log10_prob, extended[0]
    return log10_prob


@kernel(forceinline=True)
def follow_delimiter(follows: Any, node: int, delimiter: int) -> int:
    """The hotwords' node at the start of the next word."""
    return follows[node, delimiter] if node >= 0 and delimiter >= 0 else 0


@kernel(forceinline=True)
def extend_word(
    beams: Any, n: int, best: float, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    contexts: Any, work: Any,
) -> float:  # fmt: skip
    """End the unfinished word of every prefix; arguments and result as for extend_letter."""
    candidates, children, slots = work.candidates, work.children, work.slots
    memory, layout, token_words, words = scorer.memory, scorer.layout, scorer.token_words, lexicon.word
    weights, follows, hot_factors = scorer.weights[0], hotwords.follow, hotwords.factors
    complete, ends_word = hotwords.complete, hotwords.ends_word
    delimiter, prob = search.delimiter, work.probs[search.delimiter]
    n_candidates, n_slots = work.counts[N_CANDIDATES], work.counts[N_SLOTS]
    highest = math.exp(max(weights.word_bonus, 0.0) + hotwords.highest)
    for i in range(n):
        beam = beams[i]
        if beam.length == 0:
            continue
        weight = (beam.blank + beam.symbol) * prob
        if children[i] >= 0:
            best = max(best, realign(candidates[children[i]], i, beam, weight, search.split))
            continue
        if weight * highest < best * search.prune:
            continue
        word, log10_prob = UNKNOWN, 0.0
        slots[n_slots].length = 0
        if weights.kind != NO_LM:
            word = identify_word(beam, weights.kind, token_words, words)
            log10_prob = look_up_word(
                beam, word, contexts[i], slots[n_slots : n_slots + 1], weights.order, memory, layout,
                work.known, work.known_contexts,
            )  # fmt: skip
        score = weigh_word(beam, word, log10_prob, weights, complete, ends_word)
        follow = follow_delimiter(follows, beam.hotword, delimiter)
        weight *= math.exp(score)
        rank = weight * hot_factors[follow]
        if rank <= 0.0 or rank < best * search.prune:
            continue
        candidate = candidates[n_candidates]
        n_candidates += 1
        fill_candidate(candidate, i, delimiter, beam, weight, score, hot_factors[follow])
        candidate.lexicon, candidate.hotword, candidate.slot = 0, follow, n_slots
        n_slots += 1
        best = max(best, rank)
    work.counts[N_CANDIDATES], work.counts[N_SLOTS] = n_candidates, n_slots
    return best
