"""The text of a command, sentence by sentence, as an assistant wants to read it."""

from __future__ import annotations

import re
from typing import Final

from engine.text.context import ends_with_ordinal

STOP: Final = "."
NEXT_SENTENCE: Final = re.compile(r"(?<!\d)[.!?…]\s")  # not the point of "3. Mai"


class CommandText:
    """Finals of a stream -> what is sent of each.

    "Milch auf die Liste." would put "Liste." or "Milch." on it: assistants take words as they are written. So
    a text of a single sentence loses the full stop at its end. That it is single is known at the end only:
    each full stop waits for what follows it.

    Attributes:
        text: what was sent.
    """

    def __init__(self, full_stop: bool) -> None:
        """Begin empty.

        Args:
            full_stop: keep it in any case.
        """
        self.text = ""
        self._always, self._held = full_stop, ""

    def add(self, text: str) -> str:
        """What is to be sent now, for the next final."""
        if not text:
            return ""
        before = f"{self._held} " if self.text else ""
        cut = text.endswith(STOP) and not text.endswith("...") and text != STOP
        cut = cut and not ends_with_ordinal(text)  # "am 3."
        self._held = STOP if cut else ""
        return self._send(before + (text[: -len(STOP)] if cut else text))

    def finish(self) -> str:
        """The rest, perhaps nothing."""
        held, self._held = self._held, ""
        return self._send(held) if self._always or NEXT_SENTENCE.search(self.text) else ""

    def _send(self, text: str) -> str:
        self.text += text
        return text
