"""Capitals and punctuation for a recogniser's words, which come in lower case and without marks.

A small network tags every word with its case and the mark behind it. A word is known by hashed pieces of
its spelling (itself, endings, beginnings), so that compounds nobody has seen still end like nouns.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import Bundle
from engine.errors import BundleSchemaError, ModelError
from engine.runtime.onnx_session import open_session
from engine.types import RuntimeOptions, Word

CASES: Final = ("lower", "title", "upper")
MARKS: Final = ("", ",", ".", "?", "!", ":")
SENTENCE_ENDS: Final = (".", "?", "!")
QUOTES: Final = "\"'»“”)"  # that close
SUFFIXES: Final = (2, 3, 4, 5, 7)
PREFIXES: Final = (3, 5)
N_PIECES: Final = 1 + len(SUFFIXES) + len(PREFIXES)
N_BUCKETS: Final = 32_768
MAX_WORDS: Final = 2_000  # tagged at once; a longer text overlaps by CONTEXT on both sides
CONTEXT: Final = 40
_INPUT: Final = "pieces"
_FIX: Final = "export it with `engine-export punctuation` of this version"


def ends_sentence(text: str) -> bool:
    """Whether a word's mark ends a sentence, quotes behind it or not."""
    return text.rstrip(QUOTES).endswith((*SENTENCE_ENDS, "…"))


@lru_cache(maxsize=65_536)
def hash_pieces(word: str) -> tuple[int, ...]:
    """Buckets of a word's pieces, N_PIECES of them, each 0 to N_BUCKETS - 1."""
    pieces = [f"w{word}"]
    pieces += [f"s{n}{word[-n:]}" for n in SUFFIXES]
    pieces += [f"p{n}{word[:n]}" for n in PREFIXES]
    return tuple(zlib.crc32(piece.encode()) % N_BUCKETS for piece in pieces)


class Punctuator:
    """Restores case and marks. Thread-safe: a call keeps no state."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the punctuation model of a bundle.

        Raises:
            ModelCapabilityError: the bundle has none. BundleSchemaError, ModelError: the graph is no such
                model.
        """
        graph, name = bundle.graph("punctuation"), bundle.file("punctuation").name
        self._session = open_session(graph, RuntimeOptions(device="cpu"), threads=1, name=name)
        if len(self._session.output_names) != 2:
            raise BundleSchemaError(f"{name} gives {self._session.output_names}", "cases and marks", _FIX)
        self._tag(["probe"])

    def punctuate(self, words: Sequence[str]) -> list[str]:
        """The same words with their case and the mark behind each; the last one ends a sentence.

        Args:
            words: lower-case words of one stretch of speech, in order.
        Returns:
            As many words; those without letters are returned as they are.
        """
        if not words:
            return []
        written = []
        for first in range(0, len(words), MAX_WORDS):
            start, end = max(0, first - CONTEXT), min(len(words), first + MAX_WORDS + CONTEXT)
            cases, marks = self._tag(words[start:end])
            if end == len(words):
                marks[-1, [mark not in SENTENCE_ENDS for mark in MARKS]] = -np.inf
            block = slice(first - start, min(first + MAX_WORDS, len(words)) - start)
            written += [
                _write(word, CASES[case], MARKS[mark])
                for word, case, mark in zip(
                    words[start:end][block], cases[block].argmax(1), marks[block].argmax(1), strict=True
                )
            ]
        return written

    def punctuate_words(self, words: Sequence[Word]) -> list[Word]:
        """The same for words with times."""
        texts = self.punctuate([word.text for word in words])
        return [replace(word, text=text) for word, text in zip(words, texts, strict=True)]

    def _tag(self, words: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pieces = np.array([hash_pieces(word) for word in words], np.int64)
        cases, marks = self._session.run({_INPUT: pieces})
        self._session.expect(cases, (len(words), len(CASES)), "cases")
        self._session.expect(marks, (len(words), len(MARKS)), "marks")
        if np.isnan(cases).any() or np.isnan(marks).any():
            raise ModelError(f"{self._session.name} gives scores that are not numbers", "numbers", _FIX)
        return cases, marks


def _write(word: str, case: str, mark: str) -> str:
    if not any(char.isalnum() for char in word):
        return word
    if case == "upper":
        word = _capital(word)
    elif case == "title":
        word = _capital(word[:1]) + word[1:]
    return word + mark


def _capital(letters: str) -> str:
    return letters.replace("ß", "ẞ").upper()  # whose plain capital is SS
