"""Building the trie of known words from their token ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel

LOOKAHEAD_STEP = 1.0 / 32.0  # log10 per step of the lookahead byte
_MAX_STEPS = 255


@inner
def count_shared(tokens: Any, ends: Any) -> Any:
    """How many leading tokens each word of a sorted list shares with the one before: int32 [n_words]."""
    shared = np.zeros(len(ends), np.int32)
    for i in range(1, len(ends)):
        before, here = ends[i - 2] if i > 1 else 0, ends[i - 1]
        length = min(here - before, ends[i] - here)
        n = 0
        while n < length and tokens[before + n] == tokens[here + n]:
            n += 1
        shared[i] = n
    return shared


@kernel
def build_trie(tokens: Any, ends: Any, ids: Any, log10_probs: Any) -> Any:
    """Build the trie of sorted, distinct words, in breadth-first order.

    Args:
        tokens: int16, the words' token ids one word after the other.
        ends: int64 [n_words], where each word ends; words sorted by their tokens.
        ids: int32 [n_words], language model id of each word; 0 for none.
        log10_probs: float32 [n_words], its unigram probability.
    Returns:
        first int32 [n_nodes + 1], label int16 [n_nodes], word int32 [n_nodes] and lookahead
        uint8 [n_nodes]: see engine.kernels.ctc.state.Lexicon. The lookahead of a node is the
        best unigram probability below it, in steps of -LOOKAHEAD_STEP.
    """
    shared = count_shared(tokens, ends)
    n_words = len(ends)
    n_nodes, longest = 1, 0
    for i in range(n_words):
        length = ends[i] - (ends[i - 1] if i else 0)
        n_nodes += length - shared[i]
        longest = max(longest, length)
    first = np.zeros(n_nodes + 1, np.int32)
    label = np.zeros(n_nodes, np.int16)
    word = np.zeros(n_nodes, np.int32)
    best = np.full(n_nodes, -np.inf, np.float32)
    nodes = np.zeros(n_words, np.int32)  # each word's node at the depth reached
    n_made, level = 1, 0
    for depth in range(longest):
        level_end = n_made
        parent = level
        for i in range(n_words):
            begin = ends[i - 1] if i else 0
            if ends[i] - begin <= depth:
                continue
            if shared[i] > depth and nodes[i - 1] >= level_end:
                nodes[i] = nodes[i - 1]
            else:
                while parent <= nodes[i]:  # nodes in between have no children
                    first[parent] = n_made
                    parent += 1
                label[n_made] = tokens[begin + depth]
                nodes[i] = n_made
                n_made += 1
            best[nodes[i]] = max(best[nodes[i]], log10_probs[i])
            if ends[i] - begin == depth + 1:
                word[nodes[i]] = ids[i]
        while parent < level_end:
            first[parent] = n_made
            parent += 1
        level = level_end
    first[level:] = n_made
    lookahead = np.empty(n_nodes, np.uint8)
    for node in range(n_nodes):
        steps = 0.0 if node == 0 else -best[node] / LOOKAHEAD_STEP
        lookahead[node] = np.uint8(min(max(steps + 0.5, 0.0), _MAX_STEPS))
    return first, label, word, lookahead
