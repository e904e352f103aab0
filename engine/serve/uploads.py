"""Bodies that arrive: bounded in bytes, time and number. The slowest makes room for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.types import Message, Receive

from engine.errors import AudioLimitError, EngineError
from engine.serve.errors import BusyError, UploadTimeoutError
from engine.serve.settings import ServeSettings

NEW_S: Final = 1.0


@dataclass(eq=False, slots=True)
class Upload:
    """One body under way.

    Attributes:
        timeout: what ends the reading of it; rescheduled with each part that arrives.
        began_s: on the event loop's clock.
        n_bytes: received so far.
        error: why it was ended from outside.
    """

    timeout: asyncio.Timeout
    began_s: float
    n_bytes: int = 0
    error: EngineError | None = None

    def pace(self, now_s: float) -> tuple[bool, float]:
        """What orders uploads: new ones, which nothing is known of, come last; then bytes a second."""
        age_s = now_s - self.began_s
        return age_s < NEW_S, self.n_bytes / max(age_s, NEW_S)

    def end(self, error: EngineError) -> None:
        """Make its reader raise."""
        if self.error is None and not self.timeout.expired():
            self.error = error
            self.timeout.reschedule(0.0)


class Uploads:
    """All bodies that are arriving. They take no place in the queue of complete requests."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._uploads: set[Upload] = set()  # touched on the event loop only

    def __len__(self) -> int:
        return len(self._uploads)

    @property
    def n_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(upload.n_bytes for upload in self._uploads)

    @asynccontextmanager
    async def bounded(self, receive: Receive) -> AsyncIterator[Receive]:
        """Receive one body within the bounds, whatever length it states.

        Raises:
            AudioLimitError: too many bytes. UploadTimeoutError: it stalls or takes too long.
            BusyError: it was the slowest of too many. Whatever end_all was given.
        """
        loop, settings = asyncio.get_running_loop(), self._settings
        upload: Upload | None = None
        try:
            async with asyncio.timeout(settings.upload_stall_s) as timeout:
                upload = Upload(timeout, loop.time())
                if len(self._uploads) >= settings.max_uploads:
                    self._end_slowest()
                self._uploads.add(upload)
                yield self._counted(receive, upload)
        except TimeoutError:
            assert upload is not None
            raise (upload.error or self._too_slow(loop.time() - upload.began_s)) from None
        finally:
            if upload is not None:
                self._uploads.discard(upload)

    def end_all(self, error: EngineError) -> None:
        """End every upload with an error."""
        for upload in self._uploads:
            upload.end(error)

    def _counted(self, receive: Receive, upload: Upload) -> Receive:
        loop, settings = asyncio.get_running_loop(), self._settings
        last_s = upload.began_s + settings.upload_timeout_s

        async def counted() -> Message:
            message = await receive()
            n_bytes = len(message.get("body", b""))
            upload.n_bytes += n_bytes
            check_size(upload.n_bytes, settings)
            if n_bytes and self.n_bytes > settings.max_spooled_bytes:
                self._end_slowest()
            if upload.error is None and not upload.timeout.expired():
                upload.timeout.reschedule(min(last_s, loop.time() + settings.upload_stall_s))
            return message

        return counted

    def _end_slowest(self) -> None:
        """A client that means to finish is quicker than one that means to stay."""
        now_s = asyncio.get_running_loop().time()
        under_way = [upload for upload in self._uploads if upload.error is None]
        if under_way:
            slowest = min(under_way, key=lambda upload: upload.pace(now_s))
            slowest.end(
                BusyError(
                    "as many uploads as this service takes, of which this was the slowest",
                    "a faster one",
                    "try again in a moment",
                )
            )

    def _too_slow(self, seconds: float) -> UploadTimeoutError:
        total_s, stall_s = self._settings.upload_timeout_s, self._settings.upload_stall_s
        return UploadTimeoutError(
            f"an upload that was not complete after {seconds:.1f} s",
            f"at most {total_s:g} s, and never {stall_s:g} s without a byte",
            "send less, or faster",
        )


def check_size(n_bytes: int, settings: ServeSettings) -> None:
    """Refuse a body of more bytes than the service takes.

    Raises:
        AudioLimitError: it has more.
    """
    if n_bytes > settings.max_upload_bytes:
        raise AudioLimitError(
            "a request larger than this service takes",
            f"at most {settings.max_upload_bytes} bytes",
            "send a compressed or shorter recording",
        )
