"""Which sentence pairs are no training data: what is tested on, and what is no translation."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.translation.quantities import missing_numbers
from training.mt.data import Pair

N_GRAM = 5  # words; a sentence that shares most of its own with tested ones is one of them, changed a little
SHARED = 0.8
MAX_RATIO, SLACK = 2.5, 5  # words of the longer side for those of the shorter one
MIN_LETTERS = 0.5  # of the characters that are no spaces
_OTHER = re.compile(r"[\W_]+")
_GERMAN_ONLY = re.compile(r"[äöüß]|\b(?:der|das|und|nicht|ist|ein|eine|mit|auf|wird|werden)\b", re.IGNORECASE)


def normalised(text: str) -> str:
    """A sentence for comparison: folded case, letters and digits alone, single spaces."""
    return _OTHER.sub(" ", text.casefold()).strip()


class HeldOut:
    """Sentences of development and test sets, in either language."""

    def __init__(self, sentences: Iterable[str]) -> None:
        """Index them."""
        self._whole: set[str] = set()
        self._grams: set[int] = set()
        for sentence in sentences:
            key = normalised(sentence)
            self._whole.add(key)
            self._grams.update(_grams(key))

    def holds(self, *keys: str) -> bool:
        """Whether one of these normalised sentences is among them, or nearly."""
        return any(key in self._whole or self._is_near(key) for key in keys)

    def _is_near(self, key: str) -> bool:
        grams = _grams(key)
        return len(grams) > 1 and sum(gram in self._grams for gram in grams) >= SHARED * len(grams)


def _grams(key: str) -> list[int]:
    words = key.split()
    return [hash(tuple(words[i : i + N_GRAM])) for i in range(len(words) - N_GRAM + 1)]


def find_fault(pair: Pair, max_words: int) -> str:
    """Why a pair is no translation that one should learn from; "" where nothing is wrong.

    Args:
        max_words: of the longer side.
    """
    german, english = pair.source.split(), pair.target.split()
    short, long = sorted((len(german), len(english)))
    if not short or long > max_words:
        return "empty or too long"
    if long > MAX_RATIO * short + SLACK:
        return "lengths that do not fit"
    if min(_letters(pair.source), _letters(pair.target)) < MIN_LETTERS:
        return "no sentence"
    if len(german) > 3 and normalised(pair.source) == normalised(pair.target):
        return "not translated"
    if len(english) > 3 and 3 * len(_GERMAN_ONLY.findall(pair.target)) > len(english):
        return "German on the English side"
    if any(char.isdigit() for char in pair.source) and any(
        number.firm for number in missing_numbers(pair.source, pair.target)
    ):
        return "another number"
    return ""


def _letters(text: str) -> float:
    shown = [char for char in text if not char.isspace()]
    return sum(char.isalpha() for char in shown) / max(1, len(shown))
