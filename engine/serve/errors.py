"""What a request may be refused for that is no fault of its audio."""

from __future__ import annotations

from engine.errors import EngineError, OptionError


class BusyError(EngineError, RuntimeError):
    """The service has as many requests as it takes."""


class ShuttingDownError(EngineError, RuntimeError):
    """The service was told to end, and the request could not be finished before."""

    def __init__(self) -> None:
        super().__init__("the service is ending", "", "send the request again, to another instance or later")


class RequestTimeoutError(EngineError, RuntimeError):
    """A complete request was not finished in time."""


class UploadTimeoutError(OptionError):
    """The body did not arrive in time."""


class RequestError(OptionError):
    """A body that is no form, or whose form is broken or too large."""


class EventError(OptionError):
    """An event of a protocol that is none, that lacks something, or that does not belong where it came."""
