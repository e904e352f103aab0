"""Reading words from the search's trees, and removing nodes that no beam can reach."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.extend import EMPTY, mix_hash
from engine.kernels.ctc.state import N_TOKEN_NODES, N_WORD_NODES

_HALF = np.uint64(32)
_CONFIDENCE_STEPS = np.float64(1 << 40)  # all of a float32's digits between 0.0001 and 1


@kernel
def trace_words(
    leaves: Any, word_nodes: Any, n_word_nodes: int, token_nodes: Any, frame_s: float, scores: Any
) -> Any:  # fmt: skip
    """Follow word nodes back to the start of the utterance.

    Args:
        leaves: int32 [n_hypotheses], the last word node of each; -1 for no words.
        n_word_nodes: how many word nodes are in use.
        frame_s: seconds per frame.
        scores: float64 [any], returned unchanged.
    Returns:
        In two arrays, which cost a caller in Python much less time than seven.
        int64: how many words each hypothesis has [n_hypotheses]; the words of all in order, as
        indices into the distinct ones [sum]; where each distinct word's tokens end [n_distinct];
        their token ids one after the other.
        float64: scores; seconds where each distinct word starts, where it ends, and its
        confidence [3 * n_distinct].
    """
    n_words = np.zeros(len(leaves), np.int64)
    for i in range(len(leaves)):
        node = leaves[i]
        while node >= 0:
            n_words[i] += 1
            node = word_nodes[node].parent
    words = np.empty(n_words.sum(), np.int32)
    index = np.full(n_word_nodes, -1, np.int32)
    distinct = np.empty(len(words), np.int32)
    hashes = np.empty(len(words), np.uint64)
    n_distinct, begin = 0, 0
    for i in range(len(leaves)):
        node = leaves[i]
        for position in range(begin + n_words[i] - 1, begin - 1, -1):
            if index[node] < 0:
                key = hash_word_node(word_nodes[node], token_nodes)
                same = 0
                while same < n_distinct and hashes[same] != key:
                    same += 1
                index[node] = same
                if same == n_distinct:
                    distinct[same], hashes[same] = node, key
                    n_distinct += 1
            words[position] = index[node]
            node = word_nodes[node].parent
        begin += n_words[i]
    tokens, ends = spell_words(distinct[:n_distinct], word_nodes, token_nodes)
    values = np.empty(len(scores) + 3 * n_distinct)
    put(values, 0, scores)
    starts_s = values[len(scores) :]
    ends_s, confidences = starts_s[n_distinct:], starts_s[2 * n_distinct :]
    for i in range(n_distinct):
        word = word_nodes[distinct[i]]
        starts_s[i], ends_s[i] = word.start * frame_s, word.end * frame_s
        confidences[i] = min(word.confidence, 1.0)
    return join_numbers(n_words, words, ends, tokens), values


@inner
def join_numbers(n_words: Any, words: Any, ends: Any, tokens: Any) -> Any:
    """Four arrays of whole numbers as one."""
    numbers = np.empty(len(n_words) + len(words) + len(ends) + len(tokens), np.int64)
    at = put(numbers, 0, n_words)
    at = put(numbers, at, words)
    at = put(numbers, at, ends)
    put(numbers, at, tokens)
    return numbers


@inner
def put(target: Any, at: int, source: Any) -> int:
    """Copy an array into another at a place. Returns the place after it.

    Assigning to a slice does the same, but its error for different lengths takes two seconds to compile.
    """
    for i in range(len(source)):
        target[at + i] = source[i]
    return at + len(source)


@inner
def hash_word_node(word: Any, token_nodes: Any) -> Any:
    """Hash of a word's tokens, times and confidence, but not of the words before it."""
    frames = (np.uint64(word.start) << _HALF) | np.uint64(word.end)
    key = mix_hash(mix_hash(EMPTY, frames), np.uint64(np.int64(word.confidence * _CONFIDENCE_STEPS)))
    node = word.token_node
    for _ in range(word.length):
        key = mix_hash(key, np.uint64(token_nodes[node].token + 1))
        node = token_nodes[node].parent
    return key


@inner
def spell_words(distinct: Any, word_nodes: Any, token_nodes: Any) -> Any:
    """Token ids of word nodes, one word after the other, and where each ends."""
    ends = np.empty(len(distinct), np.int64)
    end = 0
    for i in range(len(distinct)):
        end += word_nodes[distinct[i]].length
        ends[i] = end
    tokens = np.empty(end, np.int32)
    for i in range(len(distinct)):
        node = word_nodes[distinct[i]].token_node
        for position in range(ends[i] - 1, ends[i] - 1 - word_nodes[distinct[i]].length, -1):
            tokens[position] = token_nodes[node].token
            node = token_nodes[node].parent
    return tokens, ends


@kernel
def find_stable(beams: Any, n: int, word_nodes: Any, n_word_nodes: int) -> Any:
    """The last word node that all beams share; -1 if there is none."""
    shared_by = np.zeros(n_word_nodes, np.int32)
    for i in range(n):
        node = beams[i].word_node
        while node >= 0:
            shared_by[node] += 1
            node = word_nodes[node].parent
    node = beams[0].word_node
    while node >= 0 and shared_by[node] < n:
        node = word_nodes[node].parent
    return node


@kernel
def compact(beams: Any, n: int, stable: int, token_nodes: Any, word_nodes: Any, counts: Any) -> Any:
    """Copy the part of the trees that the beams still need, without the words up to `stable`.

    Beams and counts are changed accordingly.

    Returns:
        New token_nodes and word_nodes.
    """
    keep_word = np.full(counts[N_WORD_NODES], -1, np.int32)
    keep_token = np.full(counts[N_TOKEN_NODES], -1, np.int32)
    for i in range(n):
        mark_tokens(beams[i].token_node, beams[i].length, token_nodes, keep_token)
        node = beams[i].word_node
        while node >= 0 and node != stable and keep_word[node] < 0:
            keep_word[node] = 0
            mark_tokens(word_nodes[node].token_node, word_nodes[node].length, token_nodes, keep_token)
            node = word_nodes[node].parent
    kept_tokens, kept_words = number_kept(keep_token), number_kept(keep_word)
    tokens, words = np.empty(kept_tokens, token_nodes.dtype), np.empty(kept_words, word_nodes.dtype)
    for node in range(len(keep_token)):
        if keep_token[node] >= 0:
            tokens[keep_token[node]] = token_nodes[node]
            tokens[keep_token[node]].parent = renumber(token_nodes[node].parent, keep_token)
    for node in range(len(keep_word)):
        if keep_word[node] >= 0:
            words[keep_word[node]] = word_nodes[node]
            words[keep_word[node]].parent = renumber(word_nodes[node].parent, keep_word)
            words[keep_word[node]].token_node = renumber(word_nodes[node].token_node, keep_token)
    for i in range(n):
        beams[i].token_node = renumber(beams[i].token_node, keep_token)
        beams[i].word_node = renumber(beams[i].word_node, keep_word)
    counts[N_TOKEN_NODES], counts[N_WORD_NODES] = kept_tokens, kept_words
    return tokens, words


@inner
def mark_tokens(node: int, length: int, token_nodes: Any, keep: Any) -> None:
    """Mark the last `length` tokens of a chain as needed."""
    for _ in range(length):
        if node < 0:
            return
        keep[node] = 0
        node = token_nodes[node].parent


@inner
def number_kept(keep: Any) -> int:
    """Number the marked nodes in their order; the others stay -1. Returns how many there are."""
    n = 0
    for node in range(len(keep)):
        if keep[node] >= 0:
            keep[node] = n
            n += 1
    return n


@inner
def renumber(node: int, keep: Any) -> int:
    """A node's new number; -1 for none, or one that was removed."""
    return keep[node] if node >= 0 else -1
