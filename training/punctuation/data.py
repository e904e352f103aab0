"""Written text as tagged words: what a recogniser writes, and what it leaves out."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.output.punctuation import MARKS, hash_pieces
from engine.text import LETTERS, normalize_text
from training.common.text_files import read_text

IGNORED = -100
LOWER, TITLE, UPPER = range(3)
MAX_GROUP_SENTENCES = 5
MAX_GROUP_WORDS = 120
DEV_SHARE = 256  # one sentence in so many
_TOKEN = re.compile(r"[\"'„“”‚‘’»«(\[]*([A-Za-zÀ-ÿẞß]+(?:['’-][A-Za-zÀ-ÿẞß]+)*-?)([^\w]*)")
_DASH = re.compile(r"[-–—]+")
_ABBREVIATIONS = {"dr", "prof", "bzw", "usw", "etc", "st", "nr", "hr", "fr", "ca", "vgl", "str", "bd", "jh"}
_MARK_OF = {";": ",", "…": "."}


@dataclass(frozen=True)
class TaggedText:
    """Sentences as word numbers and labels, one after another.

    Attributes:
        words: spellings by number; the second half contains each word's misspelling.
        pieces: int32 [2 * n_spellings, N_PIECES], hashed pieces of each.
        numbers: int32 [n_words]. cases, marks: int8 [n_words]. offsets: int64 [n_sentences + 1].
    """

    words: tuple[str, ...]
    pieces: NDArray[np.int32]
    numbers: NDArray[np.int32]
    cases: NDArray[np.int8]
    marks: NDArray[np.int8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> TaggedText:
        """Some of the sentences."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        numbers, cases, marks = (
            np.concatenate([a[s] for s in spans]) for a in (self.numbers, self.cases, self.marks)
        )
        lengths = [0, *(span.stop - span.start for span in spans)]
        return TaggedText(self.words, self.pieces, numbers, cases, marks, np.cumsum(lengths).astype(np.int64))


@dataclass(frozen=True)
class Batch:
    """pieces int64 [batch, n_words, N_PIECES], mask bool, cases and marks int64 [batch, n_words]."""

    pieces: Tensor
    mask: Tensor
    cases: Tensor
    marks: Tensor


def tag_sentence(line: str) -> tuple[list[str], list[int], list[int]] | None:
    """A written sentence as lower-case words, their case and the punctuation after each.

    Returns:
        None for sentences that do not match a recogniser's words: digits, abbreviations, other scripts,
        no punctuation at the end, only capitals.
    """
    words: list[str] = []
    cases: list[int] = []
    marks: list[int] = []
    for token in line.split():
        if _DASH.fullmatch(token):
            if marks and marks[-1] == 0:
                marks[-1] = MARKS.index(",")
            continue
        match = _TOKEN.fullmatch(token)
        if match is None or (match[2].startswith(".") and match[1].lower() in _ABBREVIATIONS):
            return None
        for part in filter(None, match[1].split("-")):
            word = normalize_text(part)
            if not word or " " in word:
                return None
            words.append(word)
            cases.append(_case_of(part))
            marks.append(0)
        marks[-1] = _mark_of(match[2])
    if not words or MARKS[marks[-1]] not in (".", "?", "!") or cases.count(UPPER) > 1 + len(words) // 4:
        return None
    return words, cases, marks


def _case_of(word: str) -> int:
    letters = [char for char in word if char.isalpha()]
    if len(letters) > 1 and all(char.isupper() for char in letters):
        return UPPER
    return TITLE if letters[0].isupper() else LOWER


def _mark_of(tail: str) -> int:
    for char in tail:
        mark = _MARK_OF.get(char, char)
        if mark in MARKS:
            return MARKS.index(mark)
    return 0


def read_tagged(paths: Sequence[Path], column: int | None = None) -> TaggedText:
    """Tag every usable line of text files.

    Args:
        paths: UTF-8, plain or .zst. column: of a TSV with the sentence; None, or a line without tabs,
            takes the whole line.
    Raises:
        ValueError: no usable sentence.
    """
    numbers: dict[str, int] = {}
    flat: list[int] = []
    cases: list[int] = []
    marks: list[int] = []
    offsets = [0]
    for path in paths:
        for line in read_text(path):
            cells = line.rstrip("\n").split("\t")
            tagged = tag_sentence(cells[column] if column is not None and len(cells) > column else cells[0])
            if tagged is None:
                continue
            flat += [numbers.setdefault(word, len(numbers)) for word in tagged[0]]
            cases += tagged[1]
            marks += tagged[2]
            offsets.append(len(flat))
    if not flat:
        raise ValueError(
            f"no usable sentence in {', '.join(map(str, paths))}; expected one written sentence per line"
        )
    spellings = [*numbers, *(misspell(word) for word in numbers)]
    return TaggedText(
        tuple(spellings), np.array([hash_pieces(word) for word in spellings], np.int32),
        np.array(flat, np.int32), np.array(cases, np.int8), np.array(marks, np.int8), np.array(offsets),
    )  # fmt: skip


def misspell(word: str) -> str:
    """A word with one letter wrong, missing or doubled, always the same one."""
    rng = random.Random(word)
    at = rng.randrange(len(word))
    return word[:at] + rng.choice(["", word[at] * 2, rng.choice(LETTERS)]) + word[at + 1 :] or word


def split_dev(text: TaggedText) -> tuple[TaggedText, TaggedText]:
    """Training and development sentences; equal sentences are in the same part."""
    spans = zip(text.offsets[:-1], text.offsets[1:], strict=True)
    sums = np.array([zlib.crc32(text.numbers[start:end].tobytes()) for start, end in spans])
    dev = sums % DEV_SHARE == 0
    if not dev.any() or dev.all():
        raise ValueError(f"{len(text)} sentences are too few for a development set; expected some thousands")
    return text.take(np.nonzero(~dev)[0]), text.take(np.nonzero(dev)[0])


def batches(
    text: TaggedText, batch_words: int, misspelled: float, rng: np.random.Generator
) -> Iterator[Batch]:
    """One pass over the text: sentences in random order, joined by one to five, in padded batches."""
    groups = _groups(text, rng)
    lengths = np.array([sum(text.offsets[i + 1] - text.offsets[i] for i in group) for group in groups])
    order = np.argsort(lengths + rng.random(len(lengths)), kind="stable")
    plans: list[list[int]] = [[]]
    for index in order:
        if plans[-1] and (len(plans[-1]) + 1) * lengths[index] > batch_words:
            plans.append([])
        plans[-1].append(int(index))
    for position in rng.permutation(len(plans)):
        yield _collate(text, [groups[i] for i in plans[position]], misspelled, rng)


def _groups(text: TaggedText, rng: np.random.Generator) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    room, wanted = 0, 0
    for sentence in rng.permutation(len(text)):
        length = int(text.offsets[sentence + 1] - text.offsets[sentence])
        if not groups[-1] or len(groups[-1]) >= wanted or room < length:
            groups.append([])
            room, wanted = MAX_GROUP_WORDS, int(rng.integers(1, MAX_GROUP_SENTENCES + 1))
        groups[-1].append(int(sentence))
        room -= length
    return [group for group in groups if group]


def _collate(text: TaggedText, groups: list[list[int]], misspelled: float, rng: np.random.Generator) -> Batch:
    rows = [
        np.concatenate([np.arange(text.offsets[i], text.offsets[i + 1]) for i in group]) for group in groups
    ]
    width = max(map(len, rows))
    at = np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows])
    mask = at >= 0
    numbers = text.numbers[at].astype(np.int64)
    numbers += (rng.random(numbers.shape) < misspelled) * (len(text.words) // 2)
    labels = [np.where(mask, array[at], IGNORED).astype(np.int64) for array in (text.cases, text.marks)]
    pieces = torch.from_numpy(text.pieces[numbers].astype(np.int64))
    return Batch(pieces, torch.from_numpy(mask), *(torch.from_numpy(array) for array in labels))
