"""Sentences that run through several cues or segments: whole where they are translated, then shared out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from engine.output.line_breaks import break_cost, count_chars
from engine.translation.sentences import split_sentences

MAX_GAP_S: Final = 3.0  # a sentence does not go on after a longer pause
_SHARE_COST: Final = 10.0  # of a cut away from where its share of the letters ends
_ENDED = re.compile(r"[.!?…:♪][\"'”“«»’)\]]*$")


@dataclass(frozen=True)
class Sentence:
    """German text, and how many of its letters are in each part: pairs of a part's number and letters."""

    german: str
    shares: tuple[tuple[int, int], ...]


def has_ended(text: str) -> bool:
    """Whether a text ends with a mark that ends a sentence."""
    return _ENDED.search(text) is not None


def divide(parts: Sequence[str], run: Sequence[int]) -> list[Sentence]:
    """The sentences of a passage.

    Args:
        parts: texts.
        run: the numbers of those that make the passage, in order.
    """
    owners = [(index, word) for index in run for word in parts[index].split()]
    found, at = [], 0
    for sentence in split_sentences(" ".join(word for _, word in owners)):
        n_words = len(sentence.split())
        shares: dict[int, int] = {}
        for index, word in owners[at : at + n_words]:
            shares[index] = shares.get(index, 0) + len(word) + 1
        found.append(Sentence(sentence, tuple(shares.items())))
        at += n_words
    return found


def share_out(tokens: Sequence[str], shares: Sequence[int]) -> list[list[str]]:
    """Cut words into as many parts as there are shares, near the share of the letters, at good places.

    Args:
        tokens: words.
        shares: sizes, at least one.
    Returns:
        The words of each part; a part is empty only where there are fewer words than parts.
    """
    whole, n_chars = max(1, sum(shares)), max(1, count_chars(tokens))
    cuts, done = [0], 0
    for index, share in enumerate(shares[:-1]):
        done += share
        left = len(shares) - 1 - index  # parts that come after
        first, last = min(cuts[-1] + 1, len(tokens)), max(cuts[-1], len(tokens) - left)
        places = range(first, last + 1) or range(last, last + 1)
        cuts.append(min(places, key=lambda at: _cut_cost(tokens, at, done / whole, n_chars)))
    cuts.append(len(tokens))
    return [list(tokens[a:b]) for a, b in pairwise(cuts)]


def _cut_cost(tokens: Sequence[str], at: int, share: float, n_chars: int) -> float:
    off = abs(count_chars(tokens[:at]) / n_chars - share)
    return _SHARE_COST * off + (0.1 * break_cost(tokens[at - 1], tokens[at]) if 0 < at < len(tokens) else 0.0)
