"""Fill the hash tables of an n-gram model that was read from text."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels._jit import kernel
from engine.kernels.ctc.ngram import hash_word


@kernel
def hash_words(text: Any, ends: Any) -> Any:
    """64-bit hashes of words stored one after the other in `text`: uint64 [n_words]."""
    keys = np.empty(len(ends), np.uint64)
    begin = 0
    for i in range(len(ends)):
        keys[i] = hash_word(text, begin, ends[i])
        begin = ends[i]
    return keys


@kernel
def fill_table(memory: Any, base: int, n_buckets: int, keys: Any, values: Any) -> None:
    """Insert entries into a linearly probed table.

    Args:
        memory: writable uint32 words, zero where the table is.
        base: position of the table; n_buckets: its size, more than the number of entries.
        keys: uint64 [n], none of them zero or twice.
        values: uint32 [n, width], stored after each key.
    """
    width = values.shape[1]
    for i in range(len(keys)):
        bucket: Any = np.int64(keys[i] % np.uint64(n_buckets))
        position = base + bucket * (2 + width)
        while memory[position] != 0 or memory[position + 1] != 0:
            bucket = bucket + 1 if bucket + 1 < n_buckets else 0
            position = base + bucket * (2 + width)
        memory[position] = np.uint32(keys[i] & np.uint64(0xFFFFFFFF))
        memory[position + 1] = np.uint32(keys[i] >> np.uint64(32))
        for column in range(width):
            memory[position + 2 + column] = values[i, column]
