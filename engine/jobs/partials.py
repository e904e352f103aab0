"""Text of a recording while it is recognised."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from engine.types import Word

SHARE: Final = 0.1  # of the time, at most, is spent on text that is not the last


class PartialTexts:
    """Hands on the text so far; leaves out some where writing them would take long.

    Args:
        finish: all words -> the same words as they are to be read.
        tell: called with the text so far, in the thread that recognises.
    """

    def __init__(self, finish: Callable[[list[Word]], list[Word]], tell: Callable[[str], None]) -> None:
        self._finish, self._tell = finish, tell
        self._began_s, self._spent_s = time.perf_counter(), 0.0

    def __call__(self, words: Sequence[Word]) -> None:
        """Hand on the text of these words, the first of the recording."""
        now_s = time.perf_counter()
        if self._spent_s > SHARE * (now_s - self._began_s):
            return
        text = " ".join(word.text for word in self._finish(list(words)))
        self._spent_s += time.perf_counter() - now_s
        self._tell(text)
