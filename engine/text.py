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
NORMALIZER = "lower+num2words+letters"  # goes into benchmark signatures

_SPELLED = {"&": " und ", "%": " prozent ", "€": " euro ", "$": " dollar ", "°": " grad ", "§": " paragraf "}
_FOLDED = {"æ": "ae", "œ": "oe", "ø": "ö", "å": "a", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_NUMBER = re.compile(r"\d{1,3}(?:\.\d{3})+(?!\d)|\d+(?:,\d+)?")
_ORDINAL = re.compile(
    r"(\b(?:am|vom|zum|beim|im|dem|den|der|des) )?\b(\d{1,4})\.(?=\s+[a-zäöüß])", re.IGNORECASE
)
_YEAR = re.compile("1[1-9]\\d\\d")  # said in hundreds: neunzehnhundertachtunddreißig
_APOSTROPHES = re.compile(r"['’‘`´]")
_OTHER = re.compile(f"[^{LETTERS}]+")


def normalize_text(text: str) -> str:
    """Reduce German text to what a CTC vocabulary of letters can spell.

    Args:
        text: any Unicode text.
    Returns:
        Lower-case words of a to z, ä, ö, ü, ß, joined by single spaces; digits are spelled
        out, accents folded, apostrophes dropped, all else a word boundary. May be empty.
    """
    text = spell_numbers(unicodedata.normalize("NFC", text).lower().replace("ẞ", "ß"))
    text = _APOSTROPHES.sub("", text)
    return _OTHER.sub(" ", "".join(_fold(char) for char in text)).strip()


def strip_words(words: Sequence[Word]) -> list[Word]:
    """The same words in lower case and without punctuation; what holds no letter goes."""
    plain = (replace(word, text=normalize_text(word.text)) for word in words)
    return [word for word in plain if word.text]


def spell_numbers(text: str) -> str:
    """The same text with digits and signs as they are said: 1938 as a year, 3. as an ordinal, % as prozent.

    Args:
        text: German, in any case, which stays as it is; spaces around numbers may double.
    """
    for symbol, spelled in _SPELLED.items():
        text = text.replace(symbol, spelled)
    text = _ORDINAL.sub(_spell_ordinal, text)
    return _NUMBER.sub(lambda match: f" {_spell(match[0])} ", text)


@functools.lru_cache(maxsize=4096)
def _fold(char: str) -> str:
    if char in LETTERS or char.isascii():
        return char
    if char in _FOLDED:
        return _FOLDED[char]
    return "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))


def _spell_ordinal(match: re.Match[str]) -> str:
    article = match[1] or ""
    inflected = "n" if article and article.lower() != "der " else ""
    return f"{article}{_spell(match[2], ordinal=True)}{inflected}"


@functools.lru_cache(maxsize=4096)
def _spell(number: str, ordinal: bool = False) -> str:
    from num2words import num2words

    digits = number.replace(".", "")
    if number == digits and _YEAR.fullmatch(number) and not ordinal:
        return str(num2words(int(number), lang="de", to="year")).lower()
    if len(digits) > 15:  # telephone and serial numbers are read digit by digit
        return " ".join(num2words(int(digit), lang="de") for digit in digits if digit.isdigit())
    if "," in digits:
        whole, fraction = digits.split(",", 1)
        spelled = " ".join(num2words(int(digit), lang="de") for digit in fraction)
        return f"{num2words(int(whole), lang='de')} komma {spelled}"
    spelled = num2words(int(digits), lang="de", to="ordinal" if ordinal else "cardinal")
    return str(spelled).lower()
