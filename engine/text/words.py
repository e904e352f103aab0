"""German words for whole numbers, and the other ways to say and to write them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final

Forms = tuple[str, ...]  # ways to say the same, the usual one first
MAX_FORMS: Final = 40
LONGEST: Final = 12  # digits that are said as one number; longer ones are read digit by digit
FIRST_YEAR, LAST_YEAR = 1100, 1999  # said in hundreds: neunzehnhundertachtunddreißig
_TENS = "zwanzig|dreißig|vierzig|fünfzig|sechzig|siebzig|achtzig|neunzig"
_AND = re.compile(rf"(?<=[a-zß])und(?={_TENS})")
_BEFORE = re.compile(r"(?<=[a-zäöüß])(?=hundert|tausend)")
_BEHIND = re.compile(r"(?<=hundert)(?=[a-zäöüß])|(?<=tausend)(?=[a-zäöüß])")
_THOUSANDS = re.compile(r"(?<=tausend)(?=[a-zäöüß])")
_ONE = re.compile(r"\bein(?=hundert|tausend)")
_INNER_ONE = re.compile(r"(?<=tausend)ein(?=hundert)")
_TWO = re.compile(r"zwei(?!t[em])")
ONE: Final = ("ein", "eine", "einen", "einem", "einer", "eines", "eins")


def merge_forms(*groups: Iterable[str]) -> Forms:
    """All forms in order, each once, at most MAX_FORMS."""
    found = dict.fromkeys(form for group in groups for form in group if form)
    return tuple(found)[:MAX_FORMS]


@functools.lru_cache(maxsize=4096)
def spell_number(number: int, kind: str = "cardinal") -> str:
    """German words for a number of up to 60 digits, nouns with capitals: eine Million eins.

    Args:
        number: at least 0.
        kind: "cardinal"; "ordinal", which ends in e: dritte; or "year", in hundreds where years are.
    """
    from num2words import num2words

    if kind == "year" and not FIRST_YEAR <= number <= LAST_YEAR:
        kind = "cardinal"
    words = str(num2words(number, lang="de", to=kind)).replace("einstausend", "eintausend")
    return words.lower().replace(" ", "") if kind == "ordinal" else words


def spell_digits(digits: str) -> str:
    """Each digit as a word: null eins sieben eins."""
    return " ".join(spell_number(int(digit)) for digit in digits)


def spell_pairs(digits: str) -> str:
    """Digits two by two: siebenundvierzig elf; a single one is left at the start."""
    odd = len(digits) % 2
    pairs = [digits[:odd]] if odd else []
    pairs += [digits[at : at + 2] for at in range(odd, len(digits), 2)]
    return " ".join(spell_digits(pair) if pair[0] == "0" else spell_number(int(pair)) for pair in pairs)


@functools.lru_cache(maxsize=4096)
def integer_forms(number: int) -> Forms:
    """Ways to say a number that counts something, the usual one first."""
    if len(str(number)) > LONGEST:
        return merge_forms([spell_digits(str(number))])
    words = spell_number(number)
    year = [spell_number(number, "year")] if FIRST_YEAR <= number <= LAST_YEAR else []
    short = _ONE.sub("", words)
    first = [words, short, _INNER_ONE.sub("", short), *year]
    return merge_forms(*(_written(form) for form in merge_forms(first, _with_and(first))), _with_two(first))


@functools.lru_cache(maxsize=4096)
def name_forms(digits: str) -> Forms:
    """Ways to say digits without a separator: a year, a number, or digit by digit as in a post code."""
    if len(digits) > 1 and digits[0] == "0":
        return digit_forms(digits)
    number, apart = int(digits), [spell_digits(digits)] if len(digits) > 2 else []
    if len(digits) > LONGEST:
        return digit_forms(digits)
    pairs = [spell_pairs(digits)] if len(digits) == 4 and digits[1:3] != "00" else []
    year = _written(spell_number(number, "year"))
    short = []
    if 2010 <= number <= 2099:
        tail = spell_number(number - 2000)
        short = [f"zwanzig{tail}", f"zwanzig {tail}"]
    if FIRST_YEAR <= number <= LAST_YEAR:
        return merge_forms(year, integer_forms(number), pairs, apart)
    return merge_forms(integer_forms(number)[: MAX_FORMS - 5], short, pairs, apart)


def digit_forms(digits: str, *groups: str) -> Forms:
    """Ways to read out digits: one by one, with zwo, in pairs, as numbers by the groups they are written in.

    Args:
        digits: all of them. groups: the same ones as they are written with spaces.
    """
    single = spell_digits(digits)
    parts = groups or (digits,)
    paired = " ".join(spell_pairs(part) for part in parts)
    grouped = [
        spell_digits(part) if part[0] == "0" or len(part) > 4 else spell_number(int(part)) for part in parts
    ]
    double = [single.replace("null null", "doppelnull", 1), single.replace("null null", "doppel null", 1)]
    forms = [single, _TWO.sub("zwo", single), paired, " ".join(grouped), *double]
    return merge_forms(forms if len(digits) > 1 else forms[:2])


def _written(words: str) -> list[str]:
    """One number as one word, and apart at thousands, hundreds and tens: zwei hundert vier und dreißig."""
    behind = _BEHIND.sub(" ", words)
    apart = _BEFORE.sub(" ", behind)
    forms = [words, _THOUSANDS.sub(" ", words), behind, apart, _AND.sub(" und ", apart)]
    return [re.sub(r"\bund(?=[a-zäöüß])", "und ", form) for form in forms]


def _with_and(forms: Iterable[str]) -> list[str]:
    """The same numbers with "und" behind the last hundred or thousand: zweitausendundzwei."""
    found = []
    for words in forms:
        head, part, tail = re.sub(r"(hundert|tausend)(?!.*(?:hundert|tausend))", r"\1|", words).partition("|")
        if part and tail and not tail.startswith(" ") and not _AND.search(tail):
            found.append(f"{head}und{tail}")
    return found


def _with_two(forms: Iterable[str]) -> list[str]:
    return [_TWO.sub("zwo", words) for words in forms if _TWO.search(words)]


@functools.lru_cache(maxsize=4096)
def ordinal_forms(number: int, ending: str = "") -> Forms:
    """Ways to say "3.": dritte, dritten, dritter, drittes, drittem.

    Args:
        number: at least 0. ending: of the first form, "" or one of n, r, s, m.
    """
    stem = spell_number(number, "ordinal")
    long = f"ein{stem}" if stem.startswith(("hundert", "tausend")) else ""
    stems = merge_forms([stem], [_ONE.sub("", stem), long], _with_and([stem]))
    two = [re.sub(r"^zweite$", "zwote", stem)]
    endings = dict.fromkeys([ending, "", "n", "r", "s", "m"])
    return merge_forms(stem + end for stem in (*stems, *two) for end in endings)
