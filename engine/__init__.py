"""German speech in, German transcript and English translation out."""

__version__ = "0.1.0"

from engine import _moved
from engine.audio.limits import AudioLimits
from engine.errors import AudioWarning, EngineError
from engine.output.formats import write
from engine.pipeline import SpeechTranslator, load
from engine.runtime.cancel import CancelToken
from engine.types import DecodingOptions, Hypothesis, Segment, Transcript, Translation, Word

_moved.install()

__all__ = [
    "AudioLimits", "AudioWarning", "CancelToken", "DecodingOptions", "EngineError", "Hypothesis",
    "Segment", "SpeechTranslator", "Transcript", "Translation", "Word", "load", "write",
]  # fmt: skip
