"""The values that cross the public API: frozen, hashable where possible, and free of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.errors import OptionError

Device = Literal["auto", "cpu", "cuda"]
ComputeType = Literal["auto", "int8", "bf16", "fp16", "fp32"]
Numbers = Literal["words", "digits"]
Backend = Literal["auto", "kernels", "onnxruntime"]
Progress = Callable[[float, float], None]  # (done_s, total_s) of audio, or (done, total) sentences
NO_STAGES: Mapping[str, float] = {}


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
    """One reading of one utterance.

    Attributes:
        text: words joined by single spaces.
        words: the same, with times relative to the utterance.
        acoustic_score: natural-log CTC score, summed over the alignments that were kept; with two passes, of
            the letters of the text.
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
    """

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Transcript:
    """German text of one recording.

    Attributes:
        segments: in order of time.
        duration_s: length of the audio in seconds.
        language: BCP 47 code.
        stages_s: seconds spent in audio, features, encoder, decode.
    """

    segments: tuple[Segment, ...]
    duration_s: float
    language: str = "de"
    stages_s: Mapping[str, float] = field(default_factory=lambda: NO_STAGES, compare=False)

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
    """

    segments: tuple[Segment, ...]
    source: Transcript
    language: str = "en"
    stages_s: Mapping[str, float] = field(default_factory=lambda: NO_STAGES, compare=False)

    @property
    def text(self) -> str:
        """All segments joined by spaces."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return self.source.duration_s


@dataclass(frozen=True, slots=True)
class TranslationHypothesis:
    """One translation of one text.

    Attributes:
        text: English; empty for a text without words.
        score: natural-log probability of the output tokens, divided by length ** length_penalty.
        confidence: 0 to 1, the geometric mean of the output tokens' probabilities; 0 where the
            text was copied because it is in no script that the model knows.
    """

    text: str
    score: float
    confidence: float


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How emissions become text, and text becomes English. None means: as the bundle was tuned.

    Attributes:
        beam_width: CTC beams; 1 is greedy search without a language model. With two passes the hypotheses of
            the joint search, at most 64.
        lm_alpha: weight of the language model's natural-log score.
        lm_beta: score added for every word.
        hotwords: words or phrases to favour.
        hotword_weight: natural-log bonus for a complete hotword.
        translation_beam_size: beams of the translator; 1 is greedy.
        length_penalty: exponent of the length that a translation's score is divided by.
        vad_filter: cut at pauses and skip what holds no speech.
        punctuation: text with capitals and punctuation, where the bundle has a model for it; without,
            plain lower-case words.
        passes: 1 is CTC beam search alone, 2 adds the attention decoder; None takes the second pass where
            the bundle has one.
        numbers: "words" as they are spoken (neunzehnhundertachtunddreißig), "digits" as written (1938).
    Raises:
        OptionError: hotwords is a string, which would count as its letters; passes is neither 1 nor 2;
            numbers is neither "words" nor "digits".
    """

    beam_width: int | None = None
    lm_alpha: float | None = None
    lm_beta: float | None = None
    hotwords: tuple[str, ...] = ()
    hotword_weight: float = 10.0
    translation_beam_size: int | None = None
    length_penalty: float | None = None
    vad_filter: bool = True
    punctuation: bool = True
    passes: int | None = None
    numbers: Numbers = "words"

    def __post_init__(self) -> None:
        _refuse_string(self.hotwords)
        if self.passes not in (None, 1, 2):
            raise OptionError(f"passes {self.passes!r}", "1 or 2", "leave it out for the model's best")
        if self.numbers not in ("words", "digits"):
            raise OptionError(f"numbers {self.numbers!r}", "words or digits", "name one of these")

    def with_hotwords(self, hotwords: Sequence[str]) -> DecodingOptions:
        """The same with more hotwords."""
        _refuse_string(hotwords)
        return replace(self, hotwords=(*self.hotwords, *hotwords)) if hotwords else self


def _refuse_string(hotwords: Sequence[str]) -> None:
    if isinstance(hotwords, str):
        raise OptionError(f"hotwords {hotwords!r}", "a list of words", f"pass [{hotwords!r}]")


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and with how much of the machine a model runs.

    Attributes:
        device: "auto" takes CUDA where it works, else the CPU.
        compute_type: "auto" takes what the bundle holds for the device; "bf16" computes its acoustic model
            in bfloat16 by our own kernels, whatever it holds.
        threads: 0 takes the cores that this process may use (affinity and cgroup quota).
        backend: "kernels" are our own (x86-64 CPU with AVX2 or more), "auto" takes them where they serve and
            onnxruntime elsewhere.
        gpu_memory_mb: cap of one model's memory arena on the GPU.
        cuda_graphs: replay each of a few fixed shapes as a CUDA graph; wants a graph that takes a mask, and
            memory for the weights once a shape.
    """

    device: Device = "auto"
    compute_type: ComputeType = "auto"
    threads: int = 0
    backend: Backend = "auto"
    gpu_memory_mb: int = 8192
    cuda_graphs: bool = False
