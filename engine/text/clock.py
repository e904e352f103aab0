"""Dates and times of the clock."""

from __future__ import annotations

import re

from engine.text.context import VERSIONED, ending_after, word_before
from engine.text.forms import date_parts, time_forms
from engine.text.found import SPACE, Found
from engine.text.quantity import has_unit
from engine.text.words import merge_forms, ordinal_forms

_DATE = re.compile(
    rf"(\d{{1,2}})\.{SPACE}?(\d{{1,2}})\.(?:{SPACE}?(\d{{4}})(?!\d)|(\d{{2}})(?![\d.,:]|{SPACE}?\d))"
)
_DAY = re.compile(r"(\d{1,2})\.(\d{1,2})(?:\.(?!\d)|(?![\d.,:]))")
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?![\d-])")
_DAYS = re.compile(r"(\d{1,2})\.?/(?=\d{1,2}\.\d{1,2}\.)")
_FIRST_DAY = re.compile(r"\d{1,2}\.?/$")
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TIME = re.compile(
    rf"(\d{{1,2}})(?:(:)|\.)(\d{{2}})(?:[:.](\d{{2}}))?(?![\d:])(?:{SPACE}?(Uhr\b|uhr\b|h(?!\w)))?"
)
_HOUR = re.compile(
    rf"(\d{{1,2}}){SPACE}?(?:[Uu]hr|UHR)\b(?:{SPACE}(\d{{1,2}})(?![\w%€°½¼¾]|[.,:/-]\w|{SPACE}?[%€°]))?"
)
_DATED = frozenset("am vom bis zum ab seit dem den der".split())


def read_date(text: str, at: int) -> Found | None:
    """1.5.2024, 01.05.24, 1. 5. 2024, 2024-05-01, 9./10.11.1938; 1.5. and, behind am or vom, 1.5 alone."""
    if (match := _DAYS.match(text, at)) and 1 <= int(match[1]) <= 31:  # 9./10.11.1938
        ending = ending_after(word_before(text, at), "r")
        return Found([ordinal_forms(int(match[1]), ending), ("und", "auf den", "zum", "auf")], match.end())
    if match := _ISO.match(text, at):
        return _dated(text, match, match[3], match[2], match[1])
    if word_before(text, at).lower() in VERSIONED:
        return None
    if match := _DATE.match(text, at):
        return _dated(text, match, match[1], match[2], match[3] or match[4])
    match = _DAY.match(text, at)
    if not match:
        return None
    closed = match[0].endswith(".")
    if not closed and (word_before(text, at).lower() not in _DATED or has_unit(text, match.end())):
        return None
    found = _dated(text, match, match[1], match[2], "")
    if found and closed and not text[match.end() :].strip("\"'“”»)"):  # the full stop of the sentence too
        return found._replace(end=match.end() - 1)
    return found


def _dated(text: str, match: re.Match[str], day: str, month: str, year: str) -> Found | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= _LENGTHS[int(month) - 1]):
        return None
    start = len(_FIRST_DAY.sub("", text[: match.start()]))
    ending = ending_after(word_before(text, start), "r")
    return Found(date_parts(int(day), int(month), year, ending), match.end())


def read_time(text: str, at: int) -> Found | None:
    """14:30 Uhr, 14.30 Uhr, 14:30, 14 Uhr, 14 Uhr 30, 8:05:30."""
    if match := _TIME.match(text, at):
        hour, minute, second = int(match[1]), int(match[3]), match[4]
        if hour > 24 or minute > 59 or int(second or 0) > 59 or not (match[2] or match[5]):
            return None
        before_uhr = re.match(
            rf"{SPACE}?(?:-|–|bis|und){SPACE}?\d{{1,2}}([:.]\d\d)?{SPACE}?Uhr", text[match.end() :]
        )
        forms = time_forms(hour, minute, int(second) if second else None, bool(match[5]))
        if before_uhr and not match[5]:  # 14:30-16:00 Uhr
            bare = [form.replace(" Uhr", "") for form in forms if minute]
            forms = merge_forms(bare[:1], forms, bare[1:])
        return Found([forms], match.end())
    match = _HOUR.match(text, at)
    if not match or int(match[1]) > 24 or int(match[2] or 0) > 59:
        return None
    return Found([time_forms(int(match[1]), int(match[2] or 0))], match.end())
