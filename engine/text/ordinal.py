"""Ordinal numbers, Roman ones, and words that begin with a number."""

from __future__ import annotations

import re
from typing import Final

from engine.text.context import (
    BEFORE_NUMBER,
    LAST_DAY,
    STARTERS,
    ending_after,
    ends_sentence,
    has_article,
    is_month,
    takes_day,
    word_before,
    word_before_series,
    word_behind,
)
from engine.text.found import SPACE, Found
from engine.text.units import QUEENS, RULERS
from engine.text.words import (
    FIRST_YEAR,
    Forms,
    integer_forms,
    merge_forms,
    name_forms,
    ordinal_forms,
    spell_number,
)

_ORDINAL = re.compile(r"(\d{1,4})\.(?=\s*[-–/]\s*\d{1,2}\.|\s+[^\W\d_]|[A-ZÄÖÜ][a-zäöüß])")
_CLOSING = re.compile(r"(\d{1,3})\.(?=[\s\"“”»)]*$|[\"“”»]*(?:[,;:)!?…]|\.{3})|[\"“”»]+\s)")
_SPELLED = re.compile(r"(\d{1,4})-?s?te([nrsm]?)\b", re.IGNORECASE)
_TAILS = (  # of words that begin with a number
    "jährig jährlich tägig stündig stündlich minütig sekündig wöchig monatig köpfig stellig teilig stöckig "
    "prozentig bändig spurig sprachig seitig zeilig malig stimmig türig silbig stufig fach"
).split()
_COMPOUND = re.compile(
    r"(\d+(?:,\d+)?)(?:-| ?(?=%)|(?=\D))"
    rf"(%ig\w*|er[ns]?\b|mal(?:s|ig\w*)?\b|(?:{'|'.join(_TAILS)})\w*|x(?!\w))",
    re.IGNORECASE,
)
_ROMAN = re.compile(r"(X{0,3}(?:IX|IV|V?I{0,3}))(?![\w'’])")
_DATIVE: Final = frozenset("von mit bei unter nach seit zu vor gegenüber".split())
_VALUES: Final = {"I": 1, "V": 5, "X": 10}


def read_ordinal(text: str, at: int) -> Found | None:
    """3. in front of a word, "der 3." at the end, 3te, 1.-3. Mai."""
    if match := _SPELLED.match(text, at):
        return Found([ordinal_forms(int(match[1]), match[2].lower())], match.end())
    before = word_before_series(text, at)
    if match := _ORDINAL.match(text, at):
        return _before_word(text, match, before)
    match = _CLOSING.match(text, at)
    if match and takes_day(before) and int(match[1]) <= LAST_DAY:
        ends = match.end() - (not text[match.end() :].strip("\"'“”») "))
        ordinal = ordinal_forms(int(match[1]), ending_after(before, ""))
        return Found([merge_forms(ordinal, name_forms(match[1]))], ends)
    return None


def _before_word(text: str, match: re.Match[str], before: str) -> Found | None:
    number, behind = int(match[1]), word_behind(text, match.end())
    if len(match[1]) == 4 and number >= FIRST_YEAR and not (has_article(before) and before.lower() != "im"):
        return None  # a year, and the sentence ends
    ending = ending_after(before, "r" if is_month(behind) else "")
    ordinal, plain = ordinal_forms(number, ending), tuple(f"{form}." for form in name_forms(match[1]))
    if ends_sentence(before, behind, number):
        return Found([merge_forms(plain[:20], ordinal)], match.end())
    is_sure = is_month(behind) or not behind or has_article(before)
    ends = match.end() - (has_article(before) and behind in STARTERS)  # then the sentence's is said, too
    return Found([ordinal if is_sure else merge_forms(ordinal, plain)], ends)


def read_compound(text: str, at: int) -> Found | None:
    """90er, 15-jährige, 3-mal, 10fach, 50%ig, 3x."""
    match = _COMPOUND.match(text, at)
    if not match:
        return None
    tail = match[2].lower().replace("%ig", "prozentig")
    tail = "mal" if tail == "x" else tail
    return Found([_compound(match[1], tail)], match.end())


def _compound(digits: str, tail: str) -> Forms:
    if "," in digits:
        whole, _, fraction = digits.partition(",")
        heads: Forms = (f"{spell_number(int(whole))}komma{spell_number(int(fraction))}",)
    else:
        heads = ("ein",) if digits == "1" else name_forms(digits)[:12]
    joined = [head + tail for head in heads]
    return merge_forms(joined[:1], [f"{head} {tail}" for head in heads], joined[1:])


def read_roman(text: str, at: int) -> Found | None:
    """Ludwig XIV., II. Weltkrieg, Kapitel III; no other Roman numbers, none where all is in capitals."""
    match = _ROMAN.match(text, at)
    if not match or not match[1]:
        return None
    number, before = roman_value(match[1]), word_before(text, at)
    dot = text[match.end() : match.end() + 1] == "."
    if before in RULERS or before in QUEENS:
        ends = dot and not text[match.end() + 1 :].strip("\"'“”») ")
        outside = word_before(text, text.rindex(before, 0, at)).lower()
        forms = _ruler(number, before in QUEENS, outside in _DATIVE)
        return Found([forms], match.end() + (dot and not ends))
    if len(match[1]) == 1 or (before.isupper() and len(before) > 1):
        return None
    if dot and re.match(rf"{SPACE}[A-ZÄÖÜ][a-zäöüß]", text[match.end() + 1 :]):
        return Found([ordinal_forms(number, ending_after(before, ""))], match.end() + 1)
    if before.lower() in BEFORE_NUMBER and before[:1].isupper():
        return Found([integer_forms(number)], match.end())
    return None


def _ruler(number: int, is_queen: bool, is_dative: bool) -> Forms:
    articles = ["die", "der"] if is_queen else ["der", "des", "dem", "den"]
    articles.sort(key=lambda article: is_dative and article != ("der" if is_queen else "dem"))
    stem = spell_number(number, "ordinal").capitalize()
    ends = {"der": "n" if is_queen else "", "die": "", "des": "n", "dem": "n", "den": "n"}
    return merge_forms([f"{article} {stem}{ends[article]}" for article in articles], [stem, f"{stem}n"])


def roman_value(text: str) -> int:
    """The value of a Roman numeral of I, V and X."""
    values = [_VALUES[letter] for letter in text]
    following = [*values[1:], 0]
    return sum(-v if v < after else v for v, after in zip(values, following, strict=True))
