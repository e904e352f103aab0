"""What the words around a number say: which ending an ordinal has, whether a full stop ends a sentence."""

from __future__ import annotations

import re
from typing import Final

from engine.text.units import MONTHS

_TO_N: Final = frozenset(
    "am vom zum beim im dem den des bis ab seit diesem diesen jedem jeden einem einen zur dieser jeder "
    "jenem jenen jener welchem welchen meinem seinem ihrem unserem deinem meinen seinen ihren unseren "
    "deinen nach".split()
)
_TO_E: Final = frozenset("der die das jede diese dieses".split())
_TO_R: Final = frozenset("ein mein sein ihr unser dein kein".split())
BEFORE_NUMBER: Final = frozenset(
    "jahr jahre jahren seite nummer nr straße hausnummer zimmer kapitel artikel paragraf paragraph "
    "abschnitt absatz band teil gleis linie bus raum platz klasse halle tor akt szene version kanal phase "
    "stufe".split()
)
VERSIONED: Final = frozenset(
    "version release kapitel abschnitt python windows android ios firmware punkt update".split()
)
STARTERS: Final = frozenset(
    "Er Sie Es Wir Ich Du Ihr Man Das Die Der Den Dem Dann Danach Darauf Dabei Dazu Und Aber Oder Denn "
    "Doch In Im Auf Am An Bei Beim Mit Nach Von Vom Zu Zum Zur Für Durch Über Unter Vor Seit Bis Als Wenn "
    "Weil Ob Ein Eine Einer Einen Jetzt Heute Gestern Morgen Nun So Was Wie Wo Wer Warum Da Dort Hier "
    "Mein Meine Sein Seine Ihre Unser Unsere Alle Viele Auch Nur Nicht Noch Damals Später Dies Diese "
    "Dieser".split()
)  # fmt: skip
_WORD_BEFORE = re.compile(r"([^\W\d_]+)[.,:]?[\s\u00a0\u202f]*[(\"„“»']?$")
_WORD_BEHIND = re.compile(r"[\s\u00a0\u202f]*([^\W\d_]+)")
_MONTHS = frozenset(
    name for month in MONTHS for name in (month.lower(), month[:3].lower())
) - {"mär"} | {"jänner", "feber", "sept", "mrz", "juno", "julei"}  # fmt: skip
_SERIES = re.compile(r"(\d{1,3})\.,?\s+(?:und|oder|sowie)\s+$")
_LAST_NUMBER = re.compile(r"(?<![\w.,:/-])(\d{1,3})\.[\"'“”«»‘’)\]]*$")
_LOOK_BACK = 40
LONGEST_RANK: Final = 4  # "999.", with its full stop
LAST_DAY: Final = 31  # of a month; ranks beyond it seldom end a sentence


def word_before(text: str, at: int) -> str:
    """The word in front of a place, as written, or ""."""
    match = _WORD_BEFORE.search(text[max(at - _LOOK_BACK, 0) : at])
    return match[1] if match else ""


def word_behind(text: str, at: int) -> str:
    """The word behind a place, as written, or ""."""
    match = _WORD_BEHIND.match(text, at)
    return match[1] if match else ""


def is_month(word: str) -> bool:
    """Whether a word names a month, in full or short."""
    return word.lower() in _MONTHS


def has_article(before: str) -> bool:
    """Whether an ordinal can follow this word and a plain number hardly can."""
    return before.lower() in _TO_N - {"bis", "ab", "seit", "nach"} | _TO_E | _TO_R


def takes_day(before: str) -> bool:
    """Whether a day of the month or a rank can end the sentence behind this word: am 3., der 3."""
    return before.lower() in {"am", "vom", "zum", "der", "dem", "den", "des", "bis"}


def word_before_series(text: str, at: int) -> str:
    """The word in front of a number, or of the ordinals that it goes on: "am" for the 5 of "am 4. und 5."."""
    start = at
    while match := _SERIES.search(text, max(start - _LOOK_BACK, 0), start):
        start = match.start()
    return word_before(text, start)


def ends_with_ordinal(text: str) -> bool:
    """Whether the full stop at the end of a text belongs to an ordinal too: "am 3.", but not "es sind 3."."""
    match = _LAST_NUMBER.search(text[-_LOOK_BACK:])
    if match is None or int(match[1]) > LAST_DAY:
        return False
    return takes_day(word_before_series(text, len(text) - len(match[0])))


def stop_ends_sentence(text: str, at: int, end: int) -> bool:
    """Whether the full stop behind a number, an ordinal's or not, ends a sentence as well.

    "Er kam am 4. Dann ging er.", "Er war 15. Das war jung." A number that opens a line of a list does not.

    Args:
        at, end: where the digits begin, and where the text goes on behind the full stop.
    """
    before, behind = word_before_series(text, at), word_behind(text, end)
    if behind not in STARTERS:
        return False
    return before.islower() or before.lower() in BEFORE_NUMBER or (before != "" and end - at > LONGEST_RANK)


def ending_after(before: str, default: str) -> str:
    """The ending that an ordinal has behind a word: am dritten, der dritte, ein dritter."""
    lower = before.lower()
    if lower in _TO_N:
        return "n"
    return "" if lower in _TO_E else "r" if lower in _TO_R else default


def ends_sentence(before: str, behind: str, number: int) -> bool:
    """Whether "3." in front of a word is a number and a full stop, not an ordinal."""
    if is_month(behind):
        return False
    if has_article(before):
        return number > LAST_DAY and behind in STARTERS
    if before.lower() in BEFORE_NUMBER and behind[:1].isupper():
        return True
    return behind in STARTERS or number > 100 or before.lower() == "bis"
