"""Case and punctuation of a recognised text: by rule, and from the reference.

Neither is a model that restores punctuation: `sentence_case` is the simplest rule, and
`from_reference` is an upper bound, a perfect model for the words recognised.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.text import normalize_text
from engine.types import Transcript

Restore = Callable[[Transcript], Transcript]


def sentence_case(transcript: Transcript) -> Transcript:
    """A capital at the start of each segment and a full stop at its end; no other changes."""
    segments = [
        replace(segment, text=f"{segment.text[:1].upper()}{segment.text[1:]}.") if segment.text else segment
        for segment in transcript.segments
    ]
    return replace(transcript, segments=tuple(segments))


def from_reference(reference: str) -> Restore:
    """Words that were recognised correctly get case and punctuation of the reference.

    Args:
        reference: German, as written.
    Returns:
        A function from a transcript to one with the same words; wrong words stay as they are.
    """

    def restore(transcript: Transcript) -> Transcript:
        spoken = [segment.text.split() for segment in transcript.segments]
        written = iter(write_like(reference, [word for words in spoken for word in words]))
        texts = [" ".join(next(written) for _ in words) for words in spoken]
        segments = [replace(s, text=text) for s, text in zip(transcript.segments, texts, strict=True)]
        return replace(transcript, segments=tuple(segments))

    return restore


def write_like(reference: str, words: Sequence[str]) -> list[str]:
    """Recognised words in the form that an aligned reference gives them.

    Args:
        reference: as written. A token that is spoken as several words (a number) gives no form.
        words: as recognised.
    Returns:
        As many words.
    """
    tokens = reference.split()
    spoken = [(normalize_text(token).split(), token) for token in tokens]
    forms = [(word, token if len(parts) == 1 else word) for parts, token in spoken for word in parts]
    found = [normalize_text(word) for word in words]
    matcher = difflib.SequenceMatcher(None, [word for word, _ in forms], found, autojunk=False)
    written = list(words)
    for theirs, ours, size in matcher.get_matching_blocks():
        written[ours : ours + size] = [form for _, form in forms[theirs : theirs + size]]
    return written
