"""One frame of CTC prefix beam search: its tokens, and the weights of the prefixes that stay as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.state import N_CANDIDATES
from engine.kernels.vector import lanes

_NONE, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel(forceinline=True)
def select_tokens(row: Any, spoken: Any, blank: int, token_min: float, tokens: Any, probs: Any) -> Any:
    """Choose the tokens of one frame that are worth following.

    Args:
        row: float32 [vocab_size], natural log.
        spoken: uint8 [vocab_size], 0 for labels that are never text.
        tokens: int32 [vocab_size], receives the chosen tokens in ascending order.
        probs: float64 [vocab_size], receives their probabilities divided by that of the best.
    Returns:
        How many were chosen (0 for a frame of only -inf) and the best one's log probability.
    """
    n = list_tokens(row, spoken, token_min, tokens)
    if n == 0:
        tokens[0], n = find_best(row, spoken, blank), 1
    largest = row[tokens[0]]
    if largest == -np.inf:
        return 0, 0.0
    if n == 1:
        probs[tokens[0]] = 1.0
        return n, np.float64(largest)
    for i in range(1, n):
        largest = max(largest, row[tokens[i]])
    for i in range(n):
        probs[tokens[i]] = math.exp(row[tokens[i]] - largest)
    return n, np.float64(largest)


@inner(forceinline=True)
def list_tokens(row: Any, spoken: Any, token_min: float, tokens: Any) -> Any:
    """Write the labels of `token_min` or more that may be text to `tokens`. Returns how many there are."""
    n, size, lowest = 0, len(row), lanes.splat(token_min)
    if size < lanes.LANES:
        for token in range(size):
            if spoken[token] and row[token] >= token_min:
                tokens[n] = token
                n += 1
        return n
    for begin in range(0, size, lanes.LANES):
        first = min(begin, size - lanes.LANES)  # the last group overlaps the one before
        enough = lanes.at_least(lanes.load_f32(row.ctypes.data + 4 * first), lowest)
        enough &= lanes.not_zero_8(spoken.ctypes.data + first)
        bits = np.uint64(enough) >> np.uint64(begin - first)
        while bits != _NONE:
            tokens[n] = begin + np.int64(lanes.first_bit(bits))
            bits &= bits - _ONE
            n += 1
    return n


@inner
def find_best(row: Any, spoken: Any, blank: int) -> Any:
    """The best of the labels that may be text; the blank, unless another is better."""
    best = blank
    for token in range(len(row)):
        if spoken[token] and row[token] > row[best]:
            best = token
    return best


@inner(forceinline=True)
def stay(n: int, n_tokens: int, search: Any, work: Any) -> None:
    """Candidates 0 to n: every prefix unchanged, by a blank or its last token once more.

    work.reached becomes a bit for each beam that is another beam plus one of the frame's tokens.
    """
    tokens, probs, reached = work.tokens, work.probs, work.reached
    blanks, symbols = work.blanks.ctypes.data, work.symbols.ctypes.data
    lasts, parents = work.lasts.ctypes.data, work.parents.ctypes.data
    new_blanks, new_symbols = work.new_blanks.ctypes.data, work.new_symbols.ctypes.data
    sources, blank_prob = work.sources.ctypes.data, lanes.splat(probs[search.blank])
    delimiter = np.int64(search.delimiter)
    for i in range(0, n, lanes.LANES):
        symbol = lanes.load(symbols + 8 * i)
        total = lanes.add(lanes.load(blanks + 8 * i), symbol)
        lanes.store(new_blanks + 8 * i, lanes.multiply(total, blank_prob))
        prob: Any = lanes.splat(0.0)
        found: Any = np.int64(0)
        for k in range(n_tokens):
            token = np.int64(tokens[k])
            same = lanes.equal_32(lasts + 4 * i, token)
            prob = lanes.choose(same, lanes.splat(probs[token]), prob)
            found |= same
        repeated = lanes.choose(lanes.equal_32(lasts + 4 * i, delimiter), total, symbol)
        lanes.store(new_symbols + 8 * i, lanes.multiply(repeated, prob))
        lanes.fill_32(sources + 4 * i, -1)
        found &= lanes.not_negative_32(parents + 4 * i)
        lanes_to_word(reached, i, found)
    work.counts[N_CANDIDATES] = n


@inner(forceinline=True)
def realign(n: int, n_tokens: int, work: Any) -> None:
    """Add to every staying prefix the alignments from the prefix one token shorter, if that is a beam.

    It becomes the source where these weigh more than all others.
    """
    tokens, probs, columns, taken = work.tokens, work.probs, work.columns, work.taken
    blanks, symbols, lasts, reached = work.blanks, work.symbols, work.lasts, work.reached
    new_blanks, new_symbols, sources = work.new_blanks, work.new_symbols, work.sources
    parents, lms, n_words = work.parents, work.lms, (n + 63) >> 6
    for k in range(n_tokens):
        columns[tokens[k]] = k
    for i in range(n_tokens * n_words):
        taken[i] = _NONE
    for word in range(n_words):
        bits = reached[word] & lowest_bits(n - 64 * word)
        while bits != _NONE:
            i = 64 * word + np.int64(lanes.first_bit(bits))  # type: ignore[assignment]
            bits &= bits - _ONE
            parent, last = parents[i], lasts[i]
            place = columns[last] * n_words + (parent >> 6)
            taken[place] |= _ONE << np.uint64(parent & 63)
            weight = blanks[parent] if last == lasts[parent] else blanks[parent] + symbols[parent]
            weight *= probs[last]
            if weight <= 0.0:
                continue
            if lms[i] != lms[parent]:
                weight *= math.exp(lms[i] - lms[parent])
            if weight > new_blanks[i] + new_symbols[i]:
                sources[i] = parent
            new_symbols[i] += weight
    for k in range(n_tokens):
        columns[tokens[k]] = -1


@inner(forceinline=True)
def rank_stays(n: int, split: bool, work: Any) -> float:
    """Rank the staying prefixes. Returns the best rank.

    work.held becomes a bit for each that ends in a symbol rather than a blank, or has a source.
    """
    blanks, symbols = work.new_blanks.ctypes.data, work.new_symbols.ctypes.data
    factors, new_factors = work.factors.ctypes.data, work.new_factors.ctypes.data
    ranks, sources = work.ranks.ctypes.data, work.sources.ctypes.data
    held, best = work.held, lanes.splat(0.0)
    for i in range(0, n, lanes.LANES):
        blank, symbol = lanes.load(blanks + 8 * i), lanes.load(symbols + 8 * i)
        factor = lanes.load(factors + 8 * i)
        lanes.store(new_factors + 8 * i, factor)
        weight = lanes.maximum(blank, symbol) if split else lanes.add(blank, symbol)
        rank = lanes.multiply(weight, factor)
        lanes.store(ranks + 8 * i, rank)
        lanes_to_word(held, i, lanes.above(symbol, blank) | lanes.not_negative_32(sources + 4 * i))
        here = np.int64(lowest_bits(n - i))
        best = lanes.maximum(best, lanes.choose(here, rank, lanes.splat(0.0)))
    return np.float64(lanes.largest(best))


@inner(forceinline=True)
def lanes_to_word(words: Any, first: int, bits: int) -> None:
    """Store the bits of lanes `first` to first + 7; those of a word's first lanes clear the others."""
    shift = np.uint64(first & 63)
    before = _NONE if shift == _NONE else words[first >> 6]
    words[first >> 6] = before | (np.uint64(bits) << shift)


@kernel(forceinline=True)
def lowest_bits(n: int) -> Any:
    """A uint64 with the lowest n bits set, all for 64 and more."""
    return _ALL >> np.uint64(64 - min(n, 64))
