"""What can go wrong in a benchmark; each message says what was got, what was wanted, and the mend."""

from __future__ import annotations

from engine.errors import EngineError, ManifestError

__all__ = ["BaselineError", "BenchmarkError", "ManifestError", "MeasurementError", "PeerError"]


class BenchmarkError(EngineError):
    """Base of what the benchmark refuses to do; the command line exits with 2."""


class BaselineError(BenchmarkError, ValueError):
    """A result file that cannot be read, or that was measured on something else."""


class MeasurementError(BenchmarkError, RuntimeError):
    """Nothing could be measured, or not precisely enough to decide."""


class PeerError(BenchmarkError, RuntimeError):
    """A system to compare with that is missing or did not answer."""
