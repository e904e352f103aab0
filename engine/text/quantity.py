"""Amounts: numbers with separators, decimals, fractions, and the unit or currency behind them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from engine.text.context import BEFORE_NUMBER, VERSIONED, word_before, word_behind
from engine.text.forms import (
    Parts,
    cents_forms,
    decimal_forms,
    fraction_forms,
    glyph_fraction,
    mixed_forms,
    unit_parts,
    version_forms,
)
from engine.text.found import SPACE, Found
from engine.text.units import CURRENCIES, FEMININE, SCALES, SINGULAR, UNITS
from engine.text.words import ONE, Forms, integer_forms, merge_forms, name_forms, spell_number

GLYPHS: Final = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_GROUPS = r"[1-9]\d{0,2}(?:([. \u00a0\u2009\u202f'’])\d{3}(?:\2\d{3})*)(?!\d)"
_FOREIGN = re.compile(  # 1,234.56 and 1,000,000 and 1'234.50: thousands are no decimals there
    r"[1-9]\d{0,2}(?:(?:,\d{3})+\.\d{1,4}|(?:,\d{3}){2,}|(?:['’]\d{3})+\.\d{1,4})(?![\d.,])"
)
_AMOUNT = re.compile(rf"({_GROUPS}|\d+)(?:,(\d+|--?|[–—])(?!\d))?")
_POINT = re.compile(r"(\d+)\.(\d+)(?![\d]|\.\d)")
_VERSION = re.compile(r"\d+(?:\.\d+)+(?!\d|,\d)")
_MIXED = re.compile(rf"(\d{{1,3}}){SPACE}?([{GLYPHS}])|(\d{{1,2}}) (\d)[/⁄](\d{{1,2}})(?![\d/.,]\d|\d)")
_SLASH = re.compile(r"(\d{1,3})[/⁄](\d{1,4})(?![\d/⁄]|[.,]\d)")
_UNDER = frozenset([*range(2, 21), 25, 30, 32, 40, 50, 64, 100, 1000])


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_END = r"(?![\w²³])(?!\.\w)"
_LOOSE = {unit.lower(): unit for unit in UNITS if len(unit) > 1}  # km, KM, Km
_SPELLED = _either(unit for unit in UNITS if unit[0].isalpha())
_ANY_CASE = _either(unit for unit in _LOOSE if unit[0].isalpha())
_UNIT = re.compile(
    rf"{SPACE}?(?:(?P<symbol>‰|%(?!ig)|°{SPACE}?[CF]\b|°)|(?P<unit>{_SPELLED}){_END}"
    rf"|(?P<loose>(?i:{_ANY_CASE})){_END})"
)
_SCALE = re.compile(rf"{SPACE}?(?P<scale>{_either(SCALES)})\b\.?")
_SCALED = {form: name for name, forms in SCALES.items() for form in forms if name != "Tsd"}
_CURRENCY = re.compile(rf"{SPACE}?(?P<unit>{_either(CURRENCIES)})(?!\w)")
_PREFIX = re.compile(rf"([€$£]|EUR|USD|CHF){SPACE}?(?=\d)")
_PER = re.compile(rf"{SPACE}?/{SPACE}?({_SPELLED}){_END}")


class Amount(NamedTuple):
    """A number as it is written.

    Attributes:
        whole, fraction: digits; fraction is "" for a whole number.
        end: where the text goes on. grouped: the separator of thousands, or "".
        point: whether the fraction stands behind a point.
    """

    whole: str
    fraction: str
    end: int
    grouped: str = ""
    point: bool = False


def read_amount(text: str, at: int) -> Amount | None:
    """The number at a place: 1.234,56 and 1 234,56 and 1234,56; 1,234.56; 5,-; 3.5 with a unit behind it."""
    if match := _FOREIGN.match(text, at):
        whole, _, fraction = match[0].partition(".")
        return Amount(re.sub(r"\D", "", whole), fraction, match.end(), ",")
    match = _AMOUNT.match(text, at)
    if not match:
        return None
    whole, separator, fraction = re.sub(r"\D", "", match[1]), match[2] or "", match[3] or ""
    point = None if separator or fraction else _POINT.match(text, at)
    if point and (has_unit(text, point.end()) or _currency(text, point.end())):
        return Amount(point[1], point[2], point.end(), "", True)
    return Amount(whole, fraction.strip("-–—"), match.end(), separator)


def has_unit(text: str, at: int) -> bool:
    """Whether a unit follows."""
    return _UNIT.match(text, at) is not None


def _currency(text: str, at: int) -> re.Match[str] | None:
    return _CURRENCY.match(text, at)


def read_quantity(text: str, at: int) -> Found | None:
    """A number with whatever belongs to it: 1.234,56 €, 5 km/h, € 12,50, 2,5 Mio., 20 °C, 10 000."""
    prefix = _PREFIX.match(text, at)
    amount = read_amount(text, prefix.end() if prefix else at)
    if not amount:
        return None
    scale_match = _SCALE.match(text, amount.end)
    scale, end = (scale_match["scale"], scale_match.end()) if scale_match else ("", amount.end)
    currency = None if prefix else _currency(text, end)
    if prefix or currency:
        unit = prefix[1] if prefix else currency["unit"] if currency else ""
        return _money(text, amount, unit, scale, currency.end() if currency else end)
    unit_match = None if scale else _UNIT.match(text, end)
    if unit_match:
        parts = unit_parts(_numbers(text, amount), _unit_words(unit_match))
        return _per(text, parts, unit_match.end())
    if scale:
        return Found(unit_parts(_numbers(text, amount), (), scale), end)
    return Found([_counting(text, amount)], end)


def _unit_words(match: re.Match[str]) -> Forms:
    if match["loose"]:
        return UNITS[_LOOSE[match["loose"].lower()]]
    return UNITS[(match["unit"] or re.sub(SPACE, "", match["symbol"]))]


def _money(text: str, amount: Amount, unit: str, scale: str, end: int) -> Found:
    if len(amount.fraction) == 2 and not scale:
        return _per(text, [cents_forms(int(amount.whole), amount.fraction, unit)], end)
    return _per(text, unit_parts(_numbers(text, amount), CURRENCIES[unit][:1], scale), end)


def _per(text: str, parts: Parts, end: int) -> Found:
    """€/kg and km/h: the unit behind the stroke."""
    match = _PER.match(text, end)
    if not match:
        return Found(parts, end)
    units = [SINGULAR.get(unit, unit) for unit in UNITS[match[1]]]
    return Found([*parts, ("pro", "je", "per", "die", "das", "der"), tuple(units)], match.end())


def _numbers(text: str, amount: Amount) -> Forms:
    """The number in front of a unit, where it is no year."""
    if amount.point:
        return merge_forms(
            decimal_forms(amount.whole, amount.fraction), version_forms((amount.whole, amount.fraction))
        )
    if amount.fraction:
        return decimal_forms(amount.whole, amount.fraction)
    return integer_forms(int(amount.whole))


def _counting(text: str, amount: Amount) -> Forms:
    """A number without a unit: a year, a count, a name."""
    if amount.fraction:
        forms = decimal_forms(amount.whole, amount.fraction)
        thousands = len(amount.fraction) == 3 and len(amount.whole) < 4
        return merge_forms(forms, integer_forms(int(amount.whole + amount.fraction)) if thousands else [])
    if amount.grouped:
        return merge_forms(integer_forms(int(amount.whole)), _apart(amount))
    if amount.whole != "1" or not word_behind(text, amount.end):
        return name_forms(amount.whole)
    before, behind = word_before(text, amount.end - 1), word_behind(text, amount.end)
    counts = behind[:1].isupper() and not before[:1].isupper() and before.lower() not in BEFORE_NUMBER
    ein = "eine" if behind.lower() in FEMININE else "ein"
    return merge_forms([ein if counts else "eins"], ONE)


def _apart(amount: Amount) -> list[str]:
    """12 300 as two numbers, which it may be where a space stands between them."""
    groups = re.findall(r"\d{1,3}(?=(?:\d{3})*$)", amount.whole)
    if not amount.grouped.isspace() or any(group[0] == "0" for group in groups):
        return []
    return [" ".join(spell_number(int(group)) for group in groups)]


def read_fraction(text: str, at: int) -> Found | None:
    """½, 1½, 3/4, 1 1/2."""
    if match := _MIXED.match(text, at):
        over, under = glyph_fraction(match[2]) if match[2] else (int(match[4]), int(match[5]))
        if match[2] or (over < under and under in _UNDER):
            whole = int(match[1] or match[3])
            return _measured(text, match.end(), lambda _: mixed_forms(whole, over, under))
    if text[at] in GLYPHS:
        over, under = glyph_fraction(text[at])
        return _measured(text, at + 1, lambda noun: fraction_forms(over, under, noun))
    match = _SLASH.match(text, at)
    if not match or text[at - 1 : at] in ("/", "⁄"):
        return None
    over, under = int(match[1]), int(match[2])
    if not 0 < over < under or under not in _UNDER:
        return None
    return _measured(text, match.end(), lambda noun: fraction_forms(over, under, noun))


def _measured(text: str, at: int, say: Callable[[str], Forms]) -> Found:
    """A fraction and its unit, or whatever word tells the gender of a half."""
    match = _UNIT.match(text, at)
    if not match:
        return Found([say(word_behind(text, at).lower())], at)
    units = tuple(SINGULAR.get(unit, unit) for unit in _unit_words(match))
    return Found([say(units[0].lower()), merge_forms(units, _unit_words(match))], match.end())


def read_version(text: str, at: int) -> Found | None:
    """2.0, 3.11.7, 192.168.0.1; where thousands are, only behind "Version" and the like."""
    match = _VERSION.match(text, at)
    if not match:
        return None
    named = word_before(text, at).lower() in VERSIONED
    if not named and re.fullmatch(r"[1-9]\d{0,2}(\.\d{3})+", match[0]):
        return None
    if match[0].count(".") == 1 and (has_unit(text, match.end()) or _currency(text, match.end())):
        return None
    return Found([version_forms(match[0].split("."))], match.end())
