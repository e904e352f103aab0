"""The values that cross the public API: frozen, hashable where possible, and free of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.options import (
    AudioOptions,
    Backend,
    Channels,
    ComputeType,
    DecodingOptions,
    Device,
    HotwordOptions,
    LanguageModelOptions,
    Numbers,
    OutputOptions,
    Passes,
    RuntimeOptions,
    SearchOptions,
    TranslationOptions,
)

__all__ = [
    "AudioOptions",
    "Backend",
    "Channels",
    "ComputeType",
    "DecodingOptions",
    "Device",
    "HotwordOptions",
    "Hypothesis",
    "LanguageModelOptions",
    "Numbers",
    "OutputOptions",
    "Passes",
    "Progress",
    "RuntimeOptions",
    "SearchOptions",
    "Segment",
    "StreamEvent",
    "StreamEventKind",
    "Transcript",
    "Translation",
    "TranslationHypothesis",
    "TranslationOptions",
    "Word",
]

# (done_s, total_s) of audio, (done, total) sentences, or (done, total) recordings
Progress = Callable[[float, float], None]
NO_STAGES: Mapping[str, float] = {}
StreamEventKind = Literal["speech_start", "partial", "speech_end", "final", "translation"]


@dataclass(frozen=True, slots=True)
class Word:
    """One word and when it was spoken.

    Attributes:
        text: the word.
        start_s, end_s: seconds from the start of the audio.
        confidence: 0 to 1. With one pass the mean posterior probability of its characters, with two how
            probable it is that the word is right, as it was calibrated for the model.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One possible text of one utterance.

    Attributes:
        text: words joined by single spaces.
        words: the same, with times relative to the utterance.
        acoustic_score: natural-log CTC score, summed over the alignments that the search followed; with two
            passes, of the letters of the text.
        lm_score: what the language model (and hotwords) added, natural log, already weighted.
        score: the order of an n-best list: acoustic_score + lm_score, or with two passes the joint search's.
    """

    text: str
    words: tuple[Word, ...]
    acoustic_score: float
    lm_score: float
    score: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech between pauses.

    Attributes:
        text: what was said (German) or its translation (English).
        start_s, end_s: seconds from the start of the audio.
        words: German words with times; empty on the English side.
        confidence: 0 to 1, the mean of the words' confidences (German) or the
            length-normalised probability of the output tokens (English).
        channel: the channel that it was heard on, from 1; None where the channels were mixed.
    """

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    confidence: float = 0.0
    channel: int | None = None

    @property
    def speaker(self) -> str:
        """Who spoke, as far as channels tell: "Speaker 1"; empty where they were mixed."""
        return f"Speaker {self.channel}" if self.channel else ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """German text of one recording.

    Attributes:
        segments: in order of time.
        duration_s: length of the audio in seconds.
        language: BCP 47 code.
        stages_s: seconds spent in audio, features, encoder, decode.
        warnings: what is missing or damaged in the audio, or was chosen or left out; a sentence each. The
            same is given as AudioWarning and HotwordWarning.
    """

    segments: tuple[Segment, ...]
    duration_s: float
    language: str = "de"
    stages_s: Mapping[str, float] = field(default_factory=lambda: NO_STAGES, compare=False)
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All segments joined by spaces."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, with times in seconds from the start of the audio."""
        return tuple(word for segment in self.segments for word in segment.words)


@dataclass(frozen=True, slots=True)
class Translation:
    """English text of one recording, with the German transcript it came from.

    Attributes:
        segments: one for each source segment that holds text, with the same times.
        source: the German transcript.
        language: BCP 47 code.
        stages_s: those of the transcript, plus translate.
        notes: numbers that are missing in the English; a sentence each. The same is given as
            TranslationWarning.
    """

    segments: tuple[Segment, ...]
    source: Transcript
    language: str = "en"
    stages_s: Mapping[str, float] = field(default_factory=lambda: NO_STAGES, compare=False)
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All segments joined by spaces."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return self.source.duration_s

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the transcript, and those of the translation."""
        return (*self.source.warnings, *self.notes)


@dataclass(frozen=True, slots=True)
class TranslationHypothesis:
    """One translation of one text.

    Attributes:
        text: English; empty for a text without words.
        score: natural-log probability of the output tokens, divided by length ** length_penalty.
        confidence: 0 to 1, the geometric mean of the output tokens' probabilities; 0 where the
            text was copied because it is in no script that the model knows.
        warnings: what is missing in the translation; a sentence each.
    """

    text: str
    score: float
    confidence: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something that became known about a stream.

    Attributes:
        kind: "speech_start" and "speech_end", always in pairs, say when somebody speaks; "partial" is a guess
            at the utterance so far and replaces the partial before it; "final" is a segment that never
            changes; "translation" is its English.
        text: German or English; empty for speech_start and speech_end, and for a partial that takes the
            guess before it back.
        start_s, end_s: seconds from the start of the stream: of the text, or the moment when speech starts
            or ends, twice.
        segment: the text with its words (of a translation without) and confidence; None without text.
        segment_id: number of the final segment that the event belongs to, from 0: the same for a final and
            its translation; of other events that of the next final.
        is_endpoint: whether the utterance is over with it: the last final before a pause, or of the stream.
        position_s: seconds of audio that the stream had been given.
        lag_s: how far behind the event is: the seconds since the audio came in that it had to wait for (of a
            partial the newest that it heard, of a final the pause that made it final), computing and waiting
            for a core included; not what a chunk waited before it was fed.
        warnings: of a translation: numbers that are missing in the English; a sentence each.
    """

    kind: StreamEventKind
    text: str
    start_s: float
    end_s: float
    segment: Segment | None
    segment_id: int
    is_endpoint: bool
    position_s: float
    lag_s: float
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[Word, ...]:
        """German words with times; none of a translation."""
        return self.segment.words if self.segment is not None else ()
