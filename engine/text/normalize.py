"""German text as a recogniser writes it: lower case, digits spelled out, letters and single spaces only."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from engine.types import Word

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß"
WORD_DELIMITER = "|"
BLANK = "<pad>"
VOCABULARY: tuple[str, ...] = (BLANK, WORD_DELIMITER, *LETTERS)
NORMALIZER = "de-spoken/2"  # goes into signatures; the number changes with anything that is spelled otherwise

_FOLDED = {"æ": "ae", "œ": "oe", "ø": "ö", "å": "a", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_APOSTROPHES = re.compile(r"['’‘`´]")
_MAY_BE_SAID = re.compile(r"[\dIVX&%‰€$£°§½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")  # of all that engine.text.scan looks for
_OTHER = re.compile(f"[^{LETTERS}]+")


def normalize_text(text: str) -> str:
    """Reduce German text to what a CTC vocabulary of letters can spell.

    Args:
        text: any Unicode text, as written: capitals and punctuation tell how numbers are said.
    Returns:
        Lower-case words of a to z, ä, ö, ü, ß, joined by single spaces; numbers as they are usually said,
        accents folded, apostrophes dropped, all else a word boundary. May be empty.
    """
    pieces = _split(unicodedata.normalize("NFC", text))
    usual = (_reduce(piece if isinstance(piece, str) else piece[0]) for piece in pieces)
    return " ".join(filter(None, usual))


def list_readings(text: str) -> list[tuple[str, ...]]:
    """German text piece by piece, each with every way that people say it.

    Args:
        text: as for normalize_text.
    Returns:
        For each piece the ways to say it, none of them empty, each as normalize_text writes it; the first
        ones together are normalize_text. Text without digits and signs is one piece, said in one way.
    """
    readings = []
    for piece in _split(unicodedata.normalize("NFC", text)):
        forms = (piece,) if isinstance(piece, str) else piece
        found = tuple(dict.fromkeys(filter(None, map(_reduce, forms))))
        readings += [found] if found else []
    return readings


def spell_numbers(text: str) -> str:
    """The same text with digits and signs as they are said: 1938 as a year, 3. as an ordinal, % as Prozent.

    Args:
        text: German, as written; case and punctuation of everything else stay.
    """
    said = ""
    for piece in _split(text):
        words = piece if isinstance(piece, str) else piece[0]
        said += f" {words}" if said[-1:].isalnum() and words[:1].isalnum() else words
    return said


def strip_words(words: Sequence[Word]) -> list[Word]:
    """The same words in lower case and without punctuation; what holds no letter goes."""
    plain = (replace(word, text=normalize_text(word.text)) for word in words)
    return [word for word in plain if word.text]


def _split(text: str) -> Sequence[str | tuple[str, ...]]:
    """The pieces of engine.text.scan, which only texts with numbers and signs have to load."""
    if not _MAY_BE_SAID.search(text):
        return [text]
    from engine.text.scan import scan

    return scan(text)


def _reduce(text: str) -> str:
    text = _APOSTROPHES.sub("", text.lower().replace("ẞ", "ß"))
    return _OTHER.sub(" ", "".join(_fold(char) for char in text)).strip()


@functools.lru_cache(maxsize=4096)
def _fold(char: str) -> str:
    if char in LETTERS or char.isascii():
        return char
    if char in _FOLDED:
        return _FOLDED[char]
    return "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
