"""What a reader returns."""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.text.words import Forms

SPACE: Final = "[ \u00a0\u2009\u202f]"


class Found(NamedTuple):
    """A number that was read.

    Attributes:
        parts: one after another, the ways to say each; at least one part.
        end: where the text goes on.
    """

    parts: list[Forms]
    end: int
