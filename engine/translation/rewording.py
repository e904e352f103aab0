"""German that says the same in words that a small translator knows: halb neun is 8:30 Uhr, 5 € are 5 Euro."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from engine.text.units import CURRENCIES, MONTHS, UNITS

_HOURS: Final = (
    "ein|eins|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf".split("|")
)  # fmt: skip
_HOUR: Final = {name: max(1, index) for index, name in enumerate(_HOURS)}
_MINUTES: Final = {"fünf": 5, "zehn": 10, "zwanzig": 20}
_H = rf"(?P<hour>{'|'.join(sorted(_HOURS, key=len, reverse=True))}|1[0-2]|[1-9])(?![\w:]|[.,]\d)(?:\s+uhr\b)?"
_HALF = re.compile(rf"\b(?:(?P<min>{'|'.join(_MINUTES)})\s+(?P<rel>vor|nach)\s+)?halb\s+{_H}", re.IGNORECASE)
_QUARTER = re.compile(rf"\bviertel\s+(?P<rel>vor|nach)\s+{_H}", re.IGNORECASE)
_THREE_QUARTERS = re.compile(
    rf"\b(?P<lead>um|gegen|bis|ab|seit|ist|erst|schon)\s+drei\s?viertel\s+{_H}(?!\s+stunde)", re.IGNORECASE
)
_NEAR = re.compile(
    r"\b(?P<lead>um|gegen|bis|seit|ist es|es ist|erst|schon|kurz)\s+"
    rf"(?P<min>{'|'.join(_MINUTES)})\s+(?P<rel>vor|nach)\s+{_H}"
    r"(?!\s+(?:tag|stunde|minute|jahr|woche|monat|sekunde|meter|kilometer))",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?<![\d.,])(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})(?!\d)")
_AND_A_HALF = re.compile(r"\b(?:anderthalb|eineinhalb)\b(?:fache\w*)?", re.IGNORECASE)
_THREE_QUARTER_HOUR = re.compile(r"\b(?:(?:eine|einer)\s+)?drei\s?viertel\s?stunde\b", re.IGNORECASE)
_SHORT: Final = {"Mio": "Millionen", "Mrd": "Milliarden", "Tsd": "Tausend"}
_SHORT_SCALE = re.compile(r"(?<=\d)\s?(Mio|Mrd|Tsd)\b\.?")
MINUS: Final = re.compile(r"(?<![\w.,)–-])[-−–](?=\d)")
_UNIT_NAMES: Final = {unit: said[0] for unit, said in UNITS.items() if len(unit) == 1 or not unit.isalpha()}
_UNIT = re.compile(
    rf"(?<=\d)\s?({'|'.join(map(re.escape, sorted(_UNIT_NAMES, key=len, reverse=True)))})(?![\w²³/])"
)
_MONEY = "".join(sign for sign in CURRENCIES if len(sign) == 1)
_AMOUNT = r"\d[\d.,]*(?:\s?(?:Mio|Mrd)\.?|\s(?:Millionen|Milliarden|Million|Milliarde))?"
_SIGN_FIRST = re.compile(rf"([{_MONEY}])\s?({_AMOUNT.replace('[.,]', '')})(?<![.,])")
_SIGN_LAST = re.compile(rf"(?<=[\d.])\s?([{_MONEY}])|(?<=[a-z])\s([{_MONEY}])")

Knows = Callable[[str], bool]


def reword(text: str, knows: Knows) -> str:
    """Say clock times, halves and signs in a form that survives translation: halb neun is 8:30 Uhr.

    Args:
        text: one German sentence.
        knows: whether the model has a character.
    """
    text = _reword_clock(text)
    text = _AND_A_HALF.sub(lambda m: "1,5" if "fach" not in m[0].lower() else m[0], text)
    text = _THREE_QUARTER_HOUR.sub("45 Minuten", text)
    if not any(char.isdigit() for char in text) and "&" not in text and "§" not in text:
        return text
    text = _SIGN_FIRST.sub(lambda m: f"{m[2]} {CURRENCIES[m[1]][0]}" if not knows(m[1]) else m[0], text)
    text = _SIGN_LAST.sub(lambda m: _said(m[0], CURRENCIES[(m[1] or m[2])][0], knows), text)
    text = _DATE.sub(_dated, text)
    text = _SHORT_SCALE.sub(lambda m: f" {_SHORT[m[1]]}", text)
    text = _UNIT.sub(lambda m: m[0] if m[1] == "%" and knows("%") else f" {_UNIT_NAMES[m[1]]}", text)
    text = MINUS.sub("minus ", text)
    text = text if knows("§") else re.sub(r"§§?\s?", "Paragraf ", text)
    return text if knows("&") else re.sub(r"(?<=\w)\s?&\s?(?=\w)", " und ", text)


def _dated(match: re.Match[str]) -> str:
    """31.12.2025 as 31. Dezember 2025."""
    month = int(match[2])
    valid = 1 <= month <= 12 and 1 <= int(match[1]) <= 31
    return f"{int(match[1])}. {MONTHS[month - 1]} {match[3]}" if valid else match[0]


def _said(found: str, name: str, knows: Knows) -> str:
    return found if knows(found.strip()) else f" {name}"


def _reword_clock(text: str) -> str:
    if "iertel" not in text and "halb" not in text and " vor " not in text and " nach " not in text:
        return text
    text = _HALF.sub(lambda m: _clock(m, _offset(m) - 30), text)
    text = _QUARTER.sub(lambda m: _clock(m, 15 if m["rel"].lower() == "nach" else -15), text)
    text = _THREE_QUARTERS.sub(lambda m: f"{m['lead']} {_clock(m, -15)}", text)
    return _NEAR.sub(lambda m: f"{m['lead']} {_clock(m, _offset(m))}", text)


def _offset(match: re.Match[str]) -> int:
    if not match["min"]:
        return 0
    return _MINUTES[match["min"].lower()] * (1 if match["rel"].lower() == "nach" else -1)


def _clock(match: re.Match[str], minutes: int) -> str:
    name = match["hour"].lower()
    total = (int(name) if name.isdigit() else _HOUR[name]) * 60 + minutes
    hour, minute = divmod(total if total >= 60 else total + 720, 60)
    return f"{hour}:{minute:02d} Uhr"
