"""A sentence as a model can translate it, with stand-ins for what is copied, and the way back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from engine.translation.placeables import Span

# Names that German and English share, and that every corpus has.
STAND_INS: Final[dict[str, tuple[str, ...]]] = {
    "address": ("Boston", "Berlin", "London", "Paris", "Hamburg"),
    "person": ("Tom", "Peter", "Martin", "David", "Robert"),
    "word": ("Boston", "Berlin", "London", "Paris", "Hamburg"),
}
MAX_SWAPS: Final = 4  # in one sentence; one with more is translated in pieces
_HOLE = re.compile("\x00(\\d+)\x01")  # characters that clean_text leaves in no text
_CORE = re.compile("\x00\\d+\x01|[^\\W_]+(?:['’.,:-][^\\W_]+)*")
_NAMES = re.compile(rf"\b(?:{'|'.join(sorted({name for names in STAND_INS.values() for name in names}))})\b")
_FOLDED: Final = str.maketrans(
    {"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ð": "d", "þ": "th", "æ": "ae", "Æ": "Ae",
     "œ": "oe", "Œ": "Oe", "ı": "i", "å": "a", "Å": "A"}
)  # fmt: skip
_BRACKETS: Final = {"[": "]", "{": "}", "<": ">"}

Unknown = Callable[[str], set[str]]


@dataclass(frozen=True, slots=True)
class Swap:
    """Something that is copied: what stands for it in each attempt, and what the translation shows."""

    original: str
    stand_ins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something without words: an emoji, a tag, emphasis.

    Attributes:
        text: as the sentence writes it.
        word: number of the word that it stands before or behind.
        before: whether it belongs to the word after it.
        spaced: whether a space separates them.
        partner: the number of the mark that closes what it opens.
    """

    text: str
    word: int
    before: bool
    spaced: bool
    partner: int | None = None


@dataclass(frozen=True)
class Masked:
    """A sentence apart.

    Attributes:
        template: text with a numbered hole where each stand-in goes.
        swaps, marks: see there.
        prefix, suffix: what stands before and behind everything that is translated.
        single: whether the quotes of the sentence were single ones.
    """

    template: str
    swaps: tuple[Swap, ...] = ()
    marks: tuple[Mark, ...] = ()
    prefix: str = ""
    suffix: str = ""
    single: bool = False
    n_words: int = field(default=0)

    def source(self, attempt: int) -> str:
        """What the model is given in an attempt."""
        names = [swap.stand_ins[attempt % len(swap.stand_ins)] for swap in self.swaps]
        return _fill(self.template, names)

    @property
    def is_copied(self) -> bool:
        """Whether there is no word to translate."""
        return _CORE.search(_HOLE.sub("", self.template)) is None

    def pieces(self) -> list[tuple[str, bool]]:
        """Text between the holes of what is copied, and those holes (True), in order."""
        parts = [
            (f"\x00{part}\x01" if at % 2 else part, at % 2 == 1)
            for at, part in enumerate(_HOLE.split(self.template))
        ]
        return [(text, hole) for text, hole in parts if text.strip()]

    def marked_texts(self) -> list[str]:
        """The German between each pair of marks, in order of the pairs."""
        source, cores = self.source(0), list(_CORE.finditer(self.source(0)))
        found = []
        for mark in self.marks:
            if mark.partner is not None:
                last = self.marks[mark.partner].word
                inside = cores[mark.word : last + 1]
                found.append(source[inside[0].start() : inside[-1].end()] if inside else "")
        return found

    def put_back(self, english: str, attempt: int) -> tuple[str, list[str]]:
        """Replace the stand-ins of an attempt by holes, which finish fills.

        Returns:
            The text, and the originals whose stand-in is not there exactly once.
        """
        lost = []
        for number, swap in enumerate(self.swaps):
            name = swap.stand_ins[attempt % len(swap.stand_ins)]
            shown = name.strip('"')
            quotes = r'["“”„]?' if name.startswith('"') else ""
            pattern = re.compile(rf"(?<!\w){quotes}{re.escape(shown)}{quotes}(?!\w)", re.IGNORECASE)
            if len(pattern.findall(english)) == 1:
                english = pattern.sub(f"\x00{number}\x01", english)
            else:
                lost.append(swap.original)
        return english, lost

    def strangers(self, english: str, german: str) -> list[str]:
        """Names that only stand in for others, in a translation after put_back, and not in the German."""
        return [name for name in _NAMES.findall(english) if name.lower() not in german.lower()]

    def filled(self, english: str) -> str:
        """Text with holes as put_back leaves it, with what is copied in them."""
        return _fill(english, [swap.original for swap in self.swaps])

    def finish(self, english: str, marked: Sequence[Sequence[str]]) -> str:
        """Put marks, edges, quotes and what is copied back.

        Args:
            english: with holes for what is copied.
            marked: ways to say each of marked_texts in English, best first.
        """
        if self.single and english.count('"') + english.count("“") + english.count("”"):
            english = re.sub(r'["“”]', "'", english)
        english = _insert(english, self.marks, _places(self, english, list(marked)))
        return f"{self.prefix}{_fill(english, [swap.original for swap in self.swaps])}{self.suffix}"


def _fill(template: str, names: Sequence[str]) -> str:
    return _HOLE.sub(lambda match: names[int(match[1])], template)


def mask(spans: Sequence[Span], unknown: Unknown, single: bool = False) -> Masked:
    """Arrange the spans of a sentence for translation.

    Args:
        spans: of find_spans, their texts already reworded.
        unknown: which characters of a text the model does not have.
        single: whether the sentence has single quotes.
    """
    first, last = _edges(spans)
    prefix = "".join(span.text for span in spans[:first])
    suffix = "".join(span.text for span in spans[last:])
    taken = " ".join(span.text for span in spans).lower()
    swaps: list[Swap] = []
    marks: list[Mark] = []
    template, n_words = "", 0
    inner = spans[first:last]
    for index, span in enumerate(inner):
        if span.kind == "text":
            template += span.text
            n_words += len(_CORE.findall(span.text))
        elif span.kind == "mark":
            marks.append(_mark(span.text, template, inner[index + 1 :], n_words))
        else:
            template += f"\x00{len(swaps)}\x01"
            swaps.append(Swap(span.text, _stand_ins(span, taken, len(swaps), unknown)))
            n_words += 1
    if template[:1].isspace() and prefix and not prefix[-1].isspace():
        prefix += " "
    return Masked(template.strip(), tuple(swaps), _pair(marks), prefix, suffix, single, n_words)


def _edges(spans: Sequence[Span]) -> tuple[int, int]:
    """The first span and the end of what is translated: marks around it stay where they are."""
    first, last = 0, len(spans)
    while first < last and (spans[first].kind == "mark" or not spans[first].text.strip()):
        first += 1
    while last > first and (spans[last - 1].kind == "mark" or not spans[last - 1].text.strip()):
        last -= 1
    return first, last


def _mark(text: str, before: str, after: Sequence[Span], n_words: int) -> Mark:
    glued_left = before != "" and not before[-1].isspace() and n_words > 0
    glued_right = bool(after) and not after[0].text[:1].isspace()
    if glued_left or (not glued_right and n_words > 0):
        return Mark(text, n_words - 1, False, not glued_left)
    return Mark(text, n_words, True, not glued_right)


def _pair(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Marks with the partner of each that opens something."""
    found = list(marks)
    opened: list[int] = []
    for index, mark in enumerate(marks):
        at = next((i for i in reversed(opened) if _closes(marks[i], mark)), None)
        if at is not None and not mark.before:
            one = marks[at]
            found[at] = Mark(one.text, one.word, one.before, one.spaced, index)
            opened = [i for i in opened if i < at]
        elif mark.before:
            opened.append(index)
    return tuple(found)


def _closes(first: Mark, second: Mark) -> bool:
    if first.text.startswith("<"):
        name = re.match(r"<(\w+)", first.text)
        return name is not None and second.text.lower() == f"</{name[1].lower()}>"
    return second.text == _BRACKETS.get(first.text, first.text)


def _stand_ins(span: Span, taken: str, number: int, unknown: Unknown) -> tuple[str, ...]:
    names = [name for name in STAND_INS[span.kind] if name.lower() not in taken] or list(STAND_INS["word"])
    other = "address" if span.kind == "person" else "person"
    others = [name for name in STAND_INS[other] if name.lower() not in taken] or names
    chosen = [names[number % len(names)], others[number % len(others)]]
    folded = fold_letters(span.text)
    if span.kind == "word" and " " not in folded and not unknown(folded):
        chosen.insert(0, folded)
    quoted = f'"{names[(number + 1) % len(names)]}"'
    return (*chosen[:2], quoted)


def fold_letters(text: str) -> str:
    """The same letters without accents: Łódź is Lodz."""
    plain = unicodedata.normalize("NFKD", text.translate(_FOLDED))
    return "".join(char for char in plain if not unicodedata.combining(char))


def _places(masked: Masked, english: str, marked: Sequence[Sequence[str]]) -> list[int]:
    """The word of the English that each mark belongs to: by what it marks, or by its share of the words."""
    words = [core[0] for core in _CORE.finditer(english)]
    share = len(words) / max(1, masked.n_words)
    places = [
        round(mark.word * share) if mark.before else round((mark.word + 1) * share) - 1
        for mark in masked.marks
    ]
    said = iter(marked)
    for index, mark in enumerate(masked.marks):
        if mark.partner is None:
            continue
        ways = (_find_words(words, _CORE.findall(way)) for way in next(said, ()))
        found = next((way for way in ways if way), None)
        places[index], places[mark.partner] = found or (
            places[index], max(places[index], places[mark.partner])
        )  # fmt: skip
    return [max(0, min(len(words) - 1, place)) for place in places]


def _find_words(words: Sequence[str], wanted: Sequence[str]) -> tuple[int, int] | None:
    """The first and the last place of words that stand together, or of most of them."""
    low, looked_for = [word.lower() for word in words], [word.lower() for word in wanted]
    for start in range(len(low) - len(looked_for) + 1):
        if looked_for and low[start : start + len(looked_for)] == looked_for:
            return start, start + len(looked_for) - 1
    long = {word[:5] for word in looked_for if len(word) > 3}
    hits = [index for index, word in enumerate(low) if word[:5] in long]
    return (hits[0], hits[-1]) if hits and hits[-1] - hits[0] < 2 * len(looked_for) else None


def _insert(english: str, marks: Sequence[Mark], places: Sequence[int]) -> str:
    cores = list(_CORE.finditer(english))
    if not cores:
        return english + "".join(mark.text for mark in marks)
    cuts: list[tuple[int, int, str]] = []
    for order, (mark, place) in enumerate(zip(marks, places, strict=True)):
        core = cores[place]
        space = " " if mark.spaced else ""
        if mark.before:
            cuts.append((core.start(), order, mark.text + space))
        else:
            cuts.append((core.end(), order, space + mark.text))
    for at, _, text in sorted(cuts, reverse=True):
        english = english[:at] + text + english[at:]
    return english


def has_single_quotes(text: str) -> bool:
    """Whether a text has single quotes, and no double ones."""
    return bool(_SINGLE.search(text)) and not any(quote in text for quote in '"„“”»«')


def plain_quotes(text: str, known: Callable[[str], bool]) -> str:
    """Quotes and dashes that the model has, for those that it has not."""
    for odd, usual in _USUAL.items():
        if odd in text and not known(odd):
            text = text.replace(odd, usual)
    return _STRAIGHT.sub(r"„\1“", text) if "'" in text else text


_STRAIGHT = re.compile(r"(?<!\w)'(?=\w)([^']*[\w.,!?…])'(?!\w)")
_SINGLE = re.compile(rf"[‚‹›]|{_STRAIGHT.pattern}")
_USUAL: Final = {
    "‚": "„", "‘": "“", "‹": "„", "›": "“", "»": "„", "«": "“", "—": "–", "‐": "-", "‑": "-", "−": "-",
    "‒": "–", "―": "–", "´": "’", "…": "...",
    "\u00ad": "", "\u200b": "", "\ufeff": "",
}  # fmt: skip
