"""Numbers on their way through a translator: simpler ones for hard ones, and English separators and signs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.translation.quantities import Quantity
from engine.translation.rewording import MINUS

# What stands for a number that was lost: of its kind, and frequent in any corpus.
_EASY: Final = (("20", "twenty"), ("30", "thirty"), ("50", "fifty"), ("40", "forty"), ("60", "sixty"))
_YEARS: Final = ("1990", "1980", "1970", "1960")
_TIMES: Final = ("10:30", "9:30", "11:30")
_YEAR = re.compile(r"1[4-9]\d\d|20\d\d")
_EN_AMOUNT = r"(\d[\d,.]*\d|\d)((?:\s(?:thousand|million|billion|trillion))?)"
_NAMES: Final = {"€": r"[Ee]uros?", "$": r"[Dd]ollars?", "£": r"[Pp]ounds?", "¥": "[Yy]en"}
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d{1,2}|\d{4,})(?![\d,])")
_GERMAN_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+(?:,\d+)?(?![\d.,]*\d)")


@dataclass(frozen=True, slots=True)
class Swapped:
    """A text with simpler numbers.

    Attributes:
        text: for the model.
        back: (pattern of the simpler number in English, the number as English writes it).
    """

    text: str
    back: tuple[tuple[re.Pattern[str], str], ...]

    def put_back(self, english: str) -> str:
        """The numbers themselves where each simpler one is there exactly once; else the text as it is."""
        if any(len(pattern.findall(english)) != 1 for pattern, _ in self.back):
            return english
        for pattern, number in self.back:
            english = pattern.sub(number, english)
        return english


def swap_numbers(german: str, numbers: Sequence[Quantity]) -> Swapped:
    """Put simpler numbers for those that a translation lacked.

    Args:
        german: numbers in digits.
        numbers: each as it stands in the text; others are left alone.
    """
    back = []
    for number in numbers:
        digits = re.search(r"\d[\d.,: ]*\d|\d", number.text)
        place = re.search(rf"(?<![\d.,]){re.escape(digits[0])}(?![\d])", german) if digits else None
        simple = _choose(number, digits[0], german) if digits else None
        if digits is None or place is None or simple is None:
            continue
        german = german[: place.start()] + simple[0] + german[place.end() :]
        back.append((re.compile(simple[1], re.IGNORECASE), english_digits(digits[0])))
    return Swapped(german, tuple(back))


def _choose(number: Quantity, digits: str, taken: str) -> tuple[str, str] | None:
    """A simpler number that is not in the text, and how English may write it."""
    if number.clock is not None and ":" in digits:
        free = [time for time in _TIMES if time not in taken]
        return (free[0], rf"{free[0].replace(':', '[:.]')}(?:\s?[ap]\.?m\.?)?") if free else None
    if _YEAR.fullmatch(digits):
        free = [year for year in _YEARS if year not in taken]
        return (free[0], free[0]) if free else None
    pairs = [pair for pair in _EASY if pair[0] not in taken]
    return (pairs[0][0], rf"(?<![\d.,]){pairs[0][0]}(?![\d.,]*\d)|\b{pairs[0][1]}\b") if pairs else None


def english_digits(german: str) -> str:
    """1.234,5 as 1,234.5."""
    if _GERMAN_GROUPS.fullmatch(german) or re.fullmatch(r"\d+,\d+", german):
        return german.translate(str.maketrans(".,", ",."))
    return re.sub(r"(?<=\d)[ \u202f\u00a0](?=\d{3})", ",", german)


def write_english(english: str, german: str) -> str:
    """Numbers with English separators, and the signs of the German text where their names stand.

    Args:
        english: a translation of the reworded text.
        german: the sentence before it was reworded.
    """
    if not any(char.isdigit() for char in english):
        return english
    if "," in english:
        english = _DECIMAL_COMMA.sub(r"\1.\2", english)
    for token in _GERMAN_GROUPS.findall(german):
        english = re.sub(rf"(?<![\d.,]){re.escape(token)}(?![\d])", english_digits(token), english)
    for sign, names in _NAMES.items():
        if sign in german:
            english = re.sub(rf"{_EN_AMOUNT}\s{names}\b", rf"{sign}\1\2", english)
    if "§" in german:
        english = re.sub(r"\b([Pp]aragraph|[Ss]ection|[Aa]rticle)s?\s(?=\d)", "§ ", english)
    if MINUS.search(german):
        english = re.sub(r"\b[Mm]inus\s(?=\d)", "-", english)
    return english
