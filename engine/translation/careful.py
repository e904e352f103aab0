"""Translation that drops nothing: what must be copied is; a sentence that lacks a number is tried again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from engine.translation.masking import MAX_SWAPS, Masked, has_single_quotes, mask, plain_quotes
from engine.translation.placeables import find_spans
from engine.translation.quantities import Quantity, missing_numbers, spell_digits
from engine.translation.rewording import reword
from engine.translation.simpler_numbers import Swapped, swap_numbers, write_english
from engine.translation.tokenizer import Tokenizer
from engine.types import TranslationHypothesis

# Attempts: 0 the sentence; 1 other stand-ins, and numbers in digits; SIMPLER numbers; in PIECES.
SIMPLER: Final = 2
PIECES: Final = 3
SHOWN: Final = 60  # characters of a sentence in a warning
_SPACE_BEFORE = re.compile(r"(?<=\w) (?=[.,;:!?](?:\s|$))")
_CLAUSE = re.compile(r"(?<=[,;:–])\s+")
_LETTER = re.compile(r"[^\W_]")

Translate = Callable[[list[str]], list[list[TranslationHypothesis]]]


class Characters:
    """Which characters a tokenizer has. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._is_unknown = lru_cache(maxsize=4096)(lambda char: _is_unknown(tokenizer, char))

    def unknown(self, text: str) -> set[str]:
        """Characters of a text that the model does not have."""
        return {char for char in set(text) if not char.isspace() and self._is_unknown(char)}

    def knows(self, char: str) -> bool:
        """Whether the model has a character."""
        return not self._is_unknown(char)


def _is_unknown(tokenizer: Tokenizer, char: str) -> bool:
    """Whether no piece has it, or only bytes: a small model cannot be trusted to spell in these.

    Also what a tokenizer leaves out: joiners and selectors that hold an emoji together, its own space.
    """
    if unicodedata.category(char) == "Cf" or char in "\ufe0f\u2581":
        return True
    ids = tokenizer.encode([f"a{char}a"])[0]
    return tokenizer.unk_id in ids or not tokenizer.byte_ids.isdisjoint(ids)


@dataclass
class _Job:
    """One sentence, and the best that was found for it."""

    german: str
    masked: Masked
    best: TranslationHypothesis | None = None
    lost: list[str] = field(default_factory=list)
    numbers: list[Quantity] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether another attempt could find more."""
        return self.best is None or bool(self.lost) or any(number.firm for number in self.numbers)

    def offer(self, found: TranslationHypothesis, attempt: int, swapped: Swapped | None = None) -> None:
        """Keep a translation of the masked text if it lacks less than the one before.

        Args:
            found: of the text of an attempt; of attempt None with the originals in place.
            swapped: numbers that stood for others in the text.
        """
        english = write_english(swapped.put_back(found.text) if swapped else found.text, self.german)
        numbers = missing_numbers(self.masked.source(0), english)
        lost: list[str] = []
        if attempt < PIECES:
            english, lost = self.masked.put_back(english, attempt)
        lost = lost if english.strip() else [self.german]
        if self.best is None or _badness(lost, numbers) < _badness(self.lost, self.numbers):
            self.best, self.lost, self.numbers = replace(found, text=english), lost, numbers

    def result(self, marked: Sequence[Sequence[str]]) -> TranslationHypothesis:
        """The sentence with its marks, and a warning for each number that is not in it."""
        if self.best is None:
            return TranslationHypothesis(self.german, 0.0, 0.0)
        shown = self.german if len(self.german) <= SHOWN else f"{self.german[: SHOWN - 3]}..."
        warnings = tuple(
            f"the number {number.text!r} is not in the translation of {shown!r}"
            for number in self.numbers
            if number.firm
        )
        return replace(self.best, text=self.masked.finish(self.best.text, marked), warnings=warnings)


def _badness(lost: Sequence[str], numbers: Sequence[Quantity]) -> tuple[int, int]:
    return len(lost) + sum(number.firm for number in numbers), len(numbers)


def translate_carefully(
    sentences: Sequence[str], characters: Characters, translate: Translate
) -> list[TranslationHypothesis]:
    """Translate sentences so that addresses, numbers, markup and unknown words are in the result.

    Args:
        sentences: clean German; what one becomes does not depend on the others.
        characters: of the model.
        translate: several texts to hypotheses of each, best first.
    Returns:
        The best hypothesis of each. Its warnings name the numbers that are missing after all attempts.
    """
    jobs = {text: _Job(text, prepare(text, characters)) for text in dict.fromkeys(sentences)}
    todo = [job for job in jobs.values() if not job.masked.is_copied]
    inner = {text: job.masked.marked_texts() for text, job in jobs.items()}
    marked = _try(todo, 0, translate, [text for texts in inner.values() for text in texts])
    for attempt in range(1, PIECES):
        _try([job for job in todo if job.is_open], attempt, translate)
    _try_pieces([job for job in todo if job.is_open], translate)
    return [jobs[text].result([marked[part] for part in inner[text]]) for text in sentences]


def prepare(text: str, characters: Characters) -> Masked:
    """A sentence in words that the model knows, with stand-ins for what is copied."""
    knows = characters.knows
    spans = find_spans(text, characters.unknown, lambda part: reword(plain_quotes(part, knows), knows))
    return mask(spans, characters.unknown, has_single_quotes(text))


def _try(
    jobs: Sequence[_Job], attempt: int, translate: Translate, more: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Translate the text of an attempt of every job that has a new one; and return what more texts become."""
    texts: dict[str, list[tuple[_Job, Swapped | None]]] = {}
    for job in jobs:
        if len(job.masked.swaps) > MAX_SWAPS:
            continue
        text, swapped = job.masked.source(attempt), None
        if attempt > 0 and job.numbers:
            text = spell_digits(text)
        if attempt == SIMPLER and job.numbers:
            swapped = swap_numbers(text, [number for number in job.numbers if number.firm])
            text = swapped.text
        if text not in job.tried:
            job.tried.add(text)
            texts.setdefault(text, []).append((job, swapped))
    every = list(dict.fromkeys([*texts, *more]))
    found = dict(zip(every, translate(every) if every else [], strict=True))
    for text, waiting in texts.items():
        for job, swapped in waiting:
            for hypothesis in found[text]:
                job.offer(hypothesis, attempt, swapped)
    return {text: [hypothesis.text for hypothesis in found[text]] for text in more}


def _try_pieces(jobs: Sequence[_Job], translate: Translate) -> None:
    """Translate what stands between copied things, and clauses, each by itself."""
    split = [_split(job) for job in jobs]
    texts = list(dict.fromkeys(text for pieces in split for text, copied in pieces if not copied))
    found = dict(zip(texts, translate(texts) if texts else [], strict=True))
    for job, pieces in zip(jobs, split, strict=True):
        whole = [
            TranslationHypothesis(text, 0.0, 1.0) if copied else found[text][0] for text, copied in pieces
        ]
        job.offer(join_hypotheses(whole), PIECES)


def _split(job: _Job) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    for text, copied in job.masked.pieces():
        parts = [text] if copied or not job.numbers else _CLAUSE.split(text)
        pieces += [(part.strip(), copied or not _LETTER.search(part)) for part in parts if part.strip()]
    return pieces


def join_hypotheses(parts: Sequence[TranslationHypothesis]) -> TranslationHypothesis:
    """Translations of the parts of a text as one: sum of scores, mean confidence weighted by length."""
    weights = [len(part.text) + 1 for part in parts]
    confidence = sum(p.confidence * w for p, w in zip(parts, weights, strict=True)) / max(1, sum(weights))
    text = _SPACE_BEFORE.sub("", " ".join(part.text for part in parts if part.text))
    warnings = tuple(warning for part in parts for warning in part.warnings)
    return TranslationHypothesis(text, sum(part.score for part in parts), confidence, warnings)
