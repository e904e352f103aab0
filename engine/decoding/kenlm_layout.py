"""The headers of KenLM's binary files: where the tables lie, checked against the file's size.

Source: lm/binary_format.cc, vocab.hh, search_hashed.hh, search_trie.hh, trie.cc, quantize.cc, bhiksha.cc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LanguageModelError
from engine.kernels.ctc.ngram import (
    BACKOFF_BITS,
    BACKOFF_TABLE,
    BASE,
    BUCKETS,
    KIND,
    MAX_ORDER,
    N_COLUMNS,
    N_ENTRIES,
    N_POINTERS,
    NEXT_BITS,
    POINTER_TABLE,
    PROB_BITS,
    PROB_TABLE,
    PROBING,
    TOTAL_BITS,
    TRIE,
    WORD_BITS,
)

MAGIC = b"mmap lm http://kheafield.com/code format version 5\n\0"
_SANITY_BYTES = 88
_SANITY = struct.pack("<3f2IIQ", 0.0, 1.0, -0.5, 1, 0xFFFFFFFF, 0, 1)  # floats, word ids, padding, one
_MODEL_NAMES = ("probing", "rest_probing", "trie", "quant_trie", "array_trie", "quant_array_trie")
_MAX_BITS = 33  # of one bit-packed field: what two uint32 words hold at any offset
_BUILD = "build it with: build_binary trie LM.arpa LM.bin"


@dataclass(frozen=True)
class _Header:
    order: int
    multiplier: float
    kind: str
    has_vocabulary: bool
    counts: tuple[int, ...]
    size: int  # bytes


def read_layout(data: Any) -> tuple[npt.NDArray[np.int64], tuple[int, ...], int]:
    """Find the tables of a KenLM binary.

    Args:
        data: the whole file, bytes or mmap.
    Returns:
        layout int64 [order + 1, N_COLUMNS] as engine.kernels.ctc.ngram reads it; n-gram counts by
        order; byte offset of the vocabulary's strings, 0 where they were left out.
    Raises:
        LanguageModelError: wrong version, byte order, kind or order, or a truncated file.
    """
    header = _read_header(data)
    layout = np.zeros((header.order + 1, N_COLUMNS), np.int64)
    layout[:, PROB_TABLE] = -1
    if header.kind == "probing":
        end = _lay_out_probing(header, layout)
    else:
        end = _lay_out_trie(data, header, layout)
    if end > len(data):
        raise LanguageModelError(
            f"a language model of {len(data)} bytes",
            f"at least {end} bytes",
            "copy the file again: it is cut off",
        )
    return layout, header.counts, end if header.has_vocabulary else 0


def _read_header(data: Any) -> _Header:
    if data[56:_SANITY_BYTES] != _SANITY:
        raise LanguageModelError(
            "a KenLM binary made for another byte order", "a little-endian one", _BUILD + " on this machine"
        )
    order, multiplier, kind, has_vocabulary, _ = struct.unpack_from("<B3xfIB3xI", data, _SANITY_BYTES)
    name = _MODEL_NAMES[kind] if kind < len(_MODEL_NAMES) else str(kind)
    if name == "rest_probing" or kind >= len(_MODEL_NAMES):
        raise LanguageModelError(f"a KenLM model of kind {name}", "a probing or trie model", _BUILD)
    if not 2 <= order <= MAX_ORDER:
        raise LanguageModelError(f"a language model of order {order}", f"order 2 to {MAX_ORDER}")
    counts = struct.unpack_from(f"<{order}Q", data, 108)
    size = (108 + 8 * order + 7) // 8 * 8
    if max(counts) > len(data) * 8 or multiplier < 1.0:
        raise LanguageModelError("a header whose n-gram counts exceed the file", "an intact file", _BUILD)
    return _Header(order, multiplier, name, bool(has_vocabulary), counts, size)


def count_buckets(entries: int, multiplier: float) -> int:
    """Size of KenLM's probing table for a number of entries; float32 as in KenLM."""
    return max(entries + 1, int(np.float32(multiplier) * np.float32(entries)))


def _lay_out_probing(header: _Header, layout: npt.NDArray[np.int64]) -> int:
    offset = header.size + 8  # past the vocabulary's own version and bound
    sizes = [(count_buckets(header.counts[0], header.multiplier), 12), (header.counts[0] + 1, 8)]
    sizes += [(count_buckets(count, header.multiplier), 16) for count in header.counts[1:-1]]
    sizes += [(count_buckets(header.counts[-1], header.multiplier), 12)]
    for row, (buckets, entry_bytes) in enumerate(sizes):
        layout[row, [KIND, BASE, BUCKETS]] = PROBING, offset // 4, buckets
        offset += buckets * entry_bytes
    return offset


def _lay_out_trie(data: Any, header: _Header, layout: npt.NDArray[np.int64]) -> int:
    counts, order = header.counts, header.order
    (n_hashes,) = struct.unpack_from("<Q", data, header.size)
    if n_hashes > counts[0]:
        raise LanguageModelError("a vocabulary larger than the model", "an intact file", _BUILD)
    layout[0, [KIND, BASE, BUCKETS]] = TRIE, (header.size + 8) // 4, n_hashes
    offset = header.size + 8 + 8 * counts[0]
    if header.kind.startswith("quant"):
        offset = _place_quantisation(data, offset, layout)
    else:
        layout[2:, PROB_BITS], layout[2:-1, BACKOFF_BITS] = 31, 32
    layout[1, [KIND, BASE]] = TRIE, offset // 4
    offset += 16 * (counts[0] + 2)
    chop_limit = data[offset + 1] if "array" in header.kind and order > 2 else None
    word_bits = counts[0].bit_length()
    for row in range(2, order):
        entries, max_next = counts[row - 1], counts[row]
        next_bits = max_next.bit_length()
        if chop_limit is not None:
            offset, next_bits = _place_pointers(offset, layout[row], entries + 1, max_next, chop_limit)
        layout[row, NEXT_BITS] = next_bits
        offset = _place_entries(offset, layout[row], entries, word_bits)
    return _place_entries(offset, layout[order], counts[-1], word_bits)


def _place_quantisation(data: Any, offset: int, layout: npt.NDArray[np.int64]) -> int:
    version, prob_bits, backoff_bits = data[offset : offset + 3]
    if version != 2 or not 1 <= prob_bits <= 25 or not 1 <= backoff_bits <= 25:
        raise LanguageModelError(f"quantisation of version {version}", "version 2", _BUILD)
    layout[2:, PROB_BITS], layout[2:-1, BACKOFF_BITS] = prob_bits, backoff_bits
    offset += 8
    order = len(layout) - 1
    for row in range(2, order + 1):
        layout[row, PROB_TABLE] = offset // 4
        offset += 4 << prob_bits
        if row < order:
            layout[row, BACKOFF_TABLE] = offset // 4
            offset += 4 << backoff_bits
    return offset


def _place_pointers(
    offset: int, row: npt.NDArray[np.int64], max_offset: int, max_next: int, limit: int
) -> tuple[int, int]:
    """Place the table of a pointer's high bits; returns the offset behind it and the low bits' number."""
    required = max_next.bit_length()
    chops = range(min(required, limit) + 1)
    chop = min(chops, key=lambda bits: (max_next >> (required - bits)) * 64 - max_offset * bits)
    n_pointers = (max_next >> (required - chop)) + 1
    row[POINTER_TABLE], row[N_POINTERS] = ((offset + 7) // 8 * 8 + 8) // 4, n_pointers
    return offset + 8 * (1 + n_pointers) + 7, required - chop


def _place_entries(offset: int, row: npt.NDArray[np.int64], entries: int, word_bits: int) -> int:
    """Place the bit-packed entries of one order; returns the byte offset behind them."""
    total_bits = word_bits + int(row[PROB_BITS] + row[BACKOFF_BITS] + row[NEXT_BITS])
    if max(word_bits, int(row[NEXT_BITS])) > _MAX_BITS:
        raise LanguageModelError("a trie of more than 2^33 n-grams", "a smaller model", "prune it")
    row[[KIND, BASE, TOTAL_BITS, WORD_BITS]] = TRIE, 8 * offset, total_bits, word_bits
    row[N_ENTRIES] = entries
    return offset + ((1 + entries) * total_bits + 7) // 8 + 8
