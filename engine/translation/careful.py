"""Translation that drops nothing: what must be copied is; without a number or a name it is tried again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Final

from engine.translation.masking import MAX_SWAPS, Masked, has_single_quotes, mask, plain_quotes
from engine.translation.names import Name, NameFinder
from engine.translation.placeables import Span, find_spans
from engine.translation.quantities import Quantity, missing_numbers, spell_digits
from engine.translation.rewording import reword
from engine.translation.simpler_numbers import Swapped, swap_numbers, write_english
from engine.translation.tokenizer import Tokenizer
from engine.types import TranslationHypothesis

# Attempts: 0 the sentence, then with stand-ins for names that are missing; 1 other stand-ins, and numbers in
# digits; SIMPLER numbers; in PIECES.
SIMPLER: Final = 2
PIECES: Final = 3
NAME_FROM: Final = 0.3  # probability from which a word has to be in the translation
MANGLED_FROM: Final = 0.05  # the same where the translation has a capitalised word like it
ALIKE: Final = 0.6  # of two words, by difflib
SHOWN: Final = 60  # characters of a sentence in a warning
_SPACE_BEFORE = re.compile(r"(?<=\w) (?=[.,;:!?](?:\s|$))")
_CLAUSE = re.compile(r"(?<=[,;:–])\s+")
_LETTER = re.compile(r"[^\W_]")
_WORD = re.compile(r"[^\W\d_]+")

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
    names: tuple[Name, ...] = ()
    named: Masked | None = None
    best: TranslationHypothesis | None = None
    shape: Masked | None = None
    lost: list[str] = field(default_factory=list)
    missing: list[Name] = field(default_factory=list)
    numbers: list[Quantity] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """Whether another attempt could find more."""
        return self.best is None or bool(self.lost) or any(number.firm for number in self.numbers)

    def offer(
        self, found: TranslationHypothesis, attempt: int, swapped: Swapped | None = None, named: bool = False
    ) -> None:
        """Keep a translation of the masked text if it lacks less than the one before.

        Args:
            found: of the text of an attempt; of attempt None with the originals in place.
            swapped: numbers that stood for others in the text.
            named: whether it is of the text with stand-ins for names.
        """
        shape = self.named if named and self.named else self.masked
        english = write_english(swapped.put_back(found.text) if swapped else found.text, self.german)
        numbers = missing_numbers(self.masked.source(0), english)
        lost: list[str] = []
        if attempt < PIECES:
            english, lost = shape.put_back(english, attempt)
            lost += shape.strangers(english, self.german) if shape.swaps else []
        lost = lost if english.strip() else [self.german]
        missing = self._missing(shape.filled(english))
        now = _badness(self.lost, self.numbers, self.missing)
        if self.best is None or _badness(lost, numbers, missing) < now:
            self.best, self.shape = replace(found, text=english), shape
            self.lost, self.numbers, self.missing = lost, numbers, missing

    def _missing(self, english: str) -> list[Name]:
        """Names of the sentence that its translation lacks."""
        words = _WORD.findall(english)
        said = {word.lower() for word in words}
        new = [
            word.lower() for word in words if word[0].isupper() and word.lower() not in self.german.lower()
        ]
        absent = [name for name in self.names if _WORD.findall(self.word(name).lower())[-1] not in said]
        return [
            name
            for name in absent
            if name.probability >= NAME_FROM or _has_like(new, self.word(name).lower())
        ]

    def word(self, name: Name) -> str:
        """A name as the sentence writes it."""
        return self.german[name.start : name.end]

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
        shape = self.shape or self.masked
        return replace(self.best, text=shape.finish(self.best.text, marked), warnings=warnings)


def _has_like(words: Sequence[str], name: str) -> bool:
    """Whether a word is nearly the name: what became of it."""
    return any(word[0] == name[0] and SequenceMatcher(None, word, name).ratio() >= ALIKE for word in words)


def _badness(
    lost: Sequence[str], numbers: Sequence[Quantity], missing: Sequence[Name]
) -> tuple[int, int, int, int]:
    """What is copied goes before numbers: in pieces it is always there, and of a number a warning tells."""
    return len(lost), sum(number.firm for number in numbers), len(missing), len(numbers)


def translate_carefully(
    sentences: Sequence[str], characters: Characters, translate: Translate, finder: NameFinder | None = None
) -> list[TranslationHypothesis]:
    """Translate sentences so that addresses, numbers, markup, names and unknown words are in the result.

    Args:
        sentences: clean German; what one becomes does not depend on the others.
        characters: of the model.
        translate: several texts to hypotheses of each, best first.
        finder: of names; None leaves them to the model.
    Returns:
        The best hypothesis of each. Its warnings name the numbers that are missing after all attempts.
    """
    jobs = {text: _Job(text, prepare(text, characters)) for text in dict.fromkeys(sentences)}
    if finder is not None:
        for job in jobs.values():
            job.names = tuple(finder.find(job.german, MANGLED_FROM))
    todo = [job for job in jobs.values() if not job.masked.is_copied]
    inner = {text: job.masked.marked_texts() for text, job in jobs.items()}
    marked = _try(todo, 0, translate, [text for texts in inner.values() for text in texts])
    _try_names([job for job in todo if job.missing], characters, translate)
    for attempt in range(1, PIECES):
        _try([job for job in todo if job.is_open], attempt, translate)
    _try_pieces([job for job in todo if job.is_open], translate)
    return [jobs[text].result([marked[part] for part in inner[text]]) for text in sentences]


def prepare(text: str, characters: Characters, names: Sequence[Name] = ()) -> Masked:
    """A sentence in words that the model knows, with stand-ins for what is copied and for these names."""
    knows = characters.knows

    def cut(part: str) -> list[Span]:
        return find_spans(part, characters.unknown, lambda text: reword(plain_quotes(text, knows), knows))

    spans: list[Span] = []
    done = 0
    for start, end, in_place in _joined(names, text):
        spans += [*cut(text[done:start]), Span("word" if in_place else "person", text[start:end])]
        done = end
    spans += cut(text[done:])
    return mask(spans, characters.unknown, has_single_quotes(text))


def _joined(names: Sequence[Name], text: str) -> list[tuple[int, int, bool]]:
    """Places of names; those with nothing but a space between them are one."""
    found: list[tuple[int, int, bool]] = []
    for name in names:
        if found and text[found[-1][1] : name.start] == " ":
            found[-1] = (found[-1][0], name.end, found[-1][2])
        else:
            found.append((name.start, name.end, name.in_place))
    return found


def _try_names(jobs: Sequence[_Job], characters: Characters, translate: Translate) -> None:
    """Translate with stand-ins for the names that are missing: of the likely kind, then of the other."""
    for job in jobs:
        likely = sorted(job.missing, key=lambda name: -name.probability)
        chosen = likely[: max(0, MAX_SWAPS - len(job.masked.swaps))]
        if chosen:
            job.named = prepare(job.german, characters, sorted(chosen, key=lambda name: name.start))
    for attempt in range(2):
        waiting = [job for job in jobs if job.missing and job.named]
        texts = [job.named.source(attempt) for job in waiting if job.named]
        unique = list(dict.fromkeys(texts))
        found = dict(zip(unique, translate(unique) if unique else [], strict=True))
        for job, text in zip(waiting, texts, strict=True):
            for hypothesis in found[text]:
                job.offer(hypothesis, attempt, named=True)


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
