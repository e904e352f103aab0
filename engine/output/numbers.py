"""Numbers as digits: "siebten November neunzehnhundertachtunddreißig" becomes "7. November 1938"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Literal, TypeVar

from engine.types import Word

T = TypeVar("T")

SMALLEST = 3  # ein, zwei, drei are written as words
MARKS = ".,;:!?\"'"
_TWO_STOPS = re.compile(r"(?<![\d.,])(\d+\.)\.(?![.\d])")


def spell_in_digits(text: str, language: Literal["de", "en"], smallest: int = SMALLEST) -> str:
    """The same text with number words as digits, without thousands separators.

    Args:
        smallest: numbers up to this one stay words.
    """
    from text_to_num import alpha2digit

    digits = str(alpha2digit(text, language, smallest))
    # "am dritten." is "am 3.": the full stop of an ordinal and that of the sentence are one.
    return _TWO_STOPS.sub(r"\1", digits) if language == "de" else digits


def write_digits(words: Sequence[Word]) -> list[Word]:
    """The same words with spoken numbers as digits.

    Words that make one number become one: it lasts from the first one's start to the last one's end, and its
    confidence is the mean of theirs. Times of all others are unchanged.

    Args:
        words: in order, with or without capitals and punctuation.
    Source: the grammar of German numbers is text2num's.
    """
    before = [word.text for word in words]
    after = spell_in_digits(" ".join(before), "de").split()
    found: list[Word] = []
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal" or i2 - i1 == j2 - j1:
            found += [replace(word, text=text) for word, text in zip(words[i1:i2], after[j1:j2], strict=True)]
        elif j2 > j1 and i2 > i1:
            found += _merge(words[i1:i2], after[j1:j2])
        elif i2 > i1:  # nothing stands for these words: they stay as they are
            found += words[i1:i2]
        elif found:  # text that no word stands for belongs to the word before it
            found[-1] = replace(found[-1], text=" ".join([found[-1].text, *after[j1:j2]]))
    return found


def _merge(words: Sequence[Word], texts: Sequence[str]) -> list[Word]:
    """As many words as the shorter of the two has; the longer one is shared out as evenly as it goes."""
    n_words = min(len(words), len(texts))
    merged = []
    for place in range(n_words):
        parts, said = (_share(words, place, n_words), _share(texts, place, n_words))
        confidence = sum(part.confidence for part in parts) / len(parts)
        merged.append(Word(" ".join(said), parts[0].start_s, parts[-1].end_s, confidence))
    return merged


def _share(values: Sequence[T], place: int, n_places: int) -> Sequence[T]:
    """One of n_places runs of values, all about equally long."""
    return values[place * len(values) // n_places : (place + 1) * len(values) // n_places]
