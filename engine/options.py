"""What a caller may choose: how speech becomes text, and where a model runs. Checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypedDict, Unpack, get_args

from engine._checks import check_boolean, check_count, check_number, check_one_of, is_count
from engine.errors import OptionError

Device = Literal["auto", "cpu", "cuda"]
ComputeType = Literal["auto", "int8", "bf16", "fp16", "fp32"]
Backend = Literal["auto", "kernels", "onnxruntime"]
Numbers = Literal["words", "digits"]
Passes = Literal[1, 2]
Channels = Literal["mix", "separate"]

MAX_BEAM_WIDTH: Final = 4096
MAX_THREADS: Final = 1024  # more than any machine's cores gain nothing, and cost minutes to start
MAX_LENGTH_PENALTY: Final = 5.0
DETECTORS: Final = ("energy", "silero")
MAX_TRACK: Final = 1000
MAX_WEIGHT: Final = 1000.0  # natural log; beyond it one weight is all that counts


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """What is heard of a recording.

    Attributes:
        channels: "mix" hears the mean of all channels; "separate" hears each by itself, as in calls with a
            speaker on each, and segments say which it was.
        track: audio track of a container, from 1; None takes the first that speaks.
    """

    channels: Channels = "mix"
    track: int | None = None

    def __post_init__(self) -> None:
        check_one_of("channels", self.channels, get_args(Channels))
        _set(self, track=check_count("audio_track", self.track, MAX_TRACK))


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How widely speech is searched. None means: as the bundle was tuned.

    Attributes:
        beam_width: CTC beams; 1 is greedy search without a language model. With two passes the hypotheses of
            the joint search, at most 64.
        passes: 1 is CTC beam search alone, 2 adds the attention decoder; None takes the second pass where
            the bundle has one.
        vad_filter: cut at pauses and skip what holds no speech.
        vad: what finds speech: "energy", our own; "silero", where its ONNX file is installed; or the path of
            that file.
    """

    beam_width: int | None = None
    passes: Passes | None = None
    vad_filter: bool = True
    vad: str = "energy"

    def __post_init__(self) -> None:
        _set(self, beam_width=check_count("beam_width", self.beam_width, MAX_BEAM_WIDTH))
        if self.passes is not None:
            check_one_of("passes", self.passes, get_args(Passes), "leave it out for the model's best")
        check_boolean("vad_filter", self.vad_filter)
        if not isinstance(self.vad, str) or not (self.vad in DETECTORS or self.vad.endswith(".onnx")):
            raise OptionError(f"vad {self.vad!r}", "energy, silero or the path of an .onnx file")


@dataclass(frozen=True, slots=True)
class LanguageModelOptions:
    """How much the language model counts. None means: as the bundle was tuned.

    Attributes:
        alpha: weight of the language model's natural-log score, 0 or more.
        beta: natural-log score added for every word.
    """

    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        check_number("lm_alpha", self.alpha, 0.0, MAX_WEIGHT)
        check_number("lm_beta", self.beta, -MAX_WEIGHT, MAX_WEIGHT)


@dataclass(frozen=True, slots=True)
class HotwordOptions:
    """Words to favour.

    Attributes:
        words: words or phrases.
        weight: natural-log bonus for a complete one; negative makes them less likely.
    """

    words: tuple[str, ...] = ()
    weight: float = 10.0

    def __post_init__(self) -> None:
        _set(self, words=check_hotwords(self.words))
        check_number("hotword_weight", self.weight, -MAX_WEIGHT, MAX_WEIGHT)


@dataclass(frozen=True, slots=True)
class TranslationOptions:
    """How German text becomes English. None means: as the bundle was tuned.

    Attributes:
        beam_size: beams of the translator; 1 is greedy.
        length_penalty: exponent of the length that a translation's score is divided by, -5 to 5.
    """

    beam_size: int | None = None
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        _set(self, beam_size=check_count("translation_beam_size", self.beam_size, MAX_BEAM_WIDTH))
        check_number("length_penalty", self.length_penalty, -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How recognised words are written.

    Attributes:
        punctuation: text with capitals and punctuation, where the bundle has a model for it; without,
            plain lower-case words.
        numbers: "words" as they are spoken (neunzehnhundertachtunddreißig), "digits" as written (1938).
    """

    punctuation: bool = True
    numbers: Numbers = "words"

    def __post_init__(self) -> None:
        check_boolean("punctuation", self.punctuation)
        check_one_of("numbers", self.numbers, get_args(Numbers))


class FlatOptions(TypedDict, total=False):
    """The keywords of DecodingOptions that name one value of one part."""

    channels: Channels
    audio_track: int | None
    beam_width: int | None
    passes: Passes | None
    vad_filter: bool
    vad: str
    lm_alpha: float | None
    lm_beta: float | None
    hotwords: Sequence[str]
    hotword_weight: float
    translation_beam_size: int | None
    length_penalty: float | None
    punctuation: bool
    numbers: Numbers


class PartOptions(TypedDict, total=False):
    """The parts of DecodingOptions."""

    audio: AudioOptions
    search: SearchOptions
    language_model: LanguageModelOptions
    biasing: HotwordOptions
    translation: TranslationOptions
    output: OutputOptions


class AnyOptions(FlatOptions, PartOptions, total=False):
    """Every keyword of DecodingOptions."""


# Flat keyword -> the part that holds it, and its name there.
_FLAT: Final = {
    "channels": ("audio", "channels"),
    "audio_track": ("audio", "track"),
    "beam_width": ("search", "beam_width"),
    "passes": ("search", "passes"),
    "vad_filter": ("search", "vad_filter"),
    "vad": ("search", "vad"),
    "lm_alpha": ("language_model", "alpha"),
    "lm_beta": ("language_model", "beta"),
    "hotwords": ("biasing", "words"),
    "hotword_weight": ("biasing", "weight"),
    "translation_beam_size": ("translation", "beam_size"),
    "length_penalty": ("translation", "length_penalty"),
    "punctuation": ("output", "punctuation"),
    "numbers": ("output", "numbers"),
}


@dataclass(frozen=True, slots=True, init=False)
class DecodingOptions:
    """How emissions become text, and text becomes English: six parts, or flat keywords for single values.

    `DecodingOptions(beam_width=8, hotwords=["Rothenburg"])` says the same as
    `DecodingOptions(search=SearchOptions(beam_width=8), biasing=HotwordOptions(("Rothenburg",)))`.

    Attributes:
        audio: channels and track of a recording.
        search: beams, passes, detection of speech.
        language_model: its weights.
        biasing: hotwords and their weight.
        translation: beams and length penalty of the translator.
        output: punctuation and numbers.
    """

    audio: AudioOptions = field(default_factory=AudioOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    language_model: LanguageModelOptions = field(default_factory=LanguageModelOptions)
    biasing: HotwordOptions = field(default_factory=HotwordOptions)
    translation: TranslationOptions = field(default_factory=TranslationOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    def __init__(self, **given: Unpack[AnyOptions]) -> None:
        """Put the parts together.

        Args:
            given: parts by their names, and values by their flat names (channels, audio_track,
                beam_width, passes, vad_filter, vad, lm_alpha, lm_beta, hotwords, hotword_weight,
                translation_beam_size, length_penalty, punctuation, numbers); a flat value counts more
                than the part that is given beside it.
        Raises:
            OptionError: an unknown keyword, or a value that makes no sense.
        """
        for part in fields(self):
            default: Any = part.default_factory
            _set(self, **{part.name: given.get(part.name, default())})
            _check_part(part.name, getattr(self, part.name), default)
        for name, value in given.items():
            if name in _FLAT:
                part_name, field_name = _FLAT[name]
                _set(self, **{part_name: replace(getattr(self, part_name), **{field_name: value})})
            elif name not in self.__slots__:
                known = ", ".join([*_FLAT, *self.__slots__])
                raise OptionError(f"decoding option {name!r}", f"one of {known}", "check its spelling")

    def replace(self, **changes: Unpack[AnyOptions]) -> DecodingOptions:
        """The same with other values, by the constructor's keywords.

        Raises:
            OptionError: as for the constructor.
        """
        parts: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return DecodingOptions(**{**parts, **changes})

    def with_hotwords(self, hotwords: Sequence[str]) -> DecodingOptions:
        """The same with more hotwords.

        Raises:
            OptionError: a string, which would count as its letters.
        """
        added = check_hotwords(hotwords)
        return self.replace(hotwords=(*self.hotwords, *added)) if added else self

    @property
    def channels(self) -> Channels:
        """audio.channels."""
        return self.audio.channels

    @property
    def audio_track(self) -> int | None:
        """audio.track."""
        return self.audio.track

    @property
    def beam_width(self) -> int | None:
        """search.beam_width."""
        return self.search.beam_width

    @property
    def passes(self) -> Passes | None:
        """search.passes."""
        return self.search.passes

    @property
    def vad_filter(self) -> bool:
        """search.vad_filter."""
        return self.search.vad_filter

    @property
    def vad(self) -> str:
        """search.vad."""
        return self.search.vad

    @property
    def lm_alpha(self) -> float | None:
        """language_model.alpha."""
        return self.language_model.alpha

    @property
    def lm_beta(self) -> float | None:
        """language_model.beta."""
        return self.language_model.beta

    @property
    def hotwords(self) -> tuple[str, ...]:
        """biasing.words."""
        return self.biasing.words

    @property
    def hotword_weight(self) -> float:
        """biasing.weight."""
        return self.biasing.weight

    @property
    def translation_beam_size(self) -> int | None:
        """translation.beam_size."""
        return self.translation.beam_size

    @property
    def length_penalty(self) -> float | None:
        """translation.length_penalty."""
        return self.translation.length_penalty

    @property
    def punctuation(self) -> bool:
        """output.punctuation."""
        return self.output.punctuation

    @property
    def numbers(self) -> Numbers:
        """output.numbers."""
        return self.output.numbers


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where and with how much of the machine a model runs.

    Attributes:
        device: "auto" takes CUDA where it works, else the CPU.
        compute_type: "auto" takes what the bundle holds for the device; "bf16" computes its acoustic model
            in bfloat16 by our own kernels, whatever it holds.
        threads: 0 takes the cores that this process may use (affinity and cgroup quota); at most 1024.
        backend: "kernels" are our own (x86-64 CPU with AVX2 or more), "auto" takes them where they serve and
            onnxruntime elsewhere.
        gpu_memory_mb: limit of one model's memory arena on the GPU, in MiB.
        cuda_graphs: replay each of a few fixed shapes as a CUDA graph; wants a graph that takes a mask, and
            memory for the weights once for each shape.
    Raises:
        OptionError: a value that is none of these.
    """

    device: Device = "auto"
    compute_type: ComputeType = "auto"
    threads: int = 0
    backend: Backend = "auto"
    gpu_memory_mb: int = 8192
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        check_one_of("device", self.device, get_args(Device))
        check_one_of("compute_type", self.compute_type, get_args(ComputeType))
        check_one_of("backend", self.backend, get_args(Backend))
        if not is_count(self.threads, 0, MAX_THREADS):
            raise OptionError(
                f"threads {self.threads!r}", f"a whole number, 0 to {MAX_THREADS}", "0 takes all cores"
            )
        if not is_count(self.gpu_memory_mb, 1, None):
            raise OptionError(f"gpu_memory_mb {self.gpu_memory_mb}", "a size above zero", "pass megabytes")


def check_hotwords(hotwords: Any) -> tuple[str, ...]:
    """Hotwords as a tuple.

    Raises:
        OptionError: a string, which would count as its letters, or items that are no strings.
    """
    if isinstance(hotwords, str):
        raise OptionError(f"hotwords {hotwords!r}", "a list of words", f"pass [{hotwords!r}]")
    try:
        words = tuple(hotwords)
    except TypeError as error:
        raise OptionError(f"hotwords {hotwords!r}", "a list of words", "pass a list of strings") from error
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise OptionError(f"hotword {wrong[0]!r}", "a string", "pass a list of strings")
    return words


def _set(target: object, **values: Any) -> None:
    """Set fields of a frozen object while it is made."""
    for name, value in values.items():
        object.__setattr__(target, name, value)


def _check_part(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise OptionError(f"{name} {value!r}", kind.__name__, f"pass {kind.__name__}(...)")
