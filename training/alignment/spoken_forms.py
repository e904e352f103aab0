"""What German speakers say for digits, dates, abbreviations and letters, in all usual ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from engine.text import LETTERS, normalize_text
from engine.text import words as german
from engine.text.units import MONTHS

RARE: Final = 2.0  # cost of a form that few readers choose, nats
SLURRED: Final = 1.0  # ... or that is said quickly and written in full
ROMAN: Final = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
INFLECTING: Final = frozenset(
    "am vom zum beim im dem den des bis ab seit der die diesen diesem dieses jeden".split()
)
_NAMES = "a be ce de e ef ge ha i jot ka el em en o pe ku er es te u vau we ix ypsilon zett ä ö ü eszett"
LETTER_NAMES: Final = dict(zip(LETTERS, _NAMES.split(), strict=True))
UNITS: Final = {
    "%": "Prozent", "€": "Euro", "$": "Dollar", "§": "Paragraf", "&": "und", "°": "Grad", "km": "Kilometer",
    "kg": "Kilogramm", "cm": "Zentimeter", "mm": "Millimeter", "m": "Meter", "g": "Gramm",
    "ha": "Hektar", "l": "Liter", "°C": "Grad Celsius", "km²": "Quadratkilometer", "m²": "Quadratmeter",
}  # fmt: skip
ABBREVIATIONS: Final[dict[str, tuple[str, ...]]] = {
    "ca.": ("circa",), "geb.": ("geborene", "geboren", "geborener"), "z.B.": ("zum Beispiel",),
    "d.h.": ("das heißt",), "u.a.": ("unter anderem", "und andere"), "bzw.": ("beziehungsweise",),
    "usw.": ("und so weiter",), "etc.": ("et cetera",), "evtl.": ("eventuell",), "ggf.": ("gegebenenfalls",),
    "Dr.": ("Doktor",), "Prof.": ("Professor", "Professoren"), "St.": ("Sankt", "Saint"),
    "Nr.": ("Nummer",), "S.": ("Seite",), "Str.": ("Straße",), "Hr.": ("Herr",), "Fr.": ("Frau",),
    "Jh.": ("Jahrhundert",), "Mio.": ("Millionen",), "Mrd.": ("Milliarden",),
    "sog.": ("sogenannte", "sogenannten"),
    "vgl.": ("vergleiche",), "gest.": ("gestorben",), "verh.": ("verheiratet", "verheiratete"),
    "o.ä.": ("oder ähnliches",), "u.ä.": ("und ähnliches",), "i.d.R.": ("in der Regel",),
    "v.Chr.": ("vor Christus",), "n.Chr.": ("nach Christus",), "inkl.": ("inklusive",), "max.": ("maximal",),
    "min.": ("minimal", "Minuten"), "Abb.": ("Abbildung",), "Kap.": ("Kapitel",), "Bd.": ("Band",),
}  # fmt: skip


class Form(NamedTuple):
    """One way to say a piece of text.

    Attributes:
        written: how a transcript writes what is said, without the punctuation around it.
        letters: what a recogniser would spell, as normalize_text gives it.
        cost: nats to pay for choosing it.
    """

    written: str
    letters: str
    cost: float = 0.0


def make_forms(written: Iterable[str], rare: Iterable[str] = ()) -> tuple[Form, ...]:
    """Forms of spoken words, the usual ones first; repetitions and empty ones are left out."""
    forms: dict[str, Form] = {}
    for words, cost in [(w, 0.0) for w in written] + [(w, RARE) for w in rare]:
        letters = normalize_text(words)
        if letters:
            forms.setdefault(letters, Form(words, letters, cost))
    return tuple(forms.values())


def spell_number(number: int, kind: str = "cardinal") -> str:
    """German words for a number in lower case; kind is cardinal, ordinal or year."""
    return german.spell_number(number, kind).lower()


def cardinal_forms(number: int) -> tuple[Form, ...]:
    """Ways to say a number that counts or names something, years included."""
    usual = [spell_number(number)]
    if number == 1:
        usual += ["ein", "eine", "einen", "einer", "einem"]
    if number == 2:
        return make_forms(usual, ["zwo"])
    if usual[0].startswith("einhundert") or usual[0].startswith("eintausend"):
        usual.append(usual[0].removeprefix("ein"))
    if 1100 <= number < 2100:
        return year_forms(number)
    return make_forms(usual, _with_und(usual[0]))


def year_forms(number: int) -> tuple[Form, ...]:
    """Ways to say a number between 1100 and 2099, the year's first; slurred ones are written in full."""
    year, plain = spell_number(number, "year"), spell_number(number)
    rare = [plain, plain.removeprefix("ein"), *_with_und(year)]
    if 2010 <= number < 2100:
        rare.append("zwanzig" + spell_number(number - 2000))
    return (*make_forms([year], rare), *_slur(year))


def _slur(year: str) -> tuple[Form, ...]:
    """How fast speakers say "neunzehnhundertdreiundvierzig": neunzehndreinvierzig."""
    head, found, tail = year.partition("hundert")
    if not found or not tail:
        return ()
    short = re.sub(r"(?<=[^n])und(?=.)", "n", tail)
    said = dict.fromkeys([f"{head}{tail}", f"{head}{short}", f"{head}hundert{short}"])
    return tuple(Form(year, letters, SLURRED) for letters in said if letters != year)


def _with_und(words: str) -> list[str]:
    """The same number with "und" after its last hundred or thousand: zweitausendundzwei."""
    for part in ("hundert", "tausend"):
        head, found, tail = words.rpartition(part)
        if found and tail and "und" not in tail:
            return [f"{head}{found}und{tail}"]
    return []


def ordinal_forms(number: int, before: str = "") -> tuple[Form, ...]:
    """Ways to say "7.": siebten, siebter, siebte, siebtes; the word before it decides which are likely.

    Args:
        number: at least 0.
        before: the word before it, in lower case.
    """
    stem = spell_number(number, "ordinal")
    if before in INFLECTING:
        return make_forms([stem + "n", stem], [stem + "r", stem + "s"])
    return make_forms([stem + "r", stem + "n", stem], [stem + "s"])


def month_forms(number: int, before: str = "") -> tuple[Form, ...]:
    """Ways to say the month of a date in digits: its name, or its number as the day's is inflected."""
    return (*make_forms([MONTHS[number - 1]]), *ordinal_forms(number, before))


def decimal_forms(whole: str, fraction: str) -> tuple[Form, ...]:
    """Ways to say "3,25": drei komma zwei fünf, drei komma fünfundzwanzig."""
    digits = " ".join(spell_number(int(digit)) for digit in fraction)
    head = f"{spell_number(int(whole))} Komma "
    return make_forms([head + digits, head + spell_number(int(fraction))])


def digit_forms(digits: str) -> tuple[Form, ...]:
    """A long number or one with leading zeros, read digit by digit or as a whole."""
    spelled = [" ".join(spell_number(int(digit)) for digit in digits)]
    return make_forms(spelled, [spell_number(int(digits))] if len(digits) < 13 else [])


def time_forms(hours: int, minutes: int) -> tuple[Form, ...]:
    """Ways to say a time of the clock, with "Uhr" in it."""
    hour = "ein" if hours == 1 else spell_number(hours)
    if not minutes:
        return make_forms([f"{hour} Uhr"])
    half = [f"halb {spell_number(hours % 12 + 1)}"] if minutes == 30 else []
    quarter = {15: f"viertel nach {spell_number(hours)}", 45: f"viertel vor {spell_number(hours % 12 + 1)}"}
    told = [quarter[minutes]] if minutes in quarter else []
    return make_forms([f"{hour} Uhr {spell_number(minutes)}"], half + told)


def letter_forms(written: str) -> tuple[Form, ...]:
    """A word with capitals that may be letters (KZ-Friedhof, NSDAP, Q): unchanged, and as names."""
    parts = written.split("-")
    named = [
        " ".join(LETTER_NAMES.get(letter, letter) for letter in part.lower()) if is_acronym(part) else part
        for part in parts
    ]
    plain, spelled = normalize_text(written), normalize_text(" ".join(named))
    return (Form(written, plain), Form(written, spelled)) if spelled != plain else (Form(written, plain),)


def is_acronym(part: str) -> bool:
    """Whether a part of a word may be read letter by letter."""
    return part.isalpha() and part.isupper() and len(part) <= 5


def read_roman(text: str) -> int:
    """The value of a Roman numeral up to C, or 0 where the text is none."""
    if not text or any(letter not in ROMAN for letter in text) or len(text) > 6:
        return 0
    values: Sequence[int] = [ROMAN[letter] for letter in text]
    following = [*values[1:], 0]
    return sum(-v if v < after else v for v, after in zip(values, following, strict=True))
