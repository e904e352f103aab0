"""Labels that are pieces of words: several letters each, and some of them begin a word.

Lexicon and hotwords are followed letter by letter, so every division of a word into pieces finds it. A prefix
is its text and its last label: what is spelled alike by other pieces is one prefix, and its alignments are
added up (merge_alike). A label that begins a word ends the one before: that is scored once a frame for each
beam, however many such labels the frame offers (end_words).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.extend import (
    EMPTY,
    add_candidate,
    find_child,
    find_words,
    follow_delimiter,
    identify_word,
    look_up_word,
    mix_hash,
    pick,
    prefetch,
    weigh_word,
)
from engine.kernels.ctc.ngram import UNKNOWN
from engine.kernels.ctc.state import (
    AVERAGE_WORD_LENGTH,
    LEXICON_NODE,
    N_CANDIDATES,
    N_OOV_FACTORS,
    NO_LM,
    OPENS_WORD,
)
from engine.kernels.vector import lanes

_HALF, _ONE, _NOTHING = np.uint64(32), np.uint64(1), np.uint64(0)
_NODE_BYTES = LEXICON_NODE.itemsize


@inner(forceinline=True)
def walk_lexicon(
    node: int, token: int, letters: Any, ends: Any, nodes: Any, label: Any, distinct: bool
) -> Any:
    """The lexicon's node behind all letters of a token; -1 if no word goes on so."""
    for at in range(np.uint64(ends[np.uint64(token)]), np.uint64(ends[np.uint64(token + 1)])):
        if node < 0:
            return -1
        node = find_child(nodes, label, distinct, node, np.int64(letters[at]))
    return node


@kernel
def find_entries(letters: Any, ends: Any, nodes: Any, label: Any, distinct: bool) -> Any:
    """The lexicon's node that each token leads to at the start of a word: int32 [vocab_size], -1 for none."""
    entries = np.empty(len(ends) - 1, np.int32)
    for token in range(len(entries)):
        entries[token] = walk_lexicon(np.int64(0), token, letters, ends, nodes, label, distinct)
    return entries


@inner(forceinline=True)
def walk_hotwords(follow: Any, node: int, token: int, letters: Any, ends: Any) -> Any:
    """The hotwords' node behind all letters of a token; -1 outside."""
    for at in range(np.uint64(ends[np.uint64(token)]), np.uint64(ends[np.uint64(token + 1)])):
        if node < 0:
            return -1
        node = follow[node, np.int64(letters[at])]
    return node


@inner(forceinline=True)
def count_letters(token: int, pieces: Any) -> Any:
    """How many letters a token has."""
    return np.int64(pieces.ends[np.uint64(token + 1)]) - np.int64(pieces.ends[np.uint64(token)])


@inner(forceinline=True)
def spell_on(beam: Any, token: int, delimiter: int, pieces: Any) -> Any:
    """Hashes of a beam's finished words and of its unfinished word, with one more token."""
    opens = pieces.spoken[np.uint64(token)] == OPENS_WORD
    text, word = beam.text, beam.word
    if token == delimiter or opens:
        text, word = (mix_hash(text, word) if beam.length > 0 else text), EMPTY
    if token == delimiter:
        return text, word
    return text, word * pieces.powers[np.uint64(token)] + pieces.sums[np.uint64(token)]


@kernel(inline="always")
def hash_prefix(text: Any, word: Any, token: int) -> Any:
    """Which prefix this is: its words, and the token that the next one would have to differ from."""
    return mix_hash(mix_hash(text, word), np.uint64(token + 2))


@inner(forceinline=True)
def bound_unknown(n_letters: int, unknown_factors: Any) -> Any:
    """No word with more letters that nobody knows ranks by a larger factor.

    The factor's logarithm is a straight line up to the average length, and another one after it.
    """
    longer = min(n_letters + 1, N_OOV_FACTORS - 1)
    middle = unknown_factors[np.uint64(max(longer, AVERAGE_WORD_LENGTH))]
    return max(unknown_factors[np.uint64(longer)], max(middle, unknown_factors[N_OOV_FACTORS - 1]))


@inner(forceinline=True)
def end_words(
    beams: Any, n: int, largest: float, floor: float, highest: float, scorer: Any, hotwords: Any, work: Any
) -> None:
    """What the end of its unfinished word does to every beam's weight, for tokens that begin the next.

    work.gains becomes a factor (1 for beams between words; 0 for those that cannot reach the floor), work.
    gain_lms its natural log, work.places the place of the context after the word, or -1.

    Args:
        largest: the highest probability of a token that begins a word.
        highest: the largest factor from weight to rank.
    """
    known, slots, places, weights = work.known, work.slots, work.places, scorer.weights[0]
    gains, gain_lms, blanks, symbols = work.gains, work.gain_lms, work.blanks, work.symbols
    memory, layout, token_words = scorer.memory, scorer.layout, scorer.token_words
    complete, ends_word, most = hotwords.complete, hotwords.ends_word, largest * highest
    for first in range(0, n, 64):
        bits = _NOTHING
        for i in range(first, min(n, first + 64)):
            gains[i] = 0.0
            if (blanks[i] + symbols[i]) * most >= floor:
                bits |= _ONE << np.uint64(i - first)
        if weights.kind != NO_LM:
            find_words(beams, first, bits, scorer, work)
        while bits != _NOTHING:
            i = np.uint64(first) + lanes.first_bit(bits)
            bits &= bits - _ONE
            beam = beams[np.uint64(slots[i])]
            gains[i], gain_lms[i] = 1.0, 0.0
            word, log10_prob = UNKNOWN, 0.0
            place: Any = -1
            if beam.length == 0:
                places[i] = -1
                continue
            if weights.kind != NO_LM:
                word = identify_word(beam, weights.kind, token_words)
                place = np.int64(places[i])
                if place < 0:
                    place = look_up_word(beam, word, weights, memory, layout, work)
                log10_prob = known[np.uint64(place)].score
            score = weigh_word(beam, beam.letters, word, log10_prob, weights, complete, ends_word)
            places[i], gain_lms[i] = place, score
            if place >= 0 and word != UNKNOWN and (beam.hotword < 0 or complete[beam.hotword] == 0.0):
                gains[i] = known[np.uint64(place)].gain
            else:
                gains[i] = math.exp(score)


@inner(forceinline=True)
def extend_piece(
    beams: Any, n: int, column: int, best: float, search: Any, lexicon: Any, hotwords: Any, pieces: Any,
    work: Any, highest: float,
) -> float:  # fmt: skip
    """Add the frame's token number `column` to every prefix, at the start of a word or within one.

    Arguments and result as for engine.kernels.ctc.extend.extend_letter. For a token that begins a word,
    end_words has run.
    """
    nodes, label, distinct, follows = lexicon.nodes, lexicon.label, lexicon.distinct, hotwords.follow
    candidates, weights, slots, token = work.candidates, work.weights, work.slots, work.tokens[column]
    letters, ends, n_more = pieces.letters, pieces.ends, count_letters(token, pieces)
    opens, entry = pieces.spoken[token] == OPENS_WORD, pieces.entries[np.uint64(token)]
    n_candidates, floor = work.counts[N_CANDIDATES], best * search.prune
    favoured = 0 if len(hotwords.factors) > 1 else 1
    bounds, reach = work.bounds.ctypes.data, 1.0
    if opens:  # then the factor is the same for all, but for hotwords
        bounds = work.gains.ctypes.data
        reach = rank_node(entry, n_more, lexicon)
        if favoured == 0:
            reach = max(reach, 1.0) * highest
    for first in range(0, n, 64):
        bits = pick(first, n, column, floor / reach, 0.0, bounds, work)
        while bits != _NOTHING:
            i = np.uint64(first) + lanes.first_bit(bits)
            bits &= bits - _ONE
            slot, weight, score = slots[i], weights[i], 0.0
            beam = beams[np.uint64(slot)]
            hotword, n_letters, context = beam.hotword, np.int64(beam.letters) + n_more, np.int64(-1)
            if opens:
                node, n_letters = np.int64(entry), n_more
                weight, score, context = weight * work.gains[i], work.gain_lms[i], np.int64(work.places[i])
                if favoured == 0 and beam.length > 0:
                    hotword = follow_delimiter(follows, hotword, search.space)
            else:
                node = np.int64(walk_lexicon(beam.lexicon, token, letters, ends, nodes, label, distinct))
            follow = np.int64(-1)
            if hotword >= favoured:
                follow = np.int64(walk_hotwords(follows, hotword, token, letters, ends))
            factor = 1.0 if node < 0 <= follow else rank_node(node, n_letters, lexicon)
            bound = max(factor, bound_unknown(n_letters, lexicon.unknown_factors))
            if follow >= 0:
                factor *= hotwords.factors[follow]
                bound = max(bound, 1.0) * highest
            rank = weight * factor
            if rank <= 0.0 or rank < floor:
                continue
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


@inner(forceinline=True)
def rank_node(node: int, n_letters: int, lexicon: Any) -> Any:
    """The rank's factor of an unfinished word, without hotwords."""
    if node >= 0:
        return lexicon.factors[lexicon.lookahead[np.uint64(node)]]
    return lexicon.unknown_factors[np.uint64(min(n_letters, N_OOV_FACTORS - 1))]


@inner
def merge_alike(beams: Any, n_before: int, n: int, delimiter: int, work: Any, pieces: Any) -> int:
    """Add up candidates that are one prefix, spelled by other pieces. Returns how many are left.

    Of each prefix the likeliest candidate stays in work.chosen, which stays in ascending order; the others
    have no weight left.
    """
    mask, seen, chosen, ranks = np.uint64(len(work.seen) - 1), work.seen, work.chosen, work.ranks
    blanks, symbols = work.new_blanks, work.new_symbols
    keys, touched = np.empty(n, np.uint64), np.empty(n, np.uint64)
    n_touched, kept = 0, 0
    for i in range(n):
        index = chosen[i]
        candidate = work.candidates[index]
        beam = beams[work.slots[index] if index < n_before else candidate.slot]
        keys[i] = beam.key
        if index >= n_before:
            text, word = spell_on(beam, candidate.token, delimiter, pieces)
            keys[i] = hash_prefix(text, word, candidate.token)
        slot = (keys[i] >> _HALF) & mask
        while seen[slot] >= 0 and keys[seen[slot]] != keys[i]:
            slot = (slot + _ONE) & mask
        if seen[slot] < 0:
            seen[slot], touched[n_touched] = i, slot
            n_touched += 1
            continue
        other = chosen[seen[slot]]
        if ranks[index] > ranks[other]:
            seen[slot] = i
            index, other = other, index
        ranks[other] += ranks[index]
        blanks[other] += blanks[index]
        symbols[other] += symbols[index]
        ranks[index], blanks[index], symbols[index] = -1.0, 0.0, 0.0
    for i in range(n_touched):
        seen[touched[i]] = -1
    for i in range(n):
        index = chosen[i]
        chosen[kept] = index
        kept += ranks[index] >= 0.0
    return kept
