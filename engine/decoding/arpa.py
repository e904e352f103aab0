"""ARPA text files of n-gram models, read into the tables that the kernels score from.

A KenLM binary loads without this work and shares its memory between processes: prefer one
for anything but small or one-off models.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.errors import LanguageModelError
from engine.kernels.ctc.ngram import BASE, BUCKETS, KIND, MAX_ORDER, N_COLUMNS, PROB_TABLE, PROBING
from engine.kernels.ctc.ngram_build import fill_table, hash_words

Ngram = tuple[int, ...]
Table = dict[Ngram, tuple[float, float]]  # word ids -> log10 probability, log10 backoff
_COMBINE_A, _COMBINE_B = np.uint64(8978948897894561157), np.uint64(17894857484156487943)
_FILL = 1.5  # buckets for each entry
_LARGEST = 1e30  # of a log10: far beyond any, and sums of it fit into float32
_UNSEEN = -100.0  # log10 probability of <unk> in a model that has none, and of what is written as -inf
MAX_TEXT_BYTES: Final = 4 << 30  # of a compressed file, unpacked
_PACKED: Final[dict[bytes, Callable[[Path], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


@dataclass(frozen=True)
class ArpaModel:
    """Tables laid out as engine.kernels.ctc.ngram reads them, n-gram counts, words by id, NUL after each."""

    memory: npt.NDArray[np.uint32]
    layout: npt.NDArray[np.int64]
    counts: tuple[int, ...]
    strings: memoryview


def load_arpa(path: Path) -> ArpaModel:
    """Read an ARPA file of order 2 to 6, plain or compressed by gzip, bzip2 or xz.

    Words are compared in Unicode's composed form (NFC). N-grams whose shorter ending was pruned away
    get it back with its backed-off probability, so that every model scores as the ARPA format defines.

    Raises:
        LanguageModelError: not an ARPA file, cut off, or with malformed lines.
    """
    try:
        lines = unicodedata.normalize("NFC", _read_text(path)).strip().split("\n")
    except UnicodeDecodeError:
        raise LanguageModelError(
            f"{path} is neither a KenLM binary nor ARPA text",
            "a file that build_binary or lmplz wrote, or the latter compressed by gzip, bzip2 or xz",
            "unpack it, if it is compressed in another way",
        ) from None
    words: dict[str, int] = {"<unk>": 0}
    tables = _parse(lines, words, path)
    tables[0].setdefault((0,), (_UNSEEN, 0.0))
    _complete_endings(tables)
    return _build(tables, words)


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
    if opener is None:
        return path.read_text(encoding="utf-8-sig")
    try:
        with opener(path) as file:
            content: bytes = file.read(MAX_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise LanguageModelError(
            f"{path} cannot be unpacked ({error})", "a whole file", "copy it again"
        ) from error
    if len(content) > MAX_TEXT_BYTES:
        raise LanguageModelError(
            f"{path} unpacks to more than {MAX_TEXT_BYTES >> 30} GiB", "less", "convert it with build_binary"
        )
    return content.decode("utf-8-sig")


def _parse(lines: list[str], words: dict[str, int], path: Path) -> list[Table]:
    promised = _read_counts(lines, path)
    order, counts = len(promised), [0] * len(promised)
    tables: list[Table] = [{} for _ in range(order)]
    for number, size, line in _iterate_entries(lines, order, path):
        fields = [field for field in line.replace("\t", " ").split(" ") if field]
        spelled, backoff = fields[1 : 1 + size], fields[1 + size :]  # other kinds of space are part of words
        try:
            if len(spelled) != size or len(backoff) > 1:
                raise ValueError
            values = _read_log(fields[0]), _read_log(backoff[0]) if backoff else 0.0
            if values[0] > 0:
                raise ValueError
            ids = tuple(_identify(word, words, size == 1) for word in spelled)
        except (ValueError, IndexError, KeyError):
            raise LanguageModelError(
                f"line {number} of {path}: {line[:80]!r}", f"log10 probability, {size} known words, backoff"
            ) from None
        known = tables[size - 1].get(ids, values)  # composed in one line, and not in another
        tables[size - 1][ids] = max(values, known)
        counts[size - 1] += 1
    if counts != promised:
        raise LanguageModelError(
            f"{path} lists {counts} n-grams by order", f"{promised}, as its head says", "copy it again"
        )
    return tables


def _read_log(field: str) -> float:
    """A log10 value; -inf, as some tools write it, is as good as impossible.

    Raises:
        ValueError: no number, NaN, or too large for sums in float32.
    """
    value = float(field)
    if value == -math.inf:
        return _UNSEEN
    if not abs(value) < _LARGEST:
        raise ValueError
    return value


def _identify(word: str, words: dict[str, int], new: bool) -> int:
    word = "<unk>" if word == "<UNK>" else word
    return words.setdefault(word, len(words)) if new else words[word]


def _read_counts(lines: list[str], path: Path) -> list[int]:
    """How many n-grams the head of the file promises of each order."""
    head = [line.strip() for line in lines[: MAX_ORDER + 20]]
    found = [re.fullmatch(r"ngram\s+(\d{1,18})\s*=\s*(\d{1,18})", line) for line in head]
    counts = [(int(match[1]), int(match[2])) for match in found if match]
    orders = [order for order, _ in counts]
    if "\\data\\" not in head or not 2 <= len(orders) <= MAX_ORDER or orders != [*range(1, len(orders) + 1)]:
        raise LanguageModelError(
            f"{path} is not a language model of order 2 to {MAX_ORDER}", "a KenLM binary or an ARPA file"
        )
    if lines[-1].strip() != "\\end\\":
        raise LanguageModelError(f"{path} does not end with \\end\\", "a complete ARPA file", "copy it again")
    return [count for _, count in counts]


def _iterate_entries(lines: list[str], order: int, path: Path) -> Iterator[tuple[int, int, str]]:
    size = 0
    for number, raw in enumerate(lines, 1):
        line = raw.strip(" \r\n")
        if line.endswith("-grams:") and line.startswith("\\"):
            size += 1
            if line != f"\\{size}-grams:" or size > order:
                raise LanguageModelError(f"line {number} of {path}: {line}", f"\\{size}-grams:")
        elif line == "\\end\\":
            return
        elif line and size:
            yield number, size, line


def _complete_endings(tables: list[Table]) -> None:
    """Insert missing endings, longest n-grams first; then give them probabilities, shortest first."""
    missing: list[set[Ngram]] = [set() for _ in tables]
    for size in range(len(tables) - 1, 1, -1):
        for ngram in [*tables[size], *missing[size]]:
            if ngram[1:] not in tables[size - 1]:
                missing[size - 1].add(ngram[1:])
    for size, ngrams in enumerate(missing):
        for ngram in ngrams:
            _, backoff = tables[size - 1].get(ngram[:-1], (0.0, 0.0))
            tables[size][ngram] = tables[size - 1][ngram[1:]][0] + backoff, 0.0


def _build(tables: list[Table], words: dict[str, int]) -> ArpaModel:
    order, n_words = len(tables), len(words)
    layout = np.zeros((order + 1, N_COLUMNS), np.int64)
    layout[:, PROB_TABLE] = -1
    sizes = [int(n_words * _FILL) + 1, n_words, *(int(len(table) * _FILL) + 1 for table in tables[1:])]
    position = 0
    for row, (buckets, width) in enumerate(zip(sizes, [3, 2, *[4] * (order - 2), 3], strict=True)):
        layout[row, [KIND, BASE, BUCKETS]] = PROBING, position, buckets
        position += buckets * width
    memory = np.zeros(position + 2, np.uint32)
    encoded = [word.encode() for word in words]
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
    keys = hash_words(np.frombuffer(b"".join(encoded), np.uint8), ends)
    ids = np.arange(n_words, dtype=np.uint32)[1:, None]
    fill_table(memory, 0, sizes[0], keys[1:], np.ascontiguousarray(ids))
    for size, table in enumerate(tables, 1):
        _fill_order(memory, layout, size, table, tables)
    memory.setflags(write=False)
    strings = b"\0".join(encoded) + b"\0"
    return ArpaModel(memory, layout, (n_words, *(len(table) for table in tables[1:])), memoryview(strings))


def _fill_order(
    memory: npt.NDArray[np.uint32],
    layout: npt.NDArray[np.int64],
    size: int,
    table: Table,
    tables: list[Table],
) -> None:
    if not table:
        return
    longer = tables[size] if size < len(tables) else {}
    ended = {ngram[1:] for ngram in longer}
    begun = {ngram[:-1] for ngram in longer}
    probs = np.array([table[ngram][0] for ngram in table], np.float32)
    probs = np.where([ngram in ended for ngram in table], np.abs(probs), -np.abs(probs)).astype(np.float32)
    backoffs = np.array([table[ngram][1] for ngram in table], np.float32)
    zero = np.where([ngram in begun for ngram in table], np.float32(0.0), np.float32(-0.0))
    backoffs = np.where(backoffs == 0, zero, backoffs).astype(np.float32)
    values = np.stack([probs, backoffs], axis=1).view(np.uint32)
    ids = np.array(list(table), dtype=np.uint64).reshape(len(table), size)
    base, buckets = int(layout[size, BASE]), int(layout[size, BUCKETS])
    if size == 1:
        memory[base : base + 2 * buckets].reshape(-1, 2)[ids[:, 0].astype(np.int64)] = values
        return
    width = 1 if size == len(tables) else 2
    fill_table(memory, base, buckets, _combine(ids), np.ascontiguousarray(values[:, :width]))


def _combine(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The 64-bit key of each n-gram, from its last word to its first."""
    keys = ids[:, -1].copy()
    for column in range(ids.shape[1] - 2, -1, -1):
        keys = (keys * _COMBINE_A) ^ ((ids[:, column] + np.uint64(1)) * _COMBINE_B)
    return keys
