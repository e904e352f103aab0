"""Written German to slots: one for each word, holding every way it may have been read aloud."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from engine.errors import EngineError
from engine.text import LETTERS, normalize_text
from engine.text.units import MONTHS
from training.alignment import spoken_forms as forms
from training.alignment.spoken_forms import Form

MAX_FOREIGN_SHARE: Final = 0.2  # of the letters; more is text in another script
OPENING: Final = "([{<\"'“„”»«‚‘’–—-*_\\…/"
CLOSING: Final = ".,;:!?)]}>\"'“”«»‘’–—-*_\\…/"
ENDS_SENTENCE: Final = re.compile(r"[.!?…][\"'“”«»)\]]*$")
NUMBERED: Final = frozenset("jahr jahre seite nummer straße hausnummer zimmer kapitel artikel s".split())
_MONTHS = frozenset(month.lower() for month in MONTHS)
_REPAIRS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile("[\u00ad\u200b-\u200d\ufeff]"), ""),  # soft hyphens and zero-width characters
    (re.compile(r"\\(?=[\"“”„'])"), ""),
    (re.compile(r'(?:(?<=^)|(?<=[\s(\[]))"(?=\S)'), "„"),  # straight ones confuse readers of tables
    (re.compile('"'), "“"),
    (re.compile(r"(?<=[a-zäöüß]{2}\.)(?=\d)"), " "),  # "in Erlangen.1932 wurden"
    (re.compile(r"(?<=[A-Za-zäöüß])([:;,])(?=[A-Za-zÄÖÜäöü]{2})"), r"\1 "),
    (re.compile(r"\b([SsNn]r?\.)(?=\d)"), r"\1 "),
    (re.compile(r"\b([zZdDuUoO])\. ([BhaäÄ])\."), r"\1.\2."),
    (re.compile(r"(?<=\d)\s*([%€§°$])"), r" \1"),
    (re.compile(r"(?<=\d)[–—-](?=\d)"), " - "),
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?![\d.,]\d|\d)")
_DATE = re.compile(r"(?:(\d{1,2})\.?/)?(\d{1,2})\.(\d{1,2})\.(\d{4}|\d{2})?")


class TextError(EngineError, ValueError):
    """A text that cannot be aligned with German speech."""


class Slot(NamedTuple):
    """One place of the text.

    Attributes:
        forms: the ways to say it, at least one, the most likely first.
        prefix, suffix: punctuation of the transcript before and after the form.
    """

    forms: tuple[Form, ...]
    prefix: str = ""
    suffix: str = ""

    def write(self, choice: int = 0) -> str:
        """The slot as a transcript writes it."""
        return f"{self.prefix}{self.forms[choice].written}{self.suffix}"

    @property
    def ends_sentence(self) -> bool:
        """Whether a sentence ends after it."""
        return bool(ENDS_SENTENCE.search(self.write()))


class Token(NamedTuple):
    """A word between spaces, its punctuation split off."""

    prefix: str
    core: str
    suffix: str


def read_slots(text: str) -> list[Slot]:
    """Expand a text into slots.

    Args:
        text: written German, with digits, dates and abbreviations.
    Returns:
        At least one slot; every form's letters are engine.text.LETTERS and single spaces.
    Raises:
        TextError: no words in it, or another script; the message says which.
    """
    check_script(text)
    tokens = [split_token(word) for word in repair_text(text).split()]
    slots: list[Slot] = []
    at = 0
    while at < len(tokens):
        before = tokens[at - 1].core.lower() if at else ""
        found, n_read = _read_at(tokens[at : at + 3], before)
        if (
            found
            and any(char.isdigit() for char in tokens[at].core)
            and (not slots or slots[-1].ends_sentence)
        ):
            found[0] = _capitalize(found[0])
        slots.extend(found)
        if not found and slots:  # a dash between spaces stays in the transcript
            slots[-1] = slots[-1]._replace(suffix=_join(slots[-1].suffix, tokens[at]))
        at += n_read
    if not slots:
        raise TextError(f"no words in {text[:40]!r}", "German text", "remove the line or give its text")
    return slots


def _capitalize(slot: Slot) -> Slot:
    """A number at the start of a sentence, with a capital."""
    return slot._replace(
        forms=tuple(form._replace(written=form.written[:1].upper() + form.written[1:]) for form in slot.forms)
    )


def check_script(text: str) -> None:
    """Refuse a text whose letters are mostly not Latin.

    Raises:
        TextError: empty, or more than a fifth of its letters in another script.
    """
    letters = [char for char in unicodedata.normalize("NFC", text) if char.isalpha()]
    if not letters and not any(char.isdigit() for char in text):
        raise TextError(f"no words in {text[:40]!r}", "German text", "remove the line or give its text")
    foreign = [char for char in letters if not set(normalize_text(char)) & set(LETTERS)]
    if len(foreign) > MAX_FOREIGN_SHARE * max(len(letters), 1):
        raise TextError(
            f"{len(foreign)} of {len(letters)} letters in another script ({''.join(foreign[:8])})",
            "German in Latin letters", "give the text that was read",
        )  # fmt: skip


def repair_text(text: str) -> str:
    """Undo what copying does to text: CSV quotes, soft hyphens, missing spaces after punctuation."""
    text = unicodedata.normalize("NFC", text).strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', ""):
        text = text[1:-1].replace('""', '"')
    text = "".join(unicodedata.normalize("NFKC", c) if "Ⅰ" <= c <= "ⅿ" else c for c in text)
    text = _GROUPED.sub(lambda match: re.sub(r"\s", ".", match[0]), text)
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    return text


def split_token(word: str) -> Token:
    """Split a word between spaces into punctuation, what is said, and punctuation."""
    start, end = 0, len(word)
    while start < end and word[start] in OPENING:
        start += 1
    while end > start and word[end - 1] in CLOSING:
        end -= 1
    return Token(word[:start], word[start:end], word[end:])


def _join(suffix: str, token: Token) -> str:
    mark = f"{token.prefix}{token.core}{token.suffix}"
    return f"{suffix} {mark}" if mark in {"-", "–", "—"} else suffix


Reader = Callable[[Sequence[Token], str], "tuple[list[Slot], int] | None"]


def _read_at(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int]:
    """The slots of the first token, and how many tokens they took."""
    for reader in READERS:
        found = reader(tokens, before)
        if found is not None:
            return found
    return [], 1


def _wrap(token: Token, parts: Sequence[tuple[Form, ...]], suffix: str | None = None) -> list[Slot]:
    """Slots of one token: its punctuation goes to the first and the last of them."""
    spoken = [tuple(form for form in part if form.letters) for part in parts]
    slots = [Slot(part) for part in spoken if part]
    if slots:
        slots[0] = slots[0]._replace(prefix=token.prefix)
        slots[-1] = slots[-1]._replace(suffix=token.suffix if suffix is None else suffix)
    return slots


def _read_time(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """2.30 Uhr, 14:05 Uhr."""
    if len(tokens) < 2 or tokens[1].core != "Uhr" or tokens[0].suffix:
        return None
    match = re.fullmatch(r"(\d{1,2})[.:](\d{2})", tokens[0].core)
    if not match or int(match[1]) > 24 or int(match[2]) > 59:
        return None
    told = forms.time_forms(int(match[1]), int(match[2]))
    return _wrap(tokens[0], [told], tokens[1].suffix), 2


def _read_date(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """25.12.1901, 09/10.11.1938, 24.12."""
    token = tokens[0]
    match = _DATE.fullmatch(token.core + ("." if token.suffix.startswith(".") else ""))
    match = match or _DATE.fullmatch(token.core)
    if not match or not (1 <= int(match[2]) <= 31 and 1 <= int(match[3]) <= 12):
        return None
    days = [int(day) for day in match.groups()[:2] if day]
    parts = [forms.ordinal_forms(days[0], before)]
    if len(days) == 2:
        linked = "auf den" if abs(days[1] - days[0]) == 1 else "und"
        parts += [forms.make_forms([linked, "und", "zum", "auf"]), forms.ordinal_forms(days[1], "den")]
    parts.append(forms.month_forms(int(match[3]), before))
    if match[4]:
        parts.append(_year(match[4]))
    suffix = token.suffix if match[4] else token.suffix[1:]
    return _wrap(token, parts, suffix), 1


def _year(digits: str) -> tuple[Form, ...]:
    return (
        forms.year_forms(int(digits))
        if len(digits) == 4 and int(digits) >= 1100
        else (forms.cardinal_forms(int(digits)))
    )


def _read_ordinal(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """7. or II. before a word of the same sentence."""
    token = tokens[0]
    if not token.suffix.startswith(".") or len(tokens) < 2 or not tokens[1].core:
        return None
    number = int(token.core) if re.fullmatch(r"\d{1,3}", token.core) else forms.read_roman(token.core)
    if not number:
        return None
    said = forms.ordinal_forms(number, before)
    if tokens[1].core.lower() not in _MONTHS:
        plain = tuple(form._replace(written=f"{form.written}.") for form in forms.cardinal_forms(number))
        ends = tokens[1].core[:1].isupper() and before in NUMBERED
        said = plain + _make_rare(said) if ends else said + _make_rare(plain)
    return _wrap(token, [said], token.suffix[1:]), 1


def _make_rare(said: tuple[Form, ...]) -> tuple[Form, ...]:
    return tuple(form._replace(cost=max(form.cost, forms.RARE)) for form in said)


def _read_number(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """171, 30.000, 3,25, 007."""
    token = tokens[0]
    if re.fullmatch(r"\d+", token.core):
        long = len(token.core) > 9 or (token.core[0] == "0" and len(token.core) > 1)
        said = forms.digit_forms(token.core) if long else forms.cardinal_forms(int(token.core))
        if before in {"", "bis"} and re.fullmatch(r"1[1-9]\d\d", token.core):  # "von 1933 bis 45"
            said = (*said, *_make_rare(forms.cardinal_forms(int(token.core[2:]))))
    elif re.fullmatch(r"\d{1,3}(\.\d{3})+", token.core):
        said = forms.cardinal_forms(int(token.core.replace(".", "")))
    elif match := re.fullmatch(r"(\d{1,9}),(\d{1,6})", token.core):
        said = forms.decimal_forms(match[1], match[2])
    else:
        return None
    parts, n_read, suffix = [said], 1, token.suffix
    if (
        len(tokens) > 2
        and not tokens[1].core
        and re.fullmatch(r"\d+", tokens[2].core)
        and (tokens[1].prefix in {"-", "–", "—"} and not suffix)
    ):
        parts.append(forms.make_forms(["bis"]))
        n_read = 2
    return _wrap(token, parts, suffix), n_read


def _read_decade(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """1980er, 20er."""
    match = re.fullmatch(r"(\d{2,4})er(n?)", tokens[0].core)
    if not match:
        return None
    number = int(match[1])
    said = [spelled + "er" + match[2] for spelled in (f.written for f in _year(match[1]))]
    short = forms.spell_number(number % 100) if number % 100 else ""
    return _wrap(
        tokens[0], [forms.make_forms(said[:1], [*said[1:], f"{short}er{match[2]}" if short else ""])]
    ), 1


def _read_abbreviation(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """ca., geb., z.B., and signs such as %."""
    token = tokens[0]
    sign = f"{token.prefix}{token.core}".strip("()")
    if sign in forms.UNITS and ((len(sign) == 1 and not sign.isalpha()) or before[-1:].isdigit()):
        return _wrap(token, [forms.make_forms([forms.UNITS[sign]])]), 1
    for key in (f"{token.core}.", f"{token.core[:1].lower()}{token.core[1:]}."):
        if token.suffix.startswith(".") and key in forms.ABBREVIATIONS:
            said = forms.make_forms(forms.ABBREVIATIONS[key])
            return _wrap(token, [said], token.suffix[1:]), 1
    return None


def _read_mixed(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """Digits and letters in one word: II/25, B12, 15-jährige."""
    token = tokens[0]
    if not any(char.isdigit() for char in token.core):
        return None
    parts = []
    for part in re.findall(r"\d+|[^\W\d_]+", token.core):
        value = int(part) if part.isdecimal() and len(part) < 10 else forms.read_roman(part)
        parts.append(forms.cardinal_forms(value) if value or part == "0" else forms.letter_forms(part))
    return _wrap(token, parts), 1


def _read_letters(tokens: Sequence[Token], before: str) -> tuple[list[Slot], int] | None:
    """Any other word; Roman numerals and acronyms have further forms."""
    token = tokens[0]
    if not normalize_text(token.core):
        return None
    said = forms.letter_forms(token.core)
    if number := forms.read_roman(token.core):
        spelled = (*forms.cardinal_forms(number), *forms.ordinal_forms(number, before))
        said = spelled + said if len(token.core) > 1 else said + spelled
    return _wrap(token, [said]), 1


READERS: tuple[Reader, ...] = (
    _read_time, _read_date, _read_ordinal, _read_number, _read_decade, _read_abbreviation, _read_mixed,
    _read_letters,
)  # fmt: skip
