"""What stands alone or between numbers: signs, ranges, scores, sums, and digits that are read out."""

from __future__ import annotations

import re
from typing import Final

from engine.text.forms import score_forms
from engine.text.found import SPACE, Found
from engine.text.units import SIGNS
from engine.text.words import Forms, digit_forms, merge_forms

_SCORE = re.compile(r"\d{1,3}(?::\d{1,3})+(?![\d:])")
_PHONE = re.compile(
    rf"(\+?)\(?\d[\d()]*(?:{SPACE}?[/-]{SPACE}?\d+|{SPACE}\d+|{SPACE}?\(\d+\))*(?![\d]|[.,:]\d)"
)
_RANGE = re.compile(r"\s?[-–—]\s?(?=\d)")
_CHAIN = re.compile(r"[^\W_][-–—]\d+$"), re.compile(r"\d+[-–—]\d")
_SUM = re.compile(rf"{SPACE}?([+=×x*÷]){SPACE}?(?=\d)")
_PER_HUNDRED = re.compile(r"(?<=[a-zA-Z])/(?=\d+\s?(?:km|kg|ml|g|l|m)\b)")
_SIGNED = re.compile(r"([-−–+])(?=\d)")
_BETWEEN: Final[dict[str, Forms]] = {
    "+": ("plus", "und"), "=": ("gleich", "ist", "ist gleich", "sind", "gibt", "macht"),
    "×": ("mal",), "x": ("mal", "x"), "*": ("mal",), "÷": ("durch", "geteilt durch"),
}  # fmt: skip
MIN_PHONE: Final = 6  # digits


def read_score(text: str, at: int) -> Found | None:
    """3:2, 1:2:3."""
    match = _SCORE.match(text, at)
    return Found([score_forms([int(part) for part in match[0].split(":")])], match.end()) if match else None


def read_phone(text: str, at: int) -> Found | None:
    """+49 89 123456, 0171 2345678, 089/123-45: digits that begin with + or 0 are read one by one."""
    match = _PHONE.match(text, at)
    if not match or re.search(r"\d[.,]$", text[max(at - 2, 0) : at]):
        return None
    groups = re.findall(r"\d+", match[0])
    digits = "".join(groups)
    if len(digits) < MIN_PHONE or not (match[1] or (digits[0] == "0" and len(groups[0]) > 2)):
        return None
    if match[1]:
        country = ("plus", "null null", "doppelnull")
        return Found([country, digit_forms(digits, *groups)], match.end())
    return Found([digit_forms(digits, *groups)], match.end())


def read_between(text: str, at: int) -> Found | None:
    """The dash of 10-15 and the signs of 2+3=5; not those of 1-2-3."""
    if not at or not (text[at - 1].isalnum() or text[at - 1] in "%€$°.)"):
        return None
    if match := _PER_HUNDRED.match(text, at):
        return Found([("pro", "auf", "je", "per")], match.end())
    if (match := _SUM.match(text, at)) and text[at - 1].isdigit():
        return Found([_BETWEEN[match[1]]], match.end())
    match = _RANGE.match(text, at)
    if not match or not re.search(
        r"\d[^\s\d]{0,4}$|\d\s(?:Uhr|[^\W\d_]{1,3}|[%€$°]C?)$", text[max(at - 12, 0) : at]
    ):
        return None
    before, behind = _CHAIN
    if before.search(text[max(at - 20, 0) : at]) or behind.match(text, match.end()):
        return None
    return Found([("bis", "minus") if match[0] != match[0].strip() else ("bis",)], match.end())


def read_sign(text: str, at: int) -> Found | None:
    """-5 and +5 where a number begins; %, €, & wherever they stand."""
    if forms := SIGNS.get(text[at]):
        end = at + 1 + (text[at : at + 2] == "§§")
        return Found([merge_forms(forms[2:], forms) if end > at + 1 else forms], end)
    match = _SIGNED.match(text, at)
    if not match or (at and not (text[at - 1].isspace() or text[at - 1] in "([/„\"'")):
        return None
    return Found([("plus",) if match[1] == "+" else ("minus",)], match.end())
