"""What is known of a recording while it is recognised."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from engine.jobs.longform import split_segments
from engine.jobs.translating import translate_together
from engine.runtime.clock import StageClock
from engine.types import Transcript, Translation, TranslationHypothesis, Word

SHARE: Final = 0.1  # of the time, at most, is spent on words that are not the last
Translate = Callable[[list[str]], list[TranslationHypothesis]]  # one a text


class PartialWords:
    """Hands on the words so far; leaves out some where finishing them would take long.

    Args:
        finish: all words -> the same words as they are to be read.
        tell: called with the finished words so far, in the thread that recognises.
    """

    def __init__(
        self, finish: Callable[[list[Word]], list[Word]], tell: Callable[[list[Word]], None]
    ) -> None:
        self._finish, self._tell = finish, tell
        self._began_s, self._spent_s = time.perf_counter(), 0.0

    def __call__(self, words: Sequence[Word]) -> None:
        """Hand on these words, the first of the recording."""
        now_s = time.perf_counter()
        if self._spent_s > SHARE * (now_s - self._began_s):
            return
        finished = self._finish(list(words))
        self._spent_s += time.perf_counter() - now_s
        self._tell(finished)


class PartialTranslations:
    """Hands on the translation so far. A sentence is translated once, unless its text changes.

    So the English of a segment may change when its sentence goes on in the next one.

    Args:
        translate: German texts -> as many English ones; one does not depend on the others.
        tell: called with the translation so far, in the thread that recognises.
    """

    def __init__(self, translate: Translate, tell: Callable[[Translation], None]) -> None:
        self._translate, self._tell = translate, tell
        self._known: dict[str, TranslationHypothesis] = {}
        self._clock = StageClock()

    def __call__(self, words: list[Word]) -> None:
        """Hand on the translation of these words, the first of the recording."""
        segments = split_segments(words)
        self._tell(self.translate(Transcript(segments, segments[-1].end_s if segments else 0.0)))

    def translate(self, transcript: Transcript) -> Translation:
        """Translate a transcript, as far as it has not been; `translate` of its stages is all the time."""
        (found,) = translate_together([transcript], self._once)
        return replace(found, stages_s={**transcript.stages_s, **self._clock.seconds()})

    def _once(self, texts: list[str]) -> list[TranslationHypothesis]:
        with self._clock.time("translate"):
            new = [text for text in dict.fromkeys(texts) if text not in self._known]
            self._known.update(zip(new, self._translate(new), strict=True))
        return [self._known[text] for text in texts]


def join_words(words: Sequence[Word]) -> str:
    """The words as a text."""
    return " ".join(word.text for word in words)
