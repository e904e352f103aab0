"""German speech in, German transcript and English translation out.

`import engine` loads what is small; what computes is loaded when one of its names is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

from engine import _moved
from engine._distribution import VERSION
from engine.errors import (
    AudioDecodeError,
    AudioError,
    AudioLimitError,
    AudioNotFoundError,
    AudioShapeError,
    AudioTooShortError,
    AudioValueError,
    AudioWarning,
    BundleError,
    BundleIntegrityError,
    BundleNotFoundError,
    BundleSchemaError,
    CancelledError,
    DecodingError,
    DependencyError,
    DeviceError,
    EngineError,
    HotwordWarning,
    LanguageModelError,
    LayoutError,
    ManifestError,
    ModelCapabilityError,
    ModelError,
    OptionError,
    OutputError,
    StreamError,
    TextFileError,
    TranslationError,
    TranslationWarning,
    UnsupportedBlockError,
)
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
from engine.runtime.cancel import CancelToken
from engine.types import (
    Hypothesis,
    Progress,
    Segment,
    StreamEvent,
    StreamEventKind,
    Transcript,
    Translation,
    TranslationHypothesis,
    Word,
)

if TYPE_CHECKING:
    from engine.audio.limits import AudioLimits
    from engine.audio.load import AudioSource
    from engine.jobs import ray as ray
    from engine.jobs.endpoints import EndpointOptions
    from engine.jobs.streaming import Partial
    from engine.jobs.streams import SpeechStream
    from engine.output.formats import write
    from engine.pipeline import SpeechTranslator, load

__version__ = VERSION

__all__ = [
    "AudioDecodeError",
    "AudioError",
    "AudioLimitError",
    "AudioLimits",
    "AudioNotFoundError",
    "AudioOptions",
    "AudioShapeError",
    "AudioSource",
    "AudioTooShortError",
    "AudioValueError",
    "AudioWarning",
    "Backend",
    "BundleError",
    "BundleIntegrityError",
    "BundleNotFoundError",
    "BundleSchemaError",
    "CancelToken",
    "CancelledError",
    "Channels",
    "ComputeType",
    "DecodingError",
    "DecodingOptions",
    "DependencyError",
    "Device",
    "DeviceError",
    "EndpointOptions",
    "EngineError",
    "HotwordOptions",
    "HotwordWarning",
    "Hypothesis",
    "LanguageModelError",
    "LanguageModelOptions",
    "LayoutError",
    "ManifestError",
    "ModelCapabilityError",
    "ModelError",
    "Numbers",
    "OptionError",
    "OutputError",
    "OutputOptions",
    "Partial",
    "Passes",
    "Progress",
    "RuntimeOptions",
    "SearchOptions",
    "Segment",
    "SpeechStream",
    "SpeechTranslator",
    "StreamError",
    "StreamEvent",
    "StreamEventKind",
    "TextFileError",
    "Transcript",
    "Translation",
    "TranslationError",
    "TranslationHypothesis",
    "TranslationOptions",
    "TranslationWarning",
    "UnsupportedBlockError",
    "Word",
    "load",
    "write",
]

_LATER: Final = {
    "AudioLimits": "engine.audio.limits",
    "AudioSource": "engine.audio.load",
    "EndpointOptions": "engine.jobs.endpoints",
    "Partial": "engine.jobs.streaming",
    "SpeechStream": "engine.jobs.streams",
    "SpeechTranslator": "engine.pipeline",
    "load": "engine.pipeline",
    "write": "engine.output.formats",
}
# Modules that are attributes after `import engine` alone, loaded when they are first used.
_MODULES: Final = frozenset(
    {"acoustic", "audio", "bundle", "decoding", "jobs", "kernels", "output", "pipeline", "ray", "stages",
     "text", "translation"}
)  # fmt: skip

_moved.install()


if not TYPE_CHECKING:  # a type checker knows every name from above, and refuses others

    def __getattr__(name: str) -> Any:
        """A public name or a module of the package, at its first use."""
        if name in _MODULES:
            return importlib.import_module(f"engine.{name}")
        if name not in _LATER:
            raise AttributeError(f"module 'engine' has no attribute {name!r}")
        value = getattr(importlib.import_module(_LATER[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
