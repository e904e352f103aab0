"""What BLEU does not see: names and numbers kept; text left out, invented, repeated or still German."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.translation.quantities import missing_numbers, read_english, read_german
from engine.translation.rewording import reword
from engine.translation.translator import longest_run

MIN_WORDS: Final = 6  # a shorter reference says nothing by its length
SHORT, LONG = 0.5, 1.8  # words of a translation for those of its reference
COPIED: Final = (
    0.6  # share of German among the words that are not the reference's, from which a line is German
)
LEFT: Final = 2, 1 / 3  # so many German words at least, and such a share of all
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"[A-ZÄÖÜ][^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class Share:
    """A share of lines or names.

    Attributes:
        right: how many.
        total: of how many.
    """

    right: int
    total: int

    @property
    def value(self) -> float | None:
        """Between 0 and 1; None where there is nothing to count."""
        return self.right / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Counts over a set.

    Attributes:
        numbers: lines with numbers whose English holds them all.
        names: words that stand with a capital in the German and in the reference, and are in the English.
        invented: lines with a number in digits that neither the German nor the reference has.
        empty: no English for German words.
        untranslated: a third of its words or more, and most of those that the reference lacks, are the
            German's.
        repeated: a phrase stands three times in a row or more, and more often than in the reference.
        short, long: less than half of the reference's words, or more than 1.8 times as many.
    """

    numbers: Share
    names: Share
    invented: int
    empty: int
    untranslated: int
    repeated: int
    short: int
    long: int

    def as_row(self) -> dict[str, Any]:
        """Fields of a result: shares rounded, with what they are of; counts of lines."""
        shares = {
            key: None if share.value is None else round(share.value, 4)
            for key, share in (("numbers_kept", self.numbers), ("names_kept", self.names))
        }
        return {
            **shares, "lines_with_numbers": self.numbers.total, "names": self.names.total,
            "invented_numbers": self.invented, "empty": self.empty, "untranslated": self.untranslated,
            "repeated": self.repeated, "too_short": self.short, "too_long": self.long,
        }  # fmt: skip


def count_faithfulness(
    german: Sequence[str], english: Sequence[str], references: Sequence[str]
) -> Faithfulness:
    """Compare translations with what they came from.

    Args:
        german: as written, also where the translator was given another form of it.
        english: translations.
        references: right translations.
    """
    rows = list(zip(german, english, references, strict=True))
    numbers = [kept for de, en, _ in rows if (kept := _keeps_numbers(de, en)) is not None]
    names = [name.lower() in _words(en) for de, en, ref in rows for name in find_names(de, ref)]
    return Faithfulness(
        Share(sum(numbers), len(numbers)),
        Share(sum(names), len(names)),
        sum(_invents(*row) for row in rows),
        sum(not en.strip() for de, en, _ in rows if _WORD.search(de)),
        sum(_is_untranslated(*row) for row in rows),
        sum(longest_run(en) > max(2, longest_run(ref)) for _, en, ref in rows),
        sum(_n_words(en) < SHORT * _n_words(ref) for _, en, ref in rows if _n_words(ref) >= MIN_WORDS),
        sum(_n_words(en) > LONG * _n_words(ref) for _, en, ref in rows if _n_words(ref) >= MIN_WORDS),
    )


def find_names(german: str, reference: str) -> list[str]:
    """Capitalised words that a German sentence and its reference share, each once."""
    there = set(_NAME.findall(reference))
    return [name for name in dict.fromkeys(_NAME.findall(german)) if name in there]


def _said(german: str) -> str:
    """Clock times and halves in digits, as the translator reads them."""
    return reword(german, lambda char: True)


def _keeps_numbers(german: str, english: str) -> bool | None:
    """Whether every number that cannot be meant otherwise is there; None where there is none."""
    said = _said(german)
    if not any(quantity.firm for quantity in read_german(said)):
        return None
    return not any(quantity.firm for quantity in missing_numbers(said, english))


def _invents(german: str, english: str, reference: str) -> bool:
    written = re.findall(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])", english)
    if not written:
        return False
    digits = set(re.findall(r"\d+", german + reference))
    if all(part in digits for token in written for part in re.findall(r"\d+", token)):
        return False
    known, referred = read_german(_said(german)), read_english(reference)
    for token in written:
        said = read_english(token)
        if not any(said.hold(quantity) for quantity in known) and not said.values <= referred.values:
            return True
    return False


def _is_untranslated(german: str, english: str, reference: str) -> bool:
    """Names do not count: the reference has them too."""
    words, there = [word.lower() for word in _WORD.findall(english)], _words(reference)
    new = [word for word in words if word not in there]
    left = len([word for word in new if word in _words(german)])
    least, share = LEFT
    return left >= max(least, share * len(words)) and left > COPIED * len(new)


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _n_words(text: str) -> int:
    return len(text.split())
