"""The errors of a benchmark; each message says what was found, what was wanted, and the fix."""

from __future__ import annotations

from engine.errors import EngineError, ManifestError

__all__ = ["BaselineError", "BenchmarkError", "ManifestError", "MeasurementError", "PeerError"]


class BenchmarkError(EngineError):
    """Base of the benchmark's errors; the command line exits with 2."""


class BaselineError(BenchmarkError, ValueError):
    """A result file that cannot be read, or that was measured on something else."""


class MeasurementError(BenchmarkError, RuntimeError):
    """Nothing could be measured, or not precisely enough to decide."""


class PeerError(BenchmarkError, RuntimeError):
    """A system to compare with that is missing or did not answer."""


class PeerNotInstalledError(PeerError, ImportError):
    """The peer's library is missing from the environment that was named."""

    __str__ = EngineError.__str__


class PeerLoadError(PeerError):
    """The peer cannot load the model that it was given."""


class PeerRunError(PeerError):
    """The peer answered a request with an error; it can be asked again."""


class PeerEndedError(PeerError):
    """The peer's process ended before it answered."""


class PeerTimeoutError(PeerError, TimeoutError):
    """The peer gave no answer in time; its process was ended."""

    __str__ = EngineError.__str__


class PeerProtocolError(PeerError):
    """The peer did not write an answer of the protocol; its process was ended."""


class WrongOutputError(PeerError, ValueError):
    """A system's output is not that of the same model: its time is not used."""
