"""Which words of a German sentence are names, that is what English writes the same: a small linear model."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from engine.errors import BundleSchemaError

BITS: Final = 16  # of a feature's number
LONGEST: Final = 4  # letters of a part of a word
WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+)[\"'„“”«»(\[]*$")


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a sentence.

    Attributes:
        start, end: its characters.
        probability: that English writes it the same.
        in_place: whether it stands behind a preposition that places take.
    """

    start: int
    end: int
    probability: float
    in_place: bool


_DATES: Final = frozenset(
    "montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag januar jänner februar märz april"
    " mai juni juli august september oktober november dezember".split()
)
PLACE_WORDS: Final = frozenset("aus bei bis in nach um von zwischen ab über durch nahe".split())


class NameFinder:
    """A linear model over letters and neighbours of a word. Safe to share between threads."""

    def __init__(self, weights: NDArray[np.int8], scale: float, bias: float) -> None:
        """Take a model.

        Args:
            weights: int8 [2 ** BITS], of the features (see features).
            scale: what they are multiplied by. bias: log odds of a word without features.
        """
        self._weights, self._scale, self._bias = weights, scale, bias

    @classmethod
    def read(cls, content: bytes, name: str = "mt_names") -> NameFinder:
        """Read what write wrote.

        Raises:
            BundleSchemaError: damaged, or of another version.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                weights, numbers = arrays["weights"], arrays["numbers"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise BundleSchemaError(f"{name}: {error}", "what `engine-train mt-names` wrote") from error
        if weights.shape != (1 << BITS,) or weights.dtype != np.int8 or numbers.shape != (2,):
            raise BundleSchemaError(
                f"{name} with arrays {weights.dtype} {weights.shape}", f"int8 ({1 << BITS},)"
            )
        if not np.isfinite(numbers).all():
            raise BundleSchemaError(f"{name} with numbers {numbers.tolist()}", "finite numbers")
        return cls(weights, float(numbers[0]), float(numbers[1]))

    def write(self) -> bytes:
        """The model as bytes."""
        content = io.BytesIO()
        numbers = np.array([self._scale, self._bias], np.float64)
        np.savez_compressed(content, weights=self._weights, numbers=numbers)
        return content.getvalue()

    def find(self, text: str, at_least: float) -> list[Name]:
        """Names of a sentence, in their order.

        Args:
            text: German with capitals; without them there are none.
            at_least: probability.
        """
        found = []
        words = list(WORD.finditer(text))
        for index, match in enumerate(words):
            if is_candidate(match[0]):
                chance = self._probability(text, words, index)
                if chance >= at_least:
                    before = words[index - 1][0].lower() if index else ""
                    found.append(Name(match.start(), match.end(), chance, before in PLACE_WORDS))
        return found

    def _probability(self, text: str, words: Sequence[re.Match[str]], index: int) -> float:
        numbers = list(features(text, words, index))
        odds = self._bias + self._scale * int(self._weights[numbers].sum(dtype=np.int64))
        return 1.0 / (1.0 + exp(-max(-60.0, min(60.0, odds))))


def is_candidate(word: str) -> bool:
    """Whether a word could be a name: three letters or more, the first a capital, and no day or month."""
    return len(word) > 2 and word[0].isupper() and word.lower() not in _DATES


def features(text: str, words: Sequence[re.Match[str]], index: int) -> Iterator[int]:
    """Numbers, below 2 ** BITS, of what is seen of a word: its parts, and its neighbours.

    Args:
        text: the sentence. words: of WORD in it. index: of the word.
    """
    yield from _of_word(words[index][0])
    before = words[index - 1][0] if index else "<"
    after = words[index + 1][0] if index + 1 < len(words) else ">"
    gap = text[words[index - 1].end() : words[index].start()] if index else ""
    follows = text[words[index].end() : words[index + 1].start()] if index + 1 < len(words) else ""
    opens = _SENTENCE_START.search(text[: words[index].start()]) is not None
    yield _number(f"before {before.lower()}" if gap.strip() == "" else f"gap {gap.strip()[:1]}")
    yield _number(f"after {after.lower()}" if follows.strip() == "" else f"follow {follows.strip()[:1]}")
    yield _number(f"shape {before[0].isupper()} {after[0].isupper()} {opens}")
    yield _number(f"end {before[-2:].lower()} {opens}")
    if index > 1:
        yield _number(f"second {words[index - 2][0].lower()}")


@lru_cache(maxsize=8192)
def _of_word(word: str) -> tuple[int, ...]:
    """Features of a word by itself."""
    low = f"^{word.lower()}$"
    parts = {low[at : at + size] for size in range(2, LONGEST + 1) for at in range(len(low) - size + 1)}
    shape = f"{word.isupper()} {'-' in word} {min(len(word), 14)}"
    named = [f"part {part}" for part in sorted(parts)]
    return tuple(_number(name) for name in [*named, f"word {low}", f"end {low[-5:]}", f"form {shape}"])


def _number(feature: str) -> int:
    return zlib.crc32(feature.encode()) & ((1 << BITS) - 1)
