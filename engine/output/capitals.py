"""A text begins with a capital, whatever its first word is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.types import Word


def capitalise_first(words: Sequence[Word]) -> list[Word]:
    """The same words, the first letter of the first one as a capital."""
    found = list(words)
    for index, word in enumerate(found):
        place = next((at for at, char in enumerate(word.text) if char.isalpha()), None)
        if place is not None:
            text = word.text[:place] + word.text[place].upper() + word.text[place + 1 :]
            found[index] = replace(word, text=text if len(text) == len(word.text) else word.text)
            break
    return found
