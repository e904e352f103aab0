"""Where a line or a cue of subtitles may end well: after a sentence, a clause, never after an article."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from engine.text.context import STARTERS, word_behind

LINE_CHARS: Final = 42  # what broadcasters use for Latin script
CUE_LINES: Final = 2

# What a break after a word costs; a break anywhere else costs BAD.
SENTENCE, CLAUSE, PLAIN, BAD = 0.0, 0.7, 2.5, 4.0
_SENTENCE_ENDS: Final = (".", "!", "?", "…", ":")
_CLAUSE_ENDS: Final = (",", ";", "–", "—")
_CLOSING: Final = "\"'»«“”’)]"
_ABBREVIATIONS: Final = frozenset(
    "dr. prof. hr. fr. st. nr. bzw. ca. z.b. d.h. u.a. usw. etc. mr. mrs. ms. e.g. i.e. vs. no.".split()
)
# Words that belong to the next one: German and English articles, prepositions, conjunctions.
_LEANING: Final = frozenset(
    (
        "der die das den dem des ein eine einen einem einer eines kein keine im in am an auf aus bei mit "
        "nach von vom zu zum zur für über unter vor hinter neben durch gegen ohne um und oder aber denn "
        "dass weil wenn als wie ob mein dein sein ihr unser so the a an of to at on by for from with into "
        "and or but that because if than my your his her its our their"
    ).split()
)


def break_cost(word: str, following: str = "") -> float:
    """What it costs to end a line or a cue after this word: SENTENCE, CLAUSE, PLAIN or BAD.

    Args:
        following: the next word, where there is one: it tells whether "3." ends a sentence.
    """
    bare = word.rstrip(_CLOSING)
    if bare.endswith(_SENTENCE_ENDS) and not _is_abbreviation(bare):
        return SENTENCE
    if bare[:-1].isdecimal() and bare.endswith(".") and word_behind(following, 0) in STARTERS:
        return SENTENCE
    if bare.endswith(_CLAUSE_ENDS):
        return CLAUSE
    return BAD if word.lower() in _LEANING or _is_abbreviation(bare) else PLAIN


def _is_abbreviation(word: str) -> bool:
    """An abbreviation, an ordinal such as `3.`, or an initial."""
    number = word.endswith(".") and (word[:-1].isdecimal() or (len(word) == 2 and word[0].isalpha()))
    return number or word.lower() in _ABBREVIATIONS


def count_chars(tokens: Sequence[str]) -> int:
    """Characters of tokens with a space between each."""
    return sum(map(len, tokens)) + max(len(tokens) - 1, 0)


@functools.lru_cache(4096)
def wrap(tokens: tuple[str, ...], width: int = LINE_CHARS) -> tuple[int, ...]:
    """Break tokens into the fewest lines of at most `width` characters, at good places, of similar lengths.

    Args:
        tokens: words; one longer than a line has a line for itself.
    Returns:
        The number of tokens in each line.
    """
    best: list[tuple[int, float, int]] = [(0, 0.0, 0)]  # lines, cost, first token of the last line
    for end in range(1, len(tokens) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            chars = count_chars(tokens[start:end])
            if chars > width and start < end - 1:
                break
            spare = max(width - chars, 0) / width
            ended = 0.0 if end == len(tokens) else break_cost(tokens[end - 1], tokens[end])
            options.append((best[start][0] + 1, best[start][1] + 4.0 * spare * spare + 0.25 * ended, start))
        best.append(min(options))
    counts: list[int] = []
    end = len(tokens)
    while end:
        counts.append(end - best[end][2])
        end = best[end][2]
    return tuple(reversed(counts))


def fits(tokens: Sequence[str], width: int = LINE_CHARS) -> bool:
    """Whether tokens fit into one cue of lines of `width` characters; a single word always does."""
    n_lines, used = 1, -1
    for token in tokens:
        used += 1 + len(token)
        if used > width and used > len(token):
            n_lines, used = n_lines + 1, len(token)
    return len(tokens) == 1 or n_lines <= CUE_LINES
