"""Tokens as words: what is written, the letters that were spoken, and how sure the decoder was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.decoding.labels import Labels
from engine.two_pass.search import TokenHypothesis
from engine.two_pass.spelling import spell_character


@dataclass(frozen=True, slots=True)
class WrittenWord:
    """A word as it is read.

    Attributes:
        text: with capitals and marks; marks that stand alone belong to the word before them.
        spoken: CTC labels of each of its spoken words: two of "E-Mail".
        log_prob: natural log of the probability of its tokens with letters.
    """

    text: str
    spoken: tuple[tuple[int, ...], ...]
    log_prob: float


def read_words(found: TokenHypothesis, tokens: Sequence[str], labels: Labels) -> list[WrittenWord]:
    """Words of a hypothesis; joined by spaces they are its text.

    tokens: str by id. labels: of the CTC vocabulary.
    """
    text = "".join(tokens[token] for token in found.tokens)
    log_probs = _place_log_probs(found, tokens)
    words: list[WrittenWord] = []
    before, at = "", 0
    for part in text.split(" "):
        spoken = _spell(part, labels)
        log_prob = sum(log_probs[at : at + len(part)])
        at += len(part) + 1
        if spoken:
            words.append(WrittenWord(before + part, spoken, log_prob))
            before = ""
        elif part and words:
            last = words[-1]
            words[-1] = WrittenWord(f"{last.text} {part}", last.spoken, last.log_prob + log_prob)
        elif part:
            before += f"{part} "
    return words


def _place_log_probs(found: TokenHypothesis, tokens: Sequence[str]) -> list[float]:
    """Each token's log-probability at the place of its first letter in the text; 0 elsewhere."""
    placed: list[float] = []
    for token, log_prob in zip(found.tokens, found.log_probs, strict=True):
        text = tokens[token]
        here = [0.0] * len(text)
        first = next((i for i, char in enumerate(text) if char.isalpha()), None)
        if first is not None:
            here[first] = log_prob
        placed += here
    return placed


def _spell(part: str, labels: Labels) -> tuple[tuple[int, ...], ...]:
    """Labels of the spoken words of one written word."""
    spoken: list[list[int]] = [[]]
    for char in part:
        ids = spell_character(char, labels)
        if ids:
            spoken[-1] += ids
        elif spoken[-1]:
            spoken.append([])
    return tuple(tuple(ids) for ids in spoken if ids)
