"""A deadline for clients that do not read."""

from __future__ import annotations

import asyncio


class WriteDeadline:
    """Cuts a connection whose client reads nothing for a while."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        """Watch nothing yet.

        Args:
            transport: of the connection. seconds: for which a client may read nothing.
        """
        self._transport, self._seconds = transport, seconds
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, on: bool) -> None:
        """Begin where something waits to be read, or end where nothing does."""
        if on and self._timer is None:
            unsent = self._transport.get_write_buffer_size()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds, self._check, unsent)
        elif not on and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, unsent: int) -> None:
        """Cut a client that has read nothing since there were so many bytes for it."""
        self._timer, left = None, self._transport.get_write_buffer_size()
        if left >= unsent > 0:
            self._transport.abort()
        elif left:
            self.watch(True)
