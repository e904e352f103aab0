"""Which way to say the numbers of two texts: the one with the fewest word errors between them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.text.normalize import list_readings

Integers = NDArray[np.int32]
Readings = Sequence[tuple[str, ...]]
SMALL = 10_000  # cells of the table: up to here texts are not cut
SURE = 6  # equal plain words in a row
_FAR = 1 << 29  # more errors than any text has


class Pair(NamedTuple):
    """Two texts, ready for counting.

    Attributes:
        said: the reference, each number said in the way that is nearest to the hypothesis.
        heard: the hypothesis, each number said in the way that is nearest to the reference.
        usual: the reference with numbers as they are usually said; its length is what errors are divided by.
    """

    said: str
    heard: str
    usual: str


@functools.lru_cache(maxsize=256)  # words and characters are counted one after another
def choose_readings(reference: str, hypothesis: str) -> Pair:
    """Say the numbers of both texts so that they differ as little as possible.

    Numbers of the reference are chosen first, then those of the hypothesis, then the reference's again: each
    step leaves as many errors as before or fewer, so there are never more than between the usual ways to say
    both. A way that is not the usual one is chosen only where one of its words was heard. Deterministic.

    Args:
        reference, hypothesis: German, as written.
    """
    wanted, got = list_readings(reference), list_readings(hypothesis)
    usual, heard = _usual(wanted), _usual(got)
    said = choose(wanted, heard)
    if any(len(forms) > 1 for forms in got):
        heard = choose(got, said)
        said = choose(wanted, heard)
    return Pair(said, heard, usual)


def _usual(readings: Readings) -> str:
    return " ".join(forms[0] for forms in readings)


def choose(readings: Readings, other: str) -> str:
    """The way to say a text that has the fewest word errors against another; the earlier form if equal.

    Long texts are cut where both agree over several plain words, and each part is solved alone.

    Args:
        readings: as list_readings returns them. other: normalised, as it stands.
    """
    if all(len(forms) == 1 for forms in readings):
        return _usual(readings)
    words = other.split()
    pieces = [
        part
        for forms in readings
        for part in ([(w,) for w in forms[0].split()] if len(forms) == 1 else [forms])
    ]
    cuts = [(0, 0), *_find_cuts(pieces, words), (len(pieces), len(words))]
    said: list[str] = []
    for (piece, word), (last_piece, last_word) in itertools.pairwise(cuts):
        said += _solve(pieces[piece:last_piece], words[word:last_word])
    return " ".join(said)


def _find_cuts(pieces: Readings, words: Sequence[str]) -> list[tuple[int, int]]:
    """Index of piece and of word in the middle of SURE plain words that are equal on both sides."""
    if len(pieces) * len(words) <= SMALL:
        return []
    owners = [at for at, forms in enumerate(pieces) for _ in forms[0].split()]
    import jiwer  # of the extras that compare texts; the runtime compares none

    aligned = jiwer.process_words(_usual(pieces), " ".join(words)).alignments[0]
    cuts, run = [], 0
    for chunk in aligned:
        run = 0
        for offset in range(chunk.ref_end_idx - chunk.ref_start_idx if chunk.type == "equal" else 0):
            piece = owners[chunk.ref_start_idx + offset]
            run = run + 1 if len(pieces[piece]) == 1 else 0
            if run == SURE:
                cuts.append((piece - SURE // 2, chunk.hyp_start_idx + offset - SURE // 2))
                run = 0
    return cuts


def _solve(pieces: Readings, words: Sequence[str]) -> list[str]:
    """The form of each piece with which all of them have the fewest errors against the words.

    Source: Levenshtein's alignment over a lattice, one row for each of its words; O(pieces x words).
    """
    lattice = _Lattice(words)
    kept = [lattice.prune(forms) for forms in pieces]
    if all(len(forms) == 1 for forms in kept):
        return [forms[0] for forms in kept]
    for forms in kept:
        lattice.extend(forms)
    return [forms[at] for forms, at in zip(kept, lattice.trace(), strict=True)]


class _Lattice:
    """Rows of Levenshtein's table: cost[j] is the least number of errors up to word j of the other text."""

    def __init__(self, words: Sequence[str]) -> None:
        self._known: dict[str, int] = {}
        ids = [self._known.setdefault(word, len(self._known)) for word in words]
        self._other = np.array(ids, np.int32)
        self._steps = np.arange(len(words) + 1, dtype=np.int32)
        self._cost = self._steps.copy()  # nothing but insertions
        self._choices: list[tuple[Integers, Integers]] = []  # the form and the column it began at

    def prune(self, forms: tuple[str, ...]) -> tuple[str, ...]:
        """The first form, and those of which a word was heard at all: no other one can be chosen."""
        return forms[:1] + tuple(
            form for form in forms[1:] if any(word in self._known for word in form.split())
        )

    def extend(self, forms: tuple[str, ...]) -> None:
        """Put the ways to say one piece behind the rows so far."""
        best, origin = self._follow(forms[0], must_hit=False)
        form = np.zeros(best.size, np.int32)
        for at, words in enumerate(forms[1:], 1):
            cost, began = self._follow(words, must_hit=True)
            better = cost < best
            best, origin = np.where(better, cost, best), np.where(better, began, origin)
            form[better] = at
        self._cost = best
        self._choices.append((form, origin))

    def trace(self) -> list[int]:
        """The form of each piece on the cheapest way."""
        column, found = self._steps.size - 1, []
        for form, origin in reversed(self._choices):
            found.append(int(form[column]))
            column = int(origin[column])
        return found[::-1]

    def _follow(self, words: str, must_hit: bool) -> tuple[Integers, Integers]:
        """Costs behind these words, and the column in which each way began them."""
        miss = _Row(self._cost, self._steps)
        hit = _Row(np.full(self._cost.size, _FAR, np.int32), self._steps)
        for word in words.split():
            same = self._other == self._known.get(word, -1)
            if must_hit:
                hit = hit.advance(same).or_cheaper(miss.matched(same)).insert(self._steps)
                same = np.zeros_like(same)
            miss = miss.advance(same).insert(self._steps)
        row = hit if must_hit else miss
        return row.cost, row.origin


class _Row(NamedTuple):
    """Costs by column, and where each way began."""

    cost: Integers
    origin: Integers

    def advance(self, same: NDArray[np.bool_]) -> _Row:
        """Behind one more word: deleted, or beside the other text's next word, an error unless the same."""
        cost, origin = self.cost + 1, self.origin.copy()
        beside = self.cost[:-1] + ~same
        better = beside <= cost[1:]
        cost[1:][better] = beside[better]
        origin[1:][better] = self.origin[:-1][better]
        return _Row(cost, origin)

    def matched(self, same: NDArray[np.bool_]) -> _Row:
        """Behind a word that is the same as the other text's."""
        cost, origin = np.full(self.cost.size, _FAR, np.int32), self.origin.copy()
        cost[1:][same] = self.cost[:-1][same]
        origin[1:] = self.origin[:-1]
        return _Row(cost, origin)

    def or_cheaper(self, other: _Row) -> _Row:
        """The cheaper of both in each column."""
        better = other.cost < self.cost
        return _Row(np.where(better, other.cost, self.cost), np.where(better, other.origin, self.origin))

    def insert(self, steps: Integers) -> _Row:
        """With words of the other text that stand beside nothing."""
        level = self.cost - steps
        lowest = np.minimum.accumulate(level)
        new = np.concatenate([[True], level[1:] < lowest[:-1]])
        source = np.maximum.accumulate(np.where(new, steps, 0))
        return _Row((lowest + steps).astype(np.int32), self.origin[source])
