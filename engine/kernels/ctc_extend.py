"""One frame of CTC prefix beam search: which prefixes the frame allows, and their weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import kernel
from engine.kernels.ctc_state import CHAR_LM, N_CANDIDATES, N_OOV_FACTORS, N_SLOTS, NO_LM
from engine.kernels.ngram import UNKNOWN, score_word

EMPTY = np.uint64(0x51ED27)  # hash of no letters
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)
_HALF = np.uint64(32)


@kernel
def mix_hash(state: Any, value: Any) -> Any:
    """Fold one more 64-bit value into a hash."""
    mixed = (state ^ value) * _SPREAD
    return mixed ^ (mixed >> _FOLD)


@kernel
def hash_token(word: Any, token: int) -> Any:
    """Hash of a word with one more token."""
    return mix_hash(word, np.uint64(token + 1))


@kernel
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


@kernel
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


@kernel
def stay(beams: Any, n: int, search: Any, work: Any) -> float:
    """Candidates 0 to n: every prefix as it is, by a blank or its last token once more.

    Returns:
        The best rank among them.
    """
    best = 0.0
    probs = work.probs
    for i in range(n):
        beam, candidate = beams[i], work.candidates[i]
        total = beam.blank + beam.symbol
        candidate.blank = total * probs[search.blank]
        candidate.symbol = 0.0
        if beam.last >= 0:
            repeatable = total if beam.last == search.delimiter else beam.symbol
            candidate.symbol = repeatable * probs[beam.last]
        candidate.lm, candidate.factor = beam.lm, beam.factor
        candidate.lexicon, candidate.hotword = beam.lexicon, beam.hotword
        candidate.parent, candidate.token, candidate.slot, candidate.source = i, -1, -1, -1
        best = max(best, rank_candidate(candidate, search.split))
    work.counts[N_CANDIDATES], work.counts[N_SLOTS] = n, 0
    return best


@kernel
def rank_candidate(candidate: Any, split: bool) -> float:
    """Set and return what a candidate is compared by."""
    if split:
        candidate.rank = max(candidate.blank, candidate.symbol) * candidate.factor
    else:
        candidate.rank = (candidate.blank + candidate.symbol) * candidate.factor
    return candidate.rank


@kernel
def find_children(beams: Any, n: int, parents: Any, token: int, delimiter: int, children: Any) -> None:
    """children[p]: the beam that is beam p's prefix plus `token`; -1 if it is not among the beams."""
    for i in range(n):
        children[i] = -1
    for i in range(n):
        if beams[i].last == token and parents[i] >= 0 and (token == delimiter or beams[i].length > 0):
            children[parents[i]] = i


@kernel
def realign(candidate: Any, source: int, beam: Any, weight: float, split: bool) -> float:
    """Add a longer way to a staying prefix; note it when it outweighs all others. Returns the rank."""
    if weight <= 0.0:
        return 0.0
    if candidate.lm != beam.lm:
        weight *= math.exp(candidate.lm - beam.lm)
    if weight > candidate.blank + candidate.symbol:
        candidate.source = source
    candidate.symbol += weight
    return rank_candidate(candidate, split)


@kernel
def add_candidate(work: Any, parent: int, token: int, beam: Any, weight: float, score: float, factor: float) -> Any:
    """Append a prefix that is one token longer than beam `parent`."""
    candidate = work.candidates[work.counts[N_CANDIDATES]]
    work.counts[N_CANDIDATES] += 1
    candidate.rank, candidate.blank, candidate.symbol = weight * factor, 0.0, weight
    candidate.lm, candidate.factor = beam.lm + score, factor
    candidate.parent, candidate.token, candidate.slot, candidate.source = parent, token, -1, -1
    return candidate


@kernel
def find_child(first: Any, label: Any, node: int, token: int) -> int:
    """The child of a lexicon's node by a token; -1 if there is none or the node is -1."""
    if node < 0:
        return -1
    low, high = first[node], first[node + 1]
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


@kernel
def extend_letter(
    beams: Any, n: int, token: int, best: float, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    contexts: Any, work: Any,
) -> float:  # fmt: skip
    """Add `token`, part of a word, to every prefix.

    Candidates that rank below search.prune times the best are not made.

    Args:
        best: the best rank of the frame so far.
    Returns:
        The best rank, these candidates included.
    """
    prob = work.probs[token]
    for i in range(n):
        beam = beams[i]
        repeated = token == beam.last and beam.length > 0
        weight = (beam.blank if repeated else beam.blank + beam.symbol) * prob
        if work.children[i] >= 0:
            best = max(best, realign(work.candidates[work.children[i]], i, beam, weight, search.split))
            continue
        node = find_child(lexicon.first, lexicon.label, beam.lexicon, token)
        follow = hotwords.follow[beam.hotword, token] if beam.hotword >= 0 else -1
        factor = compute_factor(lexicon, hotwords, node, follow, beam.length + 1)
        floor = best * search.prune
        if weight * factor <= 0.0 or weight * factor < floor:
            continue
        score, slot = 0.0, -1
        if scorer.kind == CHAR_LM:
            score, slot = score_letter(token, contexts[i], scorer, work)
            weight *= math.exp(score)
            if weight * factor <= 0.0 or weight * factor < floor:
                continue
            work.counts[N_SLOTS] += 1
        candidate = add_candidate(work, i, token, beam, weight, score, factor)
        candidate.lexicon, candidate.hotword, candidate.slot = node, follow, slot
        best = max(best, candidate.rank)
    return best


@kernel
def score_letter(token: int, context: Any, scorer: Any, work: Any) -> Any:
    """A character model's weighted score of one token, and the slot that holds the context after it."""
    slot = work.counts[N_SLOTS]
    word = scorer.token_words[token]
    log10_prob = score_word(scorer.memory, scorer.layout, scorer.order, context, word, work.slots[slot])
    return scorer.weight * log10_prob, slot


@kernel
def compute_factor(lexicon: Any, hotwords: Any, node: int, follow: int, length: int) -> float:
    """What ranking multiplies for an unfinished word: lookahead or the unknown word's cost, and hotwords."""
    factor = 1.0
    if node >= 0:
        factor = lexicon.factors[lexicon.lookahead[node]]
    elif follow < 0:
        factor = lexicon.unknown_factors[min(length, N_OOV_FACTORS - 1)]
    return factor * hotwords.factors[follow] if follow >= 0 else factor


@kernel
def score_end_of_word(beam: Any, context: Any, scorer: Any, lexicon: Any, hotwords: Any, extended: Any) -> float:
    """Natural log of what finishing a beam's word adds; writes the context after it."""
    bonus = hotwords.complete[beam.hotword] if beam.hotword >= 0 else 0.0
    if scorer.kind == NO_LM:
        extended.length = 0
        return bonus
    if scorer.kind == CHAR_LM:
        delimiter = scorer.token_words[len(scorer.token_words) - 1]
        log10_prob = score_word(scorer.memory, scorer.layout, scorer.order, context, delimiter, extended)
        return scorer.weight * log10_prob + scorer.word_bonus + bonus
    word = lexicon.word[beam.lexicon] if beam.lexicon >= 0 else UNKNOWN
    log10_prob = score_word(scorer.memory, scorer.layout, scorer.order, context, word, extended)
    score = scorer.weight * log10_prob + scorer.word_bonus + bonus
    favoured = beam.hotword >= 0 and hotwords.ends_word[beam.hotword]
    if word == UNKNOWN and not favoured:
        score += scorer.unknown + scorer.unknown_letter * beam.length
    return score


@kernel
def follow_delimiter(hotwords: Any, node: int, delimiter: int) -> int:
    """The hotwords' node at the start of the next word."""
    return hotwords.follow[node, delimiter] if node >= 0 and delimiter >= 0 else 0


@kernel
def extend_word(
    beams: Any, n: int, best: float, search: Any, scorer: Any, lexicon: Any, hotwords: Any, contexts: Any, work: Any
) -> float:  # fmt: skip
    """End the unfinished word of every prefix; arguments and result as for extend_letter."""
    prob = work.probs[search.delimiter]
    for i in range(n):
        beam = beams[i]
        if beam.length == 0:
            continue
        weight = (beam.blank + beam.symbol) * prob
        if work.children[i] >= 0:
            best = max(best, realign(work.candidates[work.children[i]], i, beam, weight, search.split))
            continue
        follow = follow_delimiter(hotwords, beam.hotword, search.delimiter)
        slot = work.counts[N_SLOTS]
        score = score_end_of_word(beam, contexts[i], scorer, lexicon, hotwords, work.slots[slot])
        factor = hotwords.factors[follow]
        weight *= math.exp(score)
        if weight * factor <= 0.0 or weight * factor < best * search.prune:
            continue
        candidate = add_candidate(work, i, search.delimiter, beam, weight, score, factor)
        candidate.lexicon, candidate.hotword, candidate.slot = 0, follow, slot
        work.counts[N_SLOTS] += 1
        best = max(best, candidate.rank)
    return best
