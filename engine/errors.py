"""The errors of the runtime: every message says what was got, what was wanted, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_LISTED = 10  # problems of a manifest that are shown
MAX_CHARS, MAX_PROBLEM_CHARS = (
    4_000,
    300,
)  # of a message and of one problem in it: a value may be a whole file


class EngineError(Exception):
    """Base of every error the engine raises on purpose.

    Args:
        got: what was received, in words.
        want: what would have been accepted.
        fix: one action that solves it.
    """

    def __init__(self, got: str, want: str = "", fix: str = "") -> None:
        self.got, self.want, self.fix = got, want, fix
        super().__init__(got, want, fix)

    def __str__(self) -> str:
        parts = [shorten(self.got, MAX_CHARS).rstrip(".")]
        if self.want:
            parts.append(f"expected {self.want.rstrip('.')}")
        if self.fix:
            parts.append(f"fix: {self.fix.rstrip('.')}")
        return "; ".join(parts)


def shorten(text: str, max_chars: int) -> str:
    """The same text, or its beginning and end where it has more characters."""
    half = max_chars // 2 - 2
    return text if len(text) <= max_chars else f"{text[:half]} ... {text[-half:]}"


class AudioError(EngineError, ValueError):
    """Audio that cannot be used as speech input."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """The audio file does not exist or is not a regular file."""

    __str__ = EngineError.__str__


class AudioDecodeError(AudioError):
    """The bytes are not audio that an installed codec can decode, or they end too early."""


class AudioShapeError(AudioError):
    """An array of the wrong number of dimensions, channels or dtype."""


class AudioValueError(AudioError):
    """Samples that are not finite numbers, or none at all."""


class AudioTooShortError(AudioError):
    """Less audio than one encoder frame needs."""


class AudioLimitError(AudioError):
    """A sample rate, channel count, duration or decoded size outside the accepted bounds."""


class AudioWarning(UserWarning):
    """Audio that was read, although something in it is missing, damaged or was chosen among several."""


class HotwordWarning(UserWarning):
    """Hotwords that the model's letters cannot spell, and that are left out."""


class TranslationWarning(UserWarning):
    """A translation that lacks a number of its source after every attempt."""


class BundleError(EngineError, ValueError):
    """A model folder that is not a usable bundle."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """The bundle, its manifest or one of its files does not exist."""

    __str__ = EngineError.__str__


class BundleIntegrityError(BundleError):
    """A file whose size or SHA-256 differs from the manifest, or a path that leaves the folder."""


class BundleSchemaError(BundleError):
    """A manifest of an unknown schema version or with missing or mistyped fields."""


class ModelError(BundleError):
    """A graph or tokenizer that cannot be loaded or run, or gives other results than its bundle promises."""


class LayoutError(BundleError):
    """A graph without a layout table, or with one that does not fit it."""


class UnsupportedBlockError(LayoutError):
    """A graph whose layout table is right, with blocks or sizes that the kernels do not compute."""


class ModelCapabilityError(EngineError, ValueError):
    """The loaded model lacks the part that the call needs (a translator, a language model ...)."""


class DeviceError(EngineError, RuntimeError):
    """The requested device or compute type is not available here."""


class DependencyError(EngineError, ImportError):
    """A package is missing or broken."""

    __str__ = EngineError.__str__


class OptionError(EngineError, ValueError):
    """An option outside its range, or options that exclude each other."""


class DecodingError(EngineError, ValueError):
    """Emissions, a vocabulary, weights or settings that the decoder cannot work with."""


class LanguageModelError(EngineError, ValueError):
    """A language model file that is missing, truncated, foreign or of an unsupported kind."""


class TranslationError(EngineError, ValueError):
    """Text that cannot be translated as given."""


class OutputError(EngineError, OSError):
    """A result that could not be written."""

    __str__ = EngineError.__str__


class TextFileError(EngineError, ValueError):
    """A text file that cannot be read, or is not UTF-8 and not UTF-16 with a byte order mark."""


class ManifestError(EngineError, ValueError):
    """A manifest with problems.

    Args:
        path: the manifest, as given.
        problems: every problem found, each with its file and line where it has one; the message lists
            the first ten, one a line, and how many more there are.
        fix: one action that mends it.
    """

    def __init__(
        self, path: object, problems: Sequence[str], fix: str = "correct the manifest, then start again"
    ) -> None:
        self.path, self.problems = path, tuple(problems)
        listed = [shorten(problem, MAX_PROBLEM_CHARS) for problem in self.problems[:MAX_LISTED]]
        if len(self.problems) > MAX_LISTED:
            listed.append(f"and {len(self.problems) - MAX_LISTED} more")
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n  ".join([f"manifest {path}: {count}", *listed]), fix=fix)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.problems, self.fix)


class StreamError(EngineError, RuntimeError):
    """A stream that is used from two threads at once, or after its end."""


class CancelledError(EngineError, RuntimeError):
    """The caller asked to stop; nothing of the engine's state was harmed."""
