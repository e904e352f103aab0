"""Numbers of a German sentence, and whether an English one holds them: 1.234,5 is 1,234.5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.output.numbers import spell_in_digits

FIRM: Final = 13  # a smaller number that is a word may become another one: zwei is "both", acht "careful"
MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_TENS: Final = {
    20: "twenties", 30: "thirties", 40: "forties", 50: "fifties", 60: "sixties", 70: "seventies",
    80: "eighties", 90: "nineties",
}  # fmt: skip
_FRACTIONS: Final = {"½": 0.5, "⅓": 1 / 3, "⅔": 2 / 3, "¼": 0.25, "¾": 0.75}
_WORDS: Final[dict[float, frozenset[str]]] = {
    0: frozenset({"zero", "no", "nil", "none"}), 0.25: frozenset({"quarter"}), 0.5: frozenset({"half"}),
    1: frozenset({"a", "an", "one", "once", "first", "single", "only", "1st"}),
    2: frozenset({"two", "both", "twice", "couple", "pair", "second", "double"}),
    3: frozenset({"three", "third", "triple"}), 10: frozenset({"ten", "tenth", "decade"}),
    12: frozenset({"twelve", "dozen", "noon"}), 14: frozenset({"fortnight", "weeks"}),
    100: frozenset({"hundred", "century"}),
}  # fmt: skip
_NO_WORDS: Final[frozenset[str]] = frozenset()

_CLOCK = re.compile(
    r"(?<![\d.,:])(\d{1,2})(?:\s?[Uu]hr\s(\d{1,2})(?![\w.,:]*\d)(?!\s?[%€]|\s[A-ZÄÖÜ])"
    r"|:(\d\d)(?![\d:])(?:\s?[Uu]hr)?|\.(\d\d)\s?[Uu]hr|\s?[Uu]hr)(?!\w)"
)
_DATE = re.compile(r"(?<![\d.,])(\d{1,2})\.\s?(\d{1,2})\.(?:\s?(\d{4}|\d\d(?!\d)))?")
_DECADE = re.compile(r"(?<!\d)(\d*[1-9]0)er(?!\w)")
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w.,)–-])[-−–]\s?(?=\d)|\bminus (?=\d))?"
    r"(?P<digits>\d+(?:[ \u202f\u00a0]\d{3}(?!\d))+(?:,\d+)?|\d+(?:[.,]\d+)*)"
    rf"(?P<glyph>[{''.join(_FRACTIONS)}]?)"
    rf"|(?P<alone>[{''.join(_FRACTIONS)}])",
    re.IGNORECASE,
)
_GROUPED = re.compile(r"\d{1,3}(?:([.,' \u202f\u00a0])\d{3})(?:\1\d{3})*")
_SCALED = re.compile(r"(\d[\d.,]*) (1000|1000000|1000000000)(?!\d)")
_ENGLISH_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d{1,3}(?: \d{3})+(?!\d)|\d+(?:\.\d+)?")
_ENGLISH_CLOCK = re.compile(r"(?<!\d)(\d{1,2})(?:[:.]| )(\d\d)(?!\d)")
_PAST = re.compile(
    r"(?:(\d{1,2})|(half)|(?:a )?(quarter))(?: minutes?)? (past|to|after|before|till|of) "
    r"(\d{1,2}|noon|midnight)\b"
)
_YEAR = re.compile(r"(?<!\d)(1\d|20) (\d\d)(?!\d)")
_MAY_BE_NUMBER = re.compile(
    r"zehn|zwanzig|ßig|zig|hundert|tausend|milli|elf|zwölf|vier|fünf|sechs|sieb|acht|neun|drit|null|uhr",
    re.IGNORECASE,
)
_FEW: Final = {"ein": 1, "eins": 1, "zwei": 2, "drei": 3}
_FEW_OCLOCK = re.compile(r"\b(eins?|zwei|drei) (uhr)\b", re.IGNORECASE)
_SAID_TIME = re.compile(r"(?<![\d.,:])(\d{1,2}) [Uu]hr (\d{1,2})(?![\w.,:]*\d|\w)")
_SCALE_NAMES: Final = {"hundred": 100.0, "thousand": 1e3, "million": 1e6, "billion": 1e9}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a German sentence.

    Attributes:
        text: as the sentence writes it.
        values: any of these in the English means that it is there.
        clock: hour and minute where it is a time of the clock.
        words: English words that say it too.
        negative: below zero.
        firm: nothing but this number can be meant.
    """

    text: str
    values: frozenset[float] = frozenset()
    clock: tuple[int, int] | None = None
    words: frozenset[str] = _NO_WORDS
    negative: bool = False
    firm: bool = True


@dataclass(frozen=True, slots=True)
class EnglishNumbers:
    """What an English text says in digits or words.

    Attributes:
        values: of every number.
        clocks: (hour, minute) of everything that may be a time, a bare hour included.
        words: all words, lower case.
        negative: whether something is below zero.
    """

    values: frozenset[float]
    clocks: frozenset[tuple[int, int]]
    words: frozenset[str]
    negative: bool

    def hold(self, quantity: Quantity) -> bool:
        """Whether a German number is among them."""
        if quantity.negative and not self.negative:
            return False
        if quantity.words & self.words or any(self._has(value) for value in quantity.values):
            return True
        return quantity.clock is not None and self._has_time(*quantity.clock)

    def _has(self, value: float) -> bool:
        return any(abs(value - other) <= 1e-10 * max(1.0, abs(value)) for other in self.values)

    def _has_time(self, hour: int, minute: int) -> bool:
        named = (self.words & {"noon"} and hour == 12) or (self.words & {"midnight"} and hour % 24 == 0)
        if minute == 0 and named:
            return True
        return any(hour % 12 == h % 12 and minute == m for h, m in self.clocks)


def read_german(text: str) -> list[Quantity]:
    """The numbers of a German text, in order, in digits or words.

    Args:
        text: written, or as a recogniser writes it.
    """
    written = set(re.findall(r"\d+", text))
    digits = _german_digits(text)
    return [
        quantity if not _is_soft(quantity, written) else _soft(quantity) for quantity in _scan_german(digits)
    ]


def missing_numbers(german: str, english: str) -> list[Quantity]:
    """Numbers of a German text that an English one lacks."""
    wanted = read_german(german)
    if not wanted:
        return []
    found = read_english(english)
    return [quantity for quantity in wanted if not found.hold(quantity)]


def read_english(text: str) -> EnglishNumbers:
    """The numbers of an English text, in digits or words."""
    plain = text.replace("−", "-").replace("’", "'")
    digits = spell_in_digits(plain.replace("-", " "), "en", 0)
    words = frozenset(re.findall(r"[a-z]+|\d+(?:st|nd|rd|th)", plain.lower()))
    values = {_english_value(m[0]) for m in _ENGLISH_NUMBER.finditer(digits)}
    values |= {_english_value(m[0]) for m in _ENGLISH_NUMBER.finditer(plain)}
    values |= {int(m[1]) * 100.0 + int(m[2]) for m in _YEAR.finditer(digits)}
    values |= set(_scaled(digits))
    values |= {value for name, value in _SCALE_NAMES.items() if name in words or f"{name}s" in words}
    values |= set(_halves(digits, words))
    values |= {_FRACTIONS[char] for char in plain if char in _FRACTIONS}
    below = re.search(r"(?<![\w.,])[-–]\s?\d|\b(minus|below|negative)\b", plain, re.IGNORECASE)
    return EnglishNumbers(frozenset(values), frozenset(_clocks(plain, digits)), words, below is not None)


def spell_digits(german: str) -> str:
    """German number words from vier on as digits, as people write them: 1,4 Millionen, 14:30 Uhr."""
    digits = _german_digits(german)
    for zeros, name in ((9, "Milliarden"), (6, "Millionen")):
        digits = re.sub(rf"(?<=\d) 1{'0' * zeros}(?!\d)", f" {name}", digits)
    return _SAID_TIME.sub(lambda m: f"{m[1]}:{int(m[2]):02d} Uhr", digits) if digits != german else german


def _german_digits(german: str) -> str:
    if not _MAY_BE_NUMBER.search(german):
        return german
    return _FEW_OCLOCK.sub(lambda m: f"{_FEW[m[1].lower()]} {m[2]}", spell_in_digits(german, "de"))


def _is_soft(quantity: Quantity, written: set[str]) -> bool:
    """A number that was a word, and so small that it may mean something else."""
    if (
        quantity.clock
        or quantity.negative
        or any(part in written for part in re.findall(r"\d+", quantity.text))
    ):
        return False
    return all(value < FIRM for value in quantity.values)


def _soft(quantity: Quantity) -> Quantity:
    return Quantity(
        quantity.text, quantity.values, quantity.clock, quantity.words, quantity.negative, firm=False
    )


def _scan_german(text: str) -> Iterator[Quantity]:
    at = 0
    while match := _NUMBER.search(text, at):
        start = match.start("digits") if match["digits"] else match.start()
        clock, date = _CLOCK.match(text, start), _DATE.match(text, start)
        decade = _DECADE.match(text, start)
        if clock and _is_time(clock):
            yield Quantity(clock[0], clock=(int(clock[1]), int(clock[2] or clock[3] or clock[4] or 0)))
            at = clock.end()
        elif date and 1 <= int(date[2]) <= 12 and 1 <= int(date[1]) <= 31:
            yield from _date(date)
            at = date.end()
        elif decade:
            value = float(decade[1])
            named = {_TENS[int(value) % 100]} if int(value) % 100 in _TENS else set()
            yield Quantity(decade[0], frozenset({value, value + 1900, value + 1800}), words=frozenset(named))
            at = decade.end()
        else:
            yield _number(text, match)
            at = _end(text, match)


def _is_time(match: re.Match[str]) -> bool:
    minute = int(match[2] or match[3] or match[4] or 0)
    return int(match[1]) <= 24 and minute < 60


def _date(match: re.Match[str]) -> Iterator[Quantity]:
    month = int(match[2])
    yield Quantity(match[1], frozenset({float(match[1])}), words=_WORDS.get(float(match[1]), _NO_WORDS))
    yield Quantity(f"{match[2]}.", frozenset({float(month)}), words=frozenset({MONTHS[month - 1]}))
    if year := match[3]:
        values = {float(year)} if len(year) == 4 else {float(year), 1900.0 + int(year), 2000.0 + int(year)}
        yield Quantity(year, frozenset(values))


def _number(text: str, match: re.Match[str]) -> Quantity:
    if match["alone"]:
        value = _FRACTIONS[match["alone"]]
        return Quantity(match[0], frozenset({value}), words=_WORDS.get(value, _NO_WORDS))
    values = set(german_values(match["digits"]))
    if match["glyph"]:
        values = {value + _FRACTIONS[match["glyph"]] for value in values}
    if scaled := _SCALED.match(text, match.start("digits")):
        values = {value * float(scaled[2]) for value in values}
    words = _WORDS.get(next(iter(values)), _NO_WORDS) if len(values) == 1 else _NO_WORDS
    return Quantity(match[0].strip(), frozenset(values), words=words, negative=match["minus"] is not None)


def _end(text: str, match: re.Match[str]) -> int:
    scaled = _SCALED.match(text, match.start("digits")) if match["digits"] else None
    return scaled.end() if scaled else match.end()


def german_values(digits: str) -> list[float]:
    """What digits with German separators mean; several where they may be English ones."""
    whole, comma, decimals = digits.partition(",")
    if _GROUPED.fullmatch(whole) and decimals.isdigit() == bool(comma):
        return [float(re.sub(r"\D", "", whole) + ("." + decimals if comma else ""))]
    if comma and whole.isdigit() and decimals.isdigit():
        thousands = [float(whole + decimals)] if len(decimals) == 3 and 0 < len(whole) < 4 else []
        return [float(f"{whole}.{decimals}"), *thousands]
    if _GROUPED.fullmatch(digits):
        return [float(re.sub(r"\D", "", digits))]
    if re.fullmatch(r"\d+\.\d+", digits):
        return [float(digits)]
    return [float(part) for part in re.findall(r"\d+", digits)][:1]


def _english_value(token: str) -> float:
    return float(token.replace(",", "").replace(" ", ""))


def _scaled(digits: str) -> Iterator[float]:
    for match in _SCALED.finditer(digits):
        yield _english_value(match[1].rstrip(".,").replace(",", "") or "0") * float(match[2])


def _halves(digits: str, words: frozenset[str]) -> Iterator[float]:
    """1.5 of "one and a half" and "an hour and a half"."""
    if "half" in words:
        yield 0.5
        yield from (int(m[1]) + 0.5 for m in re.finditer(r"(\d+)(?: \w+)? and a half", digits))
        if re.search(r"\ban? \w+ and a half", digits):
            yield 1.5
    if words & {"quarter", "quarters"}:
        yield from (0.25, 0.75)


def _clocks(plain: str, digits: str) -> Iterator[tuple[int, int]]:
    for text in (plain, digits):
        yield from ((int(m[1]), int(m[2])) for m in _ENGLISH_CLOCK.finditer(text) if int(m[2]) < 60)
        bare = re.findall(r"(?<![\d.,:])\d{1,2}(?![\d:]|[.,]\d)", _ENGLISH_CLOCK.sub(" ", text))
        yield from ((int(hour), 0) for hour in bare if int(hour) <= 24)
    for match in _PAST.finditer(digits.lower()):
        minute = int(match[1]) if match[1] else 30 if match[2] else 15
        hour = {"noon": 12, "midnight": 0}.get(match[5]) if not match[5].isdigit() else int(match[5])
        late = match[4] in ("past", "after")
        assert hour is not None
        yield (hour, minute) if late else ((hour - 1) % 24, 60 - minute)
