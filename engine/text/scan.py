"""Text to pieces: what stays as it is, and numbers and signs with everything that people say for them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

from engine.text.clock import read_date, read_time
from engine.text.found import Found
from engine.text.ordinal import read_compound, read_ordinal, read_roman
from engine.text.quantity import GLYPHS, read_fraction, read_quantity, read_version
from engine.text.signs import read_between, read_phone, read_score, read_sign
from engine.text.units import SIGNS
from engine.text.words import Forms

Piece = str | Forms  # text that stays as it is, or the ways to say what stood there

_START = re.compile(
    rf"[0-9{GLYPHS}{re.escape(''.join(SIGNS))}]|[-−–+(](?=[\d(])|/(?=\d)|(?<=\S)\s?[-–—]\s?(?=\d)|\s?[+=×x*÷]\s?(?=\d)"
    r"|(?<![^\W_])(?:EUR|USD|CHF)\s?(?=\d)|(?<![^\W_])[IVX]{1,7}(?![\w'’])"
)
_OTHER_DIGITS = re.compile(r"[^\W\D0-9]")
# The order matters: 1.5.2024 is no version, 14:30 no score, 10 000 no phone number.
READERS: Final[tuple[Callable[[str, int], Found | None], ...]] = (
    read_between, read_phone, read_date, read_time, read_score, read_fraction, read_compound, read_ordinal,
    read_version, read_quantity, read_sign, read_roman,
)  # fmt: skip


def scan(text: str) -> list[Piece]:
    """Split text at its numbers and signs.

    Args:
        text: German, as written; capitals tell more than lower case.
    Returns:
        Pieces in order: text without digits as str, everything else as a tuple of ways to say it, the first
        of which is the usual one.
    """
    text = _OTHER_DIGITS.sub(lambda match: str(unicodedata.decimal(match[0])), text)
    pieces: list[Piece] = []
    done, at = 0, 0
    while match := _START.search(text, at):
        found = _read(text, match.start())
        if found is None:
            at = match.start() + 1
            continue
        if match.start() > done:
            pieces.append(text[done : match.start()])
        pieces += found.parts
        done = at = found.end
    return [*pieces, text[done:]] if done < len(text) else pieces


def _read(text: str, at: int) -> Found | None:
    for reader in READERS:
        if (found := reader(text, at)) and found.end > at:
            return found
    return None
