"""One frame of CTC prefix beam search: its tokens, and the weights of the prefixes that stay as they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import kernel
from engine.kernels.ctc_state import N_CANDIDATES


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
def stay(n: int, search: Any, work: Any) -> None:
    """Candidates 0 to n: every prefix as it is, by a blank or its last token once more."""
    blanks, symbols, lasts, probs = work.blanks, work.symbols, work.lasts, work.probs
    new_blanks, new_symbols, sources = work.new_blanks, work.new_symbols, work.sources
    delimiter, blank_prob = np.uint32(search.delimiter), probs[search.blank]
    for i in range(n):
        total = blanks[i] + symbols[i]
        new_blanks[i] = total * blank_prob
        new_symbols[i] = (total if lasts[i] == delimiter else symbols[i]) * probs[lasts[i]]
        sources[i] = -1
    work.counts[N_CANDIDATES] = n


@kernel(forceinline=True)
def realign(beams: Any, n: int, n_tokens: int, work: Any) -> None:
    """Add to every staying prefix the ways to it from the prefix one token shorter, if that is a beam.

    A source is noted when its way outweighs all others.
    """
    tokens, probs, columns, taken = work.tokens, work.probs, work.columns, work.taken
    blanks, symbols, lasts = work.blanks, work.symbols, work.lasts
    new_blanks, new_symbols, sources = work.new_blanks, work.new_symbols, work.sources
    for k in range(n_tokens):
        columns[tokens[k]] = k
    for i in range(n_tokens * n):
        taken[i] = 0
    for i in range(n):
        parent = beams[i].parent
        if parent < 0 or columns[lasts[i]] < 0:
            continue
        taken[columns[lasts[i]] * n + parent] = 1
        weight = blanks[parent] if lasts[i] == lasts[parent] else blanks[parent] + symbols[parent]
        weight *= probs[lasts[i]]
        if weight <= 0.0:
            continue
        if beams[i].lm != beams[parent].lm:
            weight *= math.exp(beams[i].lm - beams[parent].lm)
        if weight > new_blanks[i] + new_symbols[i]:
            sources[i] = parent
        new_symbols[i] += weight
    for k in range(n_tokens):
        columns[tokens[k]] = -1


@kernel(forceinline=True)
def rank_stays(n: int, split: bool, work: Any) -> float:
    """Rank the staying prefixes. Returns the best rank."""
    new_blanks, new_symbols, ranks = work.new_blanks, work.new_symbols, work.ranks
    factors, new_factors = work.factors, work.new_factors
    for i in range(n):
        new_factors[i] = factors[i]
        if split:
            ranks[i] = max(new_blanks[i], new_symbols[i]) * factors[i]
        else:
            ranks[i] = (new_blanks[i] + new_symbols[i]) * factors[i]
    best = 0.0
    for i in range(n):
        best = max(best, ranks[i])
    return best
