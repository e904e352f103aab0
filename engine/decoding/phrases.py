"""Hotwords as people write them -> the labels that CTC hears: hyphens, accents, digits, abbreviations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from engine.decoding.labels import Labels, compose
from engine.text import normalize_text

MAX_NAMED: Final = 10  # hotwords that a warning lists
UNSPOKEN_SIGNS: Final = "#@"  # punctuation to Unicode, and said as a word
ABBREVIATIONS: Final = {
    "dr": "doktor", "prof": "professor", "hr": "herr", "fr": "frau", "st": "sankt", "nr": "nummer",
    "str": "straße", "dipl": "diplom", "ing": "ingenieur",
}  # fmt: skip
_ABBREVIATION: Final = re.compile(rf"\b({'|'.join(ABBREVIATIONS)})\.", re.IGNORECASE)


def spell_phrase(labels: Labels, phrase: str) -> list[tuple[int, ...]]:
    """Spell a hotword in all the ways in which it may be recognised.

    Args:
        labels: the CTC vocabulary.
        phrase: words separated by spaces, in any case, composed or not. What the labels cannot spell as it
            is written is spelled as it is said: "U-Bahn" as two words, "René" without the accent, "3D" and
            "2024" in words, "Dr. Müller" also with "doktor". Labels with capitals and small letters: as it is
            written, with a capital at the start, and in small letters.
    Returns:
        The letters of each way, none twice; empty where a letter, digit or sign has no label.
    """
    phrase = compose(phrase)
    as_written = _spell_words(labels, phrase.split())
    if as_written is not None:
        cases = [phrase[:1].upper() + phrase[1:], phrase.lower()] if labels.cased else []
        others = [_spell_words(labels, compose(case).split()) for case in cases]
        return list(dict.fromkeys([as_written, *(way for way in others if way is not None)]))
    if not all(map(_is_said, phrase)):
        return []
    spoken = [phrase, _ABBREVIATION.sub(lambda match: f"{ABBREVIATIONS[match[1].lower()]} ", phrase)]
    ways = [_spell_words(labels, normalize_text(text).split()) for text in spoken]
    return list(dict.fromkeys(way for way in ways if way is not None))


def find_unspelled(labels: Labels, phrases: Sequence[str]) -> list[str]:
    """Those of some hotwords that the labels cannot spell."""
    return [phrase for phrase in phrases if not spell_phrase(labels, phrase)]


def describe_unspelled(phrases: Sequence[str]) -> str:
    """The text of the warning about hotwords that count for nothing."""
    named = ", ".join(map(repr, phrases[:MAX_NAMED]))
    more = f" and {len(phrases) - MAX_NAMED} more" if len(phrases) > MAX_NAMED else ""
    return f"hotwords that the model's letters cannot spell are left out: {named}{more}"


def _spell_words(labels: Labels, words: Sequence[str]) -> tuple[int, ...] | None:
    if not words or (len(words) > 1 and labels.space < 0):
        return None
    tokens: list[int] = []
    for word in words:
        ids = labels.encode(word) or labels.encode(word.lower()) or labels.encode(word.upper())
        if ids is None:
            return None
        tokens += [labels.space, *ids] if tokens else ids
    return tuple(tokens)


def _is_said(char: str) -> bool:
    """Whether normalisation keeps a character, or it is a mark that nobody says."""
    if unicodedata.category(char)[0] in "PZ" and char not in UNSPOKEN_SIGNS:
        return True
    return bool(normalize_text(char))
