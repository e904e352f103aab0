"""How the finals of a stream are written: each knows the text before it, none can change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from engine.output.capitals import capitalise_first
from engine.output.numbers import write_digits
from engine.output.punctuation import SENTENCE_ENDS, Punctuator, ends_sentence
from engine.text import strip_words
from engine.types import DecodingOptions, Passes, Word

CONTEXT_WORDS: Final = 40  # of the text before, for case and punctuation


class FinalWriter:
    """Capitals, punctuation and numbers of one stream's finals."""

    def __init__(self, options: DecodingOptions, passes: Passes, punctuator: Punctuator | None) -> None:
        """Start a text.

        Args:
            passes: the second pass writes capitals and punctuation itself; to the first they are added.
            punctuator: of the bundle, where it has one.
        """
        self._options, self._passes, self._punctuator = options, passes, punctuator
        self._before: list[str] = []  # words as they were recognised
        self._sentence_ended = True

    def write(self, words: Sequence[Word], ended: bool) -> list[Word]:
        """The words of the next final as they are read.

        Args:
            words: as the search gave them; may be none.
            ended: whether a pause or a sentence ended them; else the speaker goes on in the same sentence.
        """
        written = self._punctuate(words, ended)
        self._before = [*self._before, *(word.text for word in words)][-CONTEXT_WORDS:]
        if not written:
            return []
        self._sentence_ended = ends_sentence(written[-1].text)
        return written if self._options.numbers == "words" else write_digits(written)

    def mark(self, words: Sequence[Word]) -> list[str]:
        """The words that follow as they would be read, each with its marks; nothing is remembered."""
        texts = [word.text for word in words]
        if self._passes == 2 or self._punctuator is None or not texts:
            return texts
        return self._read(self._punctuator, texts)

    def _read(self, punctuator: Punctuator, texts: Sequence[str]) -> list[str]:
        return punctuator.punctuate([*self._before, *texts])[len(self._before) :]

    def _punctuate(self, words: Sequence[Word], ended: bool) -> list[Word]:
        if not self._options.punctuation:
            return strip_words(words) if self._passes == 2 else list(words)
        if self._passes == 2:
            written = list(words)
        elif self._punctuator is not None:
            written = self._add(words, self._punctuator, ended)
        else:
            return list(words)
        return capitalise_first(written) if self._sentence_ended else written

    def _add(self, words: Sequence[Word], punctuator: Punctuator, ended: bool) -> list[Word]:
        texts = self._read(punctuator, [word.text for word in words])
        if not ended:  # the end of what is punctuated always ends a sentence; here it is none
            texts[-1] = texts[-1].rstrip("".join(SENTENCE_ENDS)) or texts[-1]
        return [replace(word, text=text) for word, text in zip(words, texts, strict=True)]
