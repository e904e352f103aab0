"""KenLM n-gram scores read from the bytes of its binary files: probing hash tables and bit-packed tries.

A model is three values: `memory`, the file as little-endian uint32 words; `layout`, where its
tables are (a row for each order, the columns below); and its order. Nothing is copied or parsed.
Source: the file formats of KenLM (lm/binary_format.hh, search_hashed.hh, trie.hh, quantize.hh, bhiksha.hh).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from engine.kernels._jit import inner, kernel

MAX_ORDER = 6
UNKNOWN = 0  # KenLM's id of <unk>

CONTEXT = np.dtype(
    [
        ("length", np.int32),
        ("words", np.uint32, (MAX_ORDER - 1,)),
        ("backoffs", np.float32, (MAX_ORDER - 1,)),
    ],
    align=True,
)

# Columns of `layout`. Row 0 is the vocabulary, row n the n-grams of order n.
KIND, BASE, BUCKETS = 0, 1, 2  # row 0's KIND is PROBING or TRIE; BASE counts uint32 words, in tries bits
TOTAL_BITS, WORD_BITS, PROB_BITS, BACKOFF_BITS, NEXT_BITS = 2, 3, 4, 5, 6
PROB_TABLE, BACKOFF_TABLE, POINTER_TABLE, N_POINTERS = 7, 8, 9, 10  # uint32 words; -1 where not quantised
N_ENTRIES = 11  # of a trie's row: no pointer is followed beyond it, even in a damaged file
N_COLUMNS = 12
PROBING, TRIE = 0, 1

_SIGN = np.uint32(0x80000000)
_NO_EXTENSION = np.uint32(0x80000000)  # a backoff of -0.0: no longer n-gram starts here
_COMBINE_A = np.uint64(8978948897894561157)
_COMBINE_B = np.uint64(17894857484156487943)
_MURMUR = np.uint64(0xC6A4A7935BD1E995)
_ONE, _ZERO, _BYTE = np.uint64(1), np.uint64(0), np.uint64(8)
_WORD, _MURMUR_SHIFT = np.uint64(32), np.uint64(47)


def _bits_to_float(_context: Any, bits: Any) -> Any:
    """Reinterpret the 32 bits of a uint32 as a float32."""
    signature = types.float32(types.uint32)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return signature, generate


bits_to_float: Any = intrinsic(_bits_to_float)


@inner(forceinline=True)
def read_u64(memory: Any, position: int) -> Any:
    """Two uint32 words as one uint64."""
    return np.uint64(memory[position]) | (np.uint64(memory[position + 1]) << _WORD)


@inner(forceinline=True)
def read_bits(memory: Any, bit: int, n_bits: int) -> Any:
    """Up to 33 bits from any bit offset, as uint64."""
    position = bit >> 5
    value = read_u64(memory, position) >> np.uint64(bit & 31)
    return value & ((_ONE << np.uint64(n_bits)) - _ONE)


@inner(forceinline=True)
def find_bucket(memory: Any, base: int, n_buckets: int, stride: int, key: Any) -> Any:
    """Position of a 64-bit key in a linearly probed table with `stride` words per entry; -1 if absent."""
    bucket: Any = np.int64(key % np.uint64(n_buckets))
    for _ in range(n_buckets):
        position = base + bucket * stride
        found = read_u64(memory, position)
        if found == key:
            return position
        if found == _ZERO:
            return -1
        bucket += 1
        if bucket == n_buckets:
            bucket = 0
    return -1


@inner(forceinline=True)
def find_in_trie(memory: Any, row: Any, begin: int, end: int, word: Any) -> Any:
    """Index of `word` among the sorted entries begin to end of one order; -1 if absent."""
    low, length, base, total, n_bits = begin, end - begin, row[BASE], row[TOTAL_BITS], row[WORD_BITS]
    wanted = np.uint64(word)
    if length <= 0:
        return -1
    while length > 1:  # no branch depends on what was read: it could not be predicted
        half = length >> 1
        low += half * (read_bits(memory, base + (low + half) * total, n_bits) <= wanted)
        length -= half
    return low if read_bits(memory, base + low * total, n_bits) == wanted else -1


@inner(forceinline=True)
def read_trie_range(memory: Any, row: Any, entry: int, bit: int) -> Any:
    """First and end index of an entry's continuations, one order up; `bit` is where its pointer is."""
    n_bits, table, n_pointers = row[NEXT_BITS], row[POINTER_TABLE], row[N_POINTERS]
    begin = np.int64(read_bits(memory, bit, n_bits))
    end = np.int64(read_bits(memory, bit + row[TOTAL_BITS], n_bits))
    if n_pointers == 0:
        return begin, end
    low, high = 0, n_pointers  # the high bits of a pointer: how many table values are <= the entry
    while low < high:
        middle = (low + high) >> 1
        if np.int64(read_u64(memory, table + 2 * middle)) <= entry:
            low = middle + 1
        else:
            high = middle
    above = low
    while above < n_pointers and np.int64(read_u64(memory, table + 2 * above)) <= entry + 1:
        above += 1
    return ((low - 1) << n_bits) | begin, ((above - 1) << n_bits) | end


@inner(forceinline=True)
def read_trie_weights(memory: Any, row: Any, bit: int, has_backoff: bool) -> Any:
    """Probability and backoff as float32 bits; `bit` is where an entry's weights begin."""
    if row[PROB_TABLE] < 0:
        prob = np.uint32(read_bits(memory, bit, 31)) | _SIGN
        backoff = np.uint32(read_bits(memory, bit + 31, 32)) if has_backoff else _NO_EXTENSION
        return prob, backoff
    prob_bit = bit + row[BACKOFF_BITS] if has_backoff else bit
    prob = memory[row[PROB_TABLE] + np.int64(read_bits(memory, prob_bit, row[PROB_BITS]))]
    if not has_backoff:
        return prob, _NO_EXTENSION
    return prob, memory[row[BACKOFF_TABLE] + np.int64(read_bits(memory, bit, row[BACKOFF_BITS]))]


@kernel(inline="always")
def extend_key(key: Any, word: Any) -> Any:
    """The 64-bit key of an n-gram with one more word in front."""
    return (key * _COMBINE_A) ^ ((_ONE + np.uint64(word)) * _COMBINE_B)


@inner
def score_probing(memory: Any, layout: Any, order: int, context: Any, word: Any, extended: Any) -> Any:
    """One word's log10 probability from hash tables; see score_word."""
    position = layout[1, BASE] + 2 * np.int64(word)
    prob, backoff = memory[position], memory[position + 1]
    extended.words[0] = word
    extended.backoffs[0] = bits_to_float(backoff)
    matched, useful = 1, 0 if backoff == _NO_EXTENSION else 1
    node = np.uint64(word)
    while matched <= context.length and (matched == 1 or matched < order):
        if prob & _SIGN:  # nothing longer ends in this
            break
        node = extend_key(node, context.words[matched - 1])
        row = layout[matched + 1]
        stride = 3 if matched + 1 == order else 4
        position = find_bucket(memory, row[BASE], row[BUCKETS], stride, node)
        if position < 0:
            break
        prob = memory[position + 2]
        matched += 1
        if matched == order:
            break
        backoff = memory[position + 3]
        extended.backoffs[matched - 1] = bits_to_float(backoff)
        if backoff != _NO_EXTENSION:
            useful = matched
    return finish_score(context, extended, bits_to_float(prob | _SIGN), matched, useful)


@inner
def score_trie(memory: Any, layout: Any, order: int, context: Any, word: Any, extended: Any) -> Any:
    """One word's log10 probability from a trie; see score_word."""
    position = layout[1, BASE] + 4 * np.int64(word)
    prob, backoff = memory[position], memory[position + 1]
    begin: Any = np.int64(read_u64(memory, position + 2))
    end = np.int64(read_u64(memory, position + 6))
    extended.words[0] = word
    extended.backoffs[0] = bits_to_float(backoff)
    matched, useful = 1, 0 if backoff == _NO_EXTENSION else 1
    while matched <= context.length and begin < end and matched < order:
        row = layout[matched + 1]
        begin = begin if begin > 0 else 0
        end = end if end < row[N_ENTRIES] else row[N_ENTRIES]
        entry = find_in_trie(memory, row, begin, end, context.words[matched - 1])
        if entry < 0:
            break
        bit = row[BASE] + entry * row[TOTAL_BITS] + row[WORD_BITS]
        matched += 1
        prob, backoff = read_trie_weights(memory, row, bit, matched < order)
        if matched == order:
            break
        begin, end = read_trie_range(memory, row, entry, bit + row[PROB_BITS] + row[BACKOFF_BITS])
        extended.backoffs[matched - 1] = bits_to_float(backoff)
        if backoff != _NO_EXTENSION:
            useful = matched
    return finish_score(context, extended, bits_to_float(prob | _SIGN), matched, useful)


@inner(forceinline=True)
def finish_score(context: Any, extended: Any, prob: float, matched: int, useful: int) -> Any:
    """Add the backoffs of the context that did not match, and write the words of the new context."""
    score = np.float64(prob)
    for i in range(matched - 1, context.length):
        score += context.backoffs[i]
    for i in range(1, useful):
        extended.words[i] = context.words[i - 1]
    extended.length = useful
    return score


@inner
def score_word(memory: Any, layout: Any, order: int, context: Any, word: Any, extended: Any) -> Any:
    """Score one word after a context, as KenLM's FullScore does.

    Args:
        memory, layout, order: the model; see the top of this file.
        context: a CONTEXT record: the words before, latest first, and their backoffs.
        word: its id; UNKNOWN for a word outside the vocabulary.
        extended: another CONTEXT record, which receives the context after the word.
    Returns:
        log10 probability.
    """
    if layout[0, KIND] == PROBING:
        return score_probing(memory, layout, order, context, np.uint32(word), extended)
    return score_trie(memory, layout, order, context, np.uint32(word), extended)


@inner(forceinline=True)
def locate_unigram(memory: Any, layout: Any, word: int) -> Any:
    """The address of a word's unigram, where scoring it begins."""
    stride = 2 if layout[0, KIND] == PROBING else 4
    return memory.ctypes.data + 4 * (layout[1, BASE] + stride * np.int64(word))


@inner(forceinline=True)
def locate_ngram(memory: Any, layout: Any, size: int, order: int, context: Any, word: int) -> Any:
    """The address where the search for an n-gram of `size` words begins: a word after a context.

    0 in a trie, where it depends on values read before.
    """
    if layout[0, KIND] != PROBING:
        return 0
    node = np.uint64(word)
    for i in range(size - 1):
        node = extend_key(node, context.words[i])
    stride = 3 if size == order else 4
    bucket = np.int64(node % np.uint64(layout[size, BUCKETS]))
    return memory.ctypes.data + 4 * (layout[size, BASE] + stride * bucket)


@inner
def start_context(memory: Any, layout: Any, word: int, context: Any) -> None:
    """Make the context hold only `word`: <s> at the start of a sentence; nothing for word < 0."""
    context.length = 0
    if word >= 0:
        stride = 2 if layout[0, KIND] == PROBING else 4
        context.words[0] = np.uint32(word)
        context.backoffs[0] = bits_to_float(memory[layout[1, BASE] + stride * word + 1])
        context.length = 1


@kernel
def read_unigrams(memory: Any, layout: Any, n_words: int) -> Any:
    """log10 unigram probabilities of all words by id: float32 [n_words]."""
    stride = 2 if layout[0, KIND] == PROBING else 4
    probs = np.empty(n_words, np.float32)
    for word in range(n_words):
        probs[word] = bits_to_float(memory[layout[1, BASE] + stride * word] | _SIGN)
    return probs


@kernel
def score_words(memory: Any, layout: Any, order: int, words: Any, bos: int, eos: int) -> Any:
    """log10 probability of each word id of a sentence, then of its end (where eos >= 0): float64."""
    contexts = np.empty(2, CONTEXT)
    start_context(memory, layout, bos, contexts[0])
    scores = np.empty(len(words) + 1)
    for i in range(len(words)):
        here, after = i & 1, 1 - (i & 1)
        scores[i] = score_word(memory, layout, order, contexts[here], words[i], contexts[after])
    n = len(words)
    if eos < 0:
        return scores[:n]
    scores[n] = score_word(memory, layout, order, contexts[n & 1], eos, contexts[1 - (n & 1)])
    return scores


@inner
def hash_word(text: Any, begin: int, end: int) -> Any:
    """KenLM's 64-bit hash of a word's UTF-8 bytes: MurmurHash64A with seed 0."""
    length = end - begin
    state = np.uint64(length) * _MURMUR
    n_blocks = length // 8
    for block in range(n_blocks):
        value = _ZERO
        for i in range(8):
            value |= np.uint64(text[begin + 8 * block + i]) << (_BYTE * np.uint64(i))
        value *= _MURMUR
        value ^= value >> _MURMUR_SHIFT
        state = (state ^ (value * _MURMUR)) * _MURMUR
    if length % 8:
        for i in range(length % 8):
            state ^= np.uint64(text[begin + 8 * n_blocks + i]) << (_BYTE * np.uint64(i))
        state *= _MURMUR
    state ^= state >> _MURMUR_SHIFT
    state *= _MURMUR
    return state ^ (state >> _MURMUR_SHIFT)


@inner
def find_word(memory: Any, layout: Any, key: Any) -> Any:
    """Id of the word with a 64-bit hash; UNKNOWN if the vocabulary lacks it."""
    base = layout[0, BASE]
    if layout[0, KIND] == PROBING:
        position = find_bucket(memory, base, layout[0, BUCKETS], 3, key)
        return np.int64(memory[position + 2]) if position >= 0 else UNKNOWN
    low, high = 0, layout[0, BUCKETS]
    while low < high:
        middle = (low + high) >> 1
        found = read_u64(memory, base + 2 * middle)
        if found == key:
            return middle + 1
        if found < key:
            low = middle + 1
        else:
            high = middle
    return UNKNOWN


@kernel
def find_words(memory: Any, layout: Any, text: Any, ends: Any) -> Any:
    """Ids of words stored one after the other in `text`, each up to its end offset: int32 [n_words]."""
    ids = np.empty(len(ends), np.int32)
    begin = 0
    for i in range(len(ends)):
        ids[i] = find_word(memory, layout, hash_word(text, begin, ends[i]))
        begin = ends[i]
    return ids
