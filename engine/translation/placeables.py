"""What a translation must copy: addresses, phone numbers, markup, emoji, words in unknown letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["text", "address", "person", "word", "mark"]
Unknown = Callable[[str], set[str]]

_MAIL = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
_URL = r"(?:(?:https?|ftp)://|www\.)[^\s<>\"„“”]*[^\s<>\"„“”.,;:!?)\]'’*_~]"
_DOMAIN = r"(?<![\w@.])(?:[\w-]+\.)+(?:de|com|org|net|at|ch|eu|info|io|gov|edu)(?:/[^\s<>\"]*[\w/])?(?![\w-])"
_CODE = r"`[^`\s](?:[^`]*[^`\s])?`"
_PATH = (
    r"(?<!\w)[A-Za-z]:\\[^\s\"<>]*[\w\\]|(?<![\w/.<])(?:~|\.{1,2})?/(?:[\w.+-]+/)+[\w.+-]*\w"
    r"|(?<![\w.])[\w-]+\.(?:txt|pdf|docx?|xlsx?|csv|jpe?g|png|mp[34]|wav|zip|html?|py|js|json|xml|md)(?!\w)"
)
_NAME = r"(?<!\w)[@#][^\W_][\w.]*(?<!\.)|[^\W_]+(?:_[^\W_]+)+|\w+(?:::\w+)+|\w+\(\)"
_PHONE = (
    r"(?<![\w.,])(?:\+|00)\d[\d /()-]{6,}\d(?![.,]?\d)"
    r"|(?<![\w.,])\(?0[1-9]\d{1,4}\)?[ /-]{1,2}\d[\d /-]{3,}\d(?![.,]?\d)"
    r"|(?<![\w.,])[A-Z]{2}\d{2}(?: ?\d{4}){3,}(?: ?\d{1,3})?(?!\w)|(?<![\d.,])\d{9,}(?![.,]?\d)"
)
_SIGN = r"[+=×*·÷<>]"
_SUM = rf"(?<![\w.,])\d[\d.,]*(?:(?:\s{_SIGN}\s|{_SIGN})\d(?:[\d.,]*\d)?)+(?!\w)"
_TAG = r"</?[A-Za-z][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{1,6});"
_EMPHASIS = (
    r"\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}|~{1,2}(?=[^\s~])|(?<=[^\s~])~{1,2}"
    r"|(?<!\w)_{1,2}(?=[^\s_])|(?<=[^\s_])_{1,2}(?!\w)"
)
_FOUND: Final = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in (
            ("person", f"{_MAIL}|{_PHONE}"), ("address", f"{_CODE}|{_URL}|{_PATH}|{_DOMAIN}|{_SUM}"),
            ("handle", _NAME), ("mark", f"{_TAG}|{_EMPHASIS}"),
        )
    )
)  # fmt: skip
_WORD = re.compile(r"\S+")
_PLAIN = re.compile(r"[\w\s.,;:!?\"'()„“”’%/–-]*")
_SPECIAL = re.compile(r"[@#_]|://|www\.|\w\.\w|/\w|\d\d|\(\)")
_PARTS = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*|([\W_])\1*")
# What a mark leaves alone: letters and digits are words, marks combine with letters.
_LETTER: Final = ("L", "M", "N")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a sentence.

    Attributes:
        kind: "text" is translated; "mark" has its place between words; the others are copied, and stand for a
            thing ("address"), a person or number ("person") or a name ("word").
        text: as the sentence writes it.
    """

    kind: Kind
    text: str


def find_spans(text: str, unknown: Unknown, reword: Callable[[str], str] = str) -> list[Span]:
    """Cut a sentence into what is translated and what is copied.

    Args:
        text: one sentence, as a model may see it (see clean_text).
        unknown: which characters of a text the model does not have.
        reword: what is done to text that is neither copied nor a mark.
    Returns:
        Spans that together are the text.
    """
    if _PLAIN.fullmatch(text) and not _SPECIAL.search(text):
        reworded = reword(text)
        if not unknown(reworded):
            return [Span("text", reworded)]
    spans: list[Span] = []
    done = 0
    for match in _FOUND.finditer(text):
        spans += _by_letters(reword(text[done : match.start()]), unknown)
        kind: Kind = "mark" if match["mark"] else "address" if match["address"] else "person"
        spans.append(Span(kind, match[0]))
        done = match.end()
    spans += _by_letters(reword(text[done:]), unknown)
    return list(_joined(spans))


def _by_letters(text: str, unknown: Unknown) -> Iterator[Span]:
    """Words with letters that the model lacks are copied, and so are signs that it lacks."""
    lacking = unknown(text)
    if not lacking:
        if text:
            yield Span("text", text)
        return
    done = 0
    for match in _WORD.finditer(text):
        if not lacking & set(match[0]):
            continue
        if match.start() > done:
            yield Span("text", text[done : match.start()])
        yield from _split_word(match[0], lacking)
        done = match.end()
    if done < len(text):
        yield Span("text", text[done:])


def _split_word(word: str, lacking: set[str]) -> Iterator[Span]:
    """The parts of a word: runs of letters (copied if one is unknown) and of unknown signs."""
    for part in (match[0] for match in _PARTS.finditer(word)):
        if not lacking & set(part):
            yield Span("text", part)
        elif any(unicodedata.category(char)[0] in _LETTER for char in part if char not in "\u200d\ufe0f"):
            yield Span("word", part)
        else:
            yield Span("mark", part)


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Neighbours that are copied together, and neighbours of text, as one."""
    held: Span | None = None
    for index, span in enumerate(spans):
        if held is None:
            held = span
        elif (held.kind == span.kind and span.kind in ("text", "word")) or _glued(held, span):
            held = Span(held.kind, held.text + span.text)
        elif _bridges(held, span, spans[index + 1 : index + 2]):
            held = Span("word", held.text + span.text)
        else:
            yield held
            held = span
    if held is not None and held.text:
        yield held


def _glued(first: Span, second: Span) -> bool:
    """An emoji of several characters is one mark; markup stays apart."""
    symbols = not set(first.text + second.text) & set("<>*_~")
    return first.kind == second.kind == "mark" and symbols


def _bridges(first: Span, between: Span, after: Sequence[Span]) -> bool:
    """A space between two words of unknown letters belongs to both."""
    return bool(
        first.kind == "word" and between.kind == "text" and not between.text.strip() and after
        and after[0].kind == "word"
    )  # fmt: skip
