"""What people say for decimals, fractions, dates, times and money: all usual ways, the usual one first."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Final

from engine.text.units import (
    CURRENCIES,
    FEMININE,
    MASCULINE,
    MONTHS,
    NEUTER,
    SAID_MONTHS,
    SCALES,
    SINGULAR,
)
from engine.text.words import (
    LONGEST,
    MAX_FORMS,
    ONE,
    Forms,
    integer_forms,
    merge_forms,
    name_forms,
    ordinal_forms,
    spell_digits,
    spell_number,
)

Parts = list[Forms]  # one after another, each with its own choice
_HALVES: Final = (
    "ein halb", "ein halber", "ein halbes", "eine halbe", "einen halben", "einem halben", "einer halben",
    "einhalb", "halb", "halbe", "halber", "halbes", "halben", "die Hälfte",
)  # fmt: skip
_QUARTERS: Final = {5: "fünf nach", 10: "zehn nach", 15: "viertel nach", 20: "zwanzig nach"}


def join(*parts: Sequence[str]) -> Forms:
    """One of each part, one after another, in every combination, at most MAX_FORMS; "" leaves a part out."""
    found = (" ".join(filter(None, words)) for words in itertools.product(*parts))
    return tuple(itertools.islice(dict.fromkeys(found), MAX_FORMS))


def decimal_forms(whole: str, fraction: str) -> Forms:
    """Ways to say "3,25": drei Komma zwei fünf, drei Komma fünfundzwanzig.

    Args:
        whole, fraction: digits without separators.
    """
    said = [spell_digits(fraction), spell_digits(fraction).replace("zwei", "zwo")]
    if fraction[0] != "0" and 1 < len(fraction) <= 3:
        said.append(spell_number(int(fraction)))
    heads = integer_forms(int(whole))
    forms = join([*heads[:8], *(["ein"] if int(whole) == 1 else [])], ["Komma"], said)
    return merge_forms(forms[: MAX_FORMS - 8], _mixed(int(whole)) if fraction == "5" and int(whole) else [])


def version_forms(parts: Sequence[str]) -> Forms:
    """Ways to say "3.11.7": drei Punkt elf Punkt sieben, with Komma, or without anything between."""
    spelled = [spell_digits(part) if part[0] == "0" else spell_number(int(part[:LONGEST])) for part in parts]
    single = [spell_digits(part) for part in parts]
    marks = (" Punkt ", " Komma ", " ") if len(parts) == 2 else (" Punkt ", " ")
    return merge_forms(mark.join(words) for words in (spelled, single) for mark in marks)


def fraction_forms(over: int, under: int, noun: str = "") -> Forms:
    """Ways to say 3/4: drei Viertel, dreiviertel.

    Args:
        over, under: both at least 1. noun: the word behind it in lower case, for the gender of a half.
    """
    if (over, under) == (1, 2):
        return merge_forms([_half(noun)], _HALVES)
    part = {2: "Halbe"}.get(under) or spell_number(under, "ordinal").removesuffix("te").capitalize() + "tel"
    if under > 19:
        part = spell_number(under, "ordinal").removesuffix("te").capitalize() + "tel"
    head = "ein" if over == 1 else spell_number(over)
    forms = [f"{head} {part}", f"{head}{part.lower()}"]
    if over == 1:
        forms += [part, f"einem {part}", f"eines {part}s"]
    spelled = f"{spell_number(over)} {{}} {spell_number(under)}"
    read = [spelled.format(word) for word in ("durch", "Schrägstrich", "zu", "von", "")]
    return merge_forms([*forms, f"{head} {part}n"], [" ".join(form.split()) for form in read])


def _half(noun: str) -> str:
    for nouns, form in ((FEMININE, "eine halbe"), (NEUTER, "ein halbes"), (MASCULINE, "ein halber")):
        if noun in nouns:
            return form
    return "ein halb"


def mixed_forms(whole: int, over: int, under: int) -> Forms:
    """Ways to say 1½ or 2¾: eineinhalb, anderthalb, zweidreiviertel."""
    head = "ein" if whole == 1 else spell_number(whole)
    if (over, under) == (1, 2):
        return merge_forms(_mixed(whole))
    parts = fraction_forms(over, under)[:2]
    forms = [f"{head}{part.lower().replace(' ', '')}" for part in parts]
    return merge_forms(forms, [f"{words} {part}" for words in (head, f"{head} und") for part in parts])


def _mixed(whole: int) -> list[str]:
    head = "ein" if whole == 1 else spell_number(whole)
    other = ["anderthalb", "eins einhalb"] if whole == 1 else []
    return [
        f"{head}einhalb", *other, f"{head}einhalbe", f"{head} einhalb", f"{head} ein halb",
        f"{head}undeinhalb", f"{head} und ein halb", f"{head} und einhalb",
    ]  # fmt: skip


def glyph_fraction(char: str) -> tuple[int, int]:
    """Numerator and denominator of ½, ¾, ⅓ and the like."""
    over, _, under = unicodedata.normalize("NFKD", char).partition("\u2044")
    return int(over), int(under)


def time_forms(hour: int, minute: int, second: int | None = None, needs_uhr: bool = True) -> Forms:
    """Ways to say a time of the clock, by 24 or 12 hours: vierzehn Uhr dreißig, halb drei.

    Args:
        hour: 0 to 24. minute, second: 0 to 59.
        needs_uhr: whether "Uhr" stands there; without it the word may be left out.
    """
    hours = [_hour(hour)] + ([_hour(hour - 12)] if 12 < hour < 24 else [])
    hours += ["zwölf"] if hour in (0, 24) else []
    minutes = _minutes(minute)
    forms = [f"{spoken} Uhr {said}".strip() for spoken in hours for said in minutes]
    if not needs_uhr:
        bare = {"ein": "eins"}
        forms += [f"{bare.get(spoken, spoken)} {said}".strip() for spoken in hours for said in minutes]
    if second is not None:
        words = spell_number(second)
        ends = [words, f"und {words} Sekunden", f"{words} Sekunden"]
        return merge_forms(f"{form} {end}" for end in ends for form in forms)
    return merge_forms(forms, _told(hour, minute))


def _hour(hour: int) -> str:
    return "ein" if hour == 1 else spell_number(hour)


def _minutes(minute: int) -> list[str]:
    if not minute:
        return ["", "null null"]
    padded = [f"null {spell_number(minute)}"] if minute < 10 else []
    return [spell_number(minute), *padded, f"und {spell_number(minute)} Minuten"]


def _told(hour: int, minute: int) -> list[str]:
    """As a dial shows it: halb drei, viertel nach zwei, viertel drei, fünf vor halb drei."""
    this, following = (spell_number((h - 1) % 12 + 1) for h in (hour, hour + 1))
    if minute == 0:
        return [this]
    if minute in _QUARTERS:
        east = [f"viertel {following}"] if minute == 15 else []
        before = [f"zehn vor halb {following}"] if minute == 20 else []
        return [f"{_QUARTERS[minute]} {this}", *east, *before]
    if 60 - minute in _QUARTERS:
        said = _QUARTERS[60 - minute].replace("nach", "vor")
        east = [f"dreiviertel {following}", f"drei viertel {following}"] if minute == 45 else []
        behind = [f"zehn nach halb {following}"] if minute == 40 else []
        return [f"{said} {following}", *east, *behind]
    half = {25: "fünf vor halb", 30: "halb", 35: "fünf nach halb"}.get(minute)
    return [f"{half} {following}"] if half else []


def date_parts(day: int, month: int, year: str = "", ending: str = "r") -> Parts:
    """Ways to say "1.5.2024": erster fünfter zweitausendvierundzwanzig, erster Mai; each with all endings.

    Args:
        day, month: from 1. year: four or two digits, or none. ending: of the first form.
    """
    names = [MONTHS[month - 1], *SAID_MONTHS.get(month, ())]
    number = ordinal_forms(month, ending)
    days, months = ordinal_forms(day, ending), merge_forms([number[0]], names, number[1:])
    return [days, months, *([year_forms(year)] if year else [])]


def year_forms(year: str) -> Forms:
    """Ways to say a date's year, of four digits or two."""
    if len(year) > 2:
        return name_forms(year)
    century = "19" if int(year) > 50 else "20"
    full = name_forms(century + year)
    return merge_forms(full[:1], name_forms(year), full[1:])


def cents_forms(whole: int, cents: str, unit: str) -> Forms:
    """Ways to say 12,50 €: zwölf Euro fünfzig, zwölf Komma fünf null Euro, zwölf Euro und fünfzig Cent.

    Args:
        whole: of the unit. cents: two digits.
    """
    named, hundredth = CURRENCIES[unit]
    number = int(cents)
    heads = ["ein"] if whole == 1 else list(integer_forms(whole)[:6])
    decimal = [f"{form} {named}" for form in decimal_forms(str(whole), cents)[:12]]
    if not number:
        return merge_forms([f"{head} {named}" for head in heads], decimal)
    small = "ein" if number == 1 else spell_number(number)
    alone = [f"{small} {hundredth}"] if not whole else []
    ends = [spell_number(number), f"und {small} {hundredth}", f"{small} {hundredth}"]
    if number < 10:
        ends.insert(1, f"null {spell_number(number)}")
    forms = [f"{head} {named} {end}" for end in ends for head in heads] if whole else []
    bare = [f"{head} {spell_number(number)}" for head in heads] if whole and number > 9 else []
    return merge_forms(alone, forms[: MAX_FORMS - 16], decimal, bare)


def unit_parts(numbers: Forms, units: Sequence[str], scale: str = "") -> Parts:
    """A number and its unit: fünf Kilogramm; ein Kilogramm, eine Stunde; zwei Millionen Euro."""
    is_one = numbers[0] == "eins"
    if scale:
        one, several = SCALES[scale]
        return [*unit_parts(numbers, [one] if is_one else [several]), *([tuple(units)] if units else [])]
    if not is_one:
        return [numbers, tuple(units)]
    singular = [SINGULAR.get(unit, unit) for unit in units]
    first = "eine" if singular[0].lower() in FEMININE else "ein"
    return [merge_forms([first], ONE), merge_forms(singular, units)]


def score_forms(numbers: Sequence[int]) -> Forms:
    """Ways to say 3:2: drei zu zwei, drei zwei."""
    forms = [integer_forms(number)[:3] for number in numbers]
    return merge_forms(
        *(
            {mark.join(said): None for said in itertools.islice(itertools.product(*forms), 20)}
            for mark in (" zu ", " ")
        )
    )
