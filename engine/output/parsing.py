"""The json format back to a result."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from engine.errors import OptionError
from engine.types import Segment, Transcript, Translation, Word

MAX_SEGMENTS: Final = 50_000
MAX_SEGMENT_WORDS: Final = 100  # the engine has 40, and the 15 s between two finals of a stream fewer than 60
MAX_SECONDS: Final = 1e6
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
_Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Word(msgspec.Struct):
    word: str
    start: _Seconds
    end: _Seconds
    probability: _Probability = 0.0


class _Segment(msgspec.Struct):
    text: str
    start: _Seconds
    end: _Seconds
    confidence: _Probability = 0.0
    channel: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    words: Annotated[list[_Word], msgspec.Meta(max_length=MAX_SEGMENT_WORDS)] = []


class _Transcript(msgspec.Struct):
    segments: Annotated[list[_Segment], msgspec.Meta(max_length=MAX_SEGMENTS)]
    duration: _Seconds = 0.0
    stages_s: dict[str, float] = {}
    warnings: list[str] = []


class _Result(_Transcript):
    source: _Transcript | None = None


def parse_json(content: bytes | str) -> Transcript | Translation:
    """Read what `render(result, "json")` writes.

    Args:
        content: JSON; fields that are not known are ignored, and only the times and texts are required.
    Returns:
        A translation where it has a source, else a transcript.
    Raises:
        OptionError: no JSON, or no result of this engine; says where.
    """
    try:
        found = msgspec.json.decode(content, type=_Result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OptionError(
            f"JSON that is not a result ({error})", "what the json format holds", "send it as it was written"
        ) from error
    if found.source is None:
        return _transcript(found)
    segments = tuple(_segment(segment) for segment in found.segments)
    return Translation(segments, _transcript(found.source), stages_s=found.stages_s)


def _transcript(found: _Transcript) -> Transcript:
    segments = tuple(_segment(segment) for segment in found.segments)
    return Transcript(segments, found.duration, stages_s=found.stages_s, warnings=tuple(found.warnings))


def _segment(found: _Segment) -> Segment:
    words = tuple(_word(word) for word in found.words)
    if len(found.text.split()) > MAX_SEGMENT_WORDS:
        raise OptionError(
            f"a segment of {len(found.text.split())} words, at {found.start:g} s",
            f"at most {MAX_SEGMENT_WORDS}",
            "divide it",
        )
    _check_order(found.start, found.end)
    return Segment(found.text, found.start, found.end, words, found.confidence, found.channel)


def _word(found: _Word) -> Word:
    if not found.word or found.word.split() != [found.word]:
        raise OptionError(f"the word {found.word[:40]!r}", "a word without spaces", "divide it")
    _check_order(found.start, found.end)
    return Word(found.word, found.start, found.end, found.probability)


def _check_order(start_s: float, end_s: float) -> None:
    if end_s < start_s:
        raise OptionError(f"an end at {end_s:g} s before its start at {start_s:g} s", "", "swap them")
