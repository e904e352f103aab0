"""Numbers as digits: "siebten November neunzehnhundertachtunddreißig" becomes "7. November 1938"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from engine.types import Word

SMALLEST = 3  # ein, zwei, drei are written as words
MARKS = ".,;:!?\"'"


def write_digits(words: Sequence[Word]) -> list[Word]:
    """The same words with spoken numbers as digits.

    Words that make one number become one: it lasts from the first one's start to the last one's end, and its
    confidence is the mean of theirs. Times of all others are unchanged.

    Args:
        words: in order, with or without capitals and punctuation.
    Source: the grammar of German numbers is text2num's.
    """
    from text_to_num import alpha2digit

    before = [word.text for word in words]
    after = alpha2digit(" ".join(before), "de", SMALLEST).split()
    found: list[Word] = []
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal" or i2 - i1 == j2 - j1:
            found += [replace(word, text=text) for word, text in zip(words[i1:i2], after[j1:j2], strict=True)]
        elif i2 > i1 and j2 > j1:
            found += _merge(words[i1:i2], after[j1:j2])
    return found


def _merge(words: Sequence[Word], texts: Sequence[str]) -> list[Word]:
    """Fewer texts than words: the first words make the first text, and so on, as evenly as it goes."""
    edges = [round(place * len(words) / len(texts)) for place in range(len(texts) + 1)]
    merged = []
    for text, first, last in zip(texts, edges[:-1], edges[1:], strict=True):
        parts = words[first:last] or words[max(first - 1, 0) : first]
        confidence = sum(part.confidence for part in parts) / len(parts)
        merged.append(Word(text, parts[0].start_s, parts[-1].end_s, confidence))
    return merged
