"""Labels that are more than one character: pieces of words, and the marks that begin a word in them.

Three notations are read: SentencePiece ("▁Haus", or " Haus" with a space), WordPiece ("Haus", "##es") and
plain labels of several letters ("sch", as TEVR makes them).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.errors import DecodingError
from engine.kernels.ctc.state import MAX_LETTERS

WORD_START: Final = "▁"  # SentencePiece's
CONTINUATION: Final = "##"  # WordPiece's
DELIMITERS: Final = (WORD_START, " ")  # labels that can only be the space between words
_UNKNOWN = "⁇"
_ENDINGS: Final = {"</w>": "ends in </w>", "@@": "ends in @@"}  # of other notations
_BYTE_SPACE: Final = "Ġ"  # the space in GPT-2's alphabet of bytes


@dataclass(frozen=True)
class Spellings:
    """How labels read.

    Attributes:
        texts: of each label, what it adds to a word; "" for marks, the blank and the delimiter.
        opens: of each label, whether it begins a word.
        letters: the characters that words consist of, sorted.
        decomposed: letters are in Unicode's decomposed form (NFD), because some label begins with an accent.
    """

    texts: tuple[str, ...]
    opens: tuple[bool, ...]
    letters: tuple[str, ...]
    decomposed: bool


def is_mark(label: str) -> bool:
    """Whether a label is never text: "", "<s>", "[UNK]" or SentencePiece's sign for the unknown."""
    bracketed = len(label) > 2 and label[0] in "<[" and label[-1] in ">]"
    return bracketed or label.strip(WORD_START + " ") == _UNKNOWN or label == ""


def find_delimiter(labels: Sequence[str], word_delimiter: str) -> int:
    """The index of the label between words; -1 where the vocabulary has none.

    A label that can be nothing else ("▁" or a space alone) is found where `word_delimiter` is missing, or
    where other labels begin words ("▁Haus"): "|" is a sign like others then.
    """
    pieces = any(label[0] == WORD_START and len(label) > 1 for label in labels if label)
    for name in DELIMITERS if pieces else (word_delimiter, *DELIMITERS):
        if name in labels:
            return labels.index(name)
    return -1


def read_spellings(labels: Sequence[str], silent: Sequence[int]) -> Spellings | None:
    """Read labels that are pieces of words; None where every label is one character.

    Args:
        labels: in Unicode's composed form.
        silent: indices of the blank and the delimiter.
    Raises:
        DecodingError: labels that hold a space elsewhere than in front, or of a notation that is not read.
    """
    spoken = [i for i, label in enumerate(labels) if i not in silent and not is_mark(label)]
    _refuse_notations([labels[i] for i in spoken])
    wordpiece = any(labels[i].startswith(CONTINUATION) and len(labels[i]) > 2 for i in spoken)
    texts, opens = [""] * len(labels), [False] * len(labels)
    for i in spoken:
        texts[i], opens[i] = _split(labels[i], wordpiece)
        if len(texts[i]) > MAX_LETTERS:
            raise DecodingError(f"a label of {len(texts[i])} letters", f"{MAX_LETTERS} at most")
        if not texts[i]:
            raise DecodingError(
                f"a vocabulary whose label {labels[i]!r} has no letters",
                "one label between words",
                f"pass word_delimiter={labels[i]!r}",
            )
    if not any(opens) and all(len(texts[i]) == 1 for i in spoken):
        return None
    decomposed = any(text and unicodedata.combining(text[0]) for text in texts)
    if decomposed:
        texts = [unicodedata.normalize("NFD", text) for text in texts]
    return Spellings(tuple(texts), tuple(opens), tuple(sorted(set("".join(texts)))), decomposed)


def _split(label: str, wordpiece: bool) -> tuple[str, bool]:
    """A label's text, and whether it begins a word."""
    if wordpiece:
        begins = not label.startswith(CONTINUATION)
        return (label if begins else label[len(CONTINUATION) :]), begins
    begins = label[0] == WORD_START or label[0].isspace()
    return (label[1:] if begins else label), begins


def _refuse_notations(labels: Sequence[str]) -> None:
    """Pieces of other notations would be read as letters that nobody says."""
    marked = any(label.startswith((WORD_START, CONTINUATION)) for label in labels)
    for label in labels:
        wrong = next((told for ending, told in _ENDINGS.items() if label.endswith(ending)), "")
        if label.startswith(_BYTE_SPACE) and len(label) > 1 and not marked:
            wrong = f"is bytes as GPT-2 writes them ({_BYTE_SPACE} is a space)"
        if any(char == WORD_START or char.isspace() for char in label[1:]):
            wrong = "holds a space behind its first character"
        if wrong and label not in _ENDINGS:
            raise DecodingError(
                f"a vocabulary whose label {label!r} {wrong}",
                "characters, labels of several letters, or pieces like '▁Haus' or '##es'",
                "rewrite the labels, in their order, in one of these notations",
            )
