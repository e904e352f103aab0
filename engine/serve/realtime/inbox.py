"""What a client has sent and nobody has looked at yet: bounded, and with an end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

MAX_BYTES: Final = 4 << 20  # of messages that wait: about a minute of audio
MAX_MESSAGES: Final = 4096
Message = str | bytes


class Inbox:
    """Messages in order, from the task that receives to the task that works. Both on one event loop."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._n_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.closed = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Take one; nothing is taken after the end."""
        if self.closed:
            return
        self._messages.append(message)
        self._n_bytes += len(message)
        if self._n_bytes >= MAX_BYTES or len(self._messages) >= MAX_MESSAGES:
            self._room.clear()
        self._changed.set()

    async def wait_for_room(self, left: asyncio.Event | None = None) -> bool:
        """Wait until more may come.

        Args:
            left: set where the client leaves, which nothing else tells while nothing is received.
        Returns:
            False where the client has left.
        """
        if self._room.is_set():
            return True
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._room, left) if event is not None]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        return left is None or not left.is_set()

    def close(self) -> None:
        """No more will come; what waits is still there."""
        self.closed = True
        self._room.set()
        self._changed.set()

    def clear(self) -> None:
        """Forget what waits."""
        self._messages.clear()
        self._n_bytes = 0
        self._room.set()

    async def get(self) -> Message | None:
        """The next message; None at the end."""
        while not self._messages and not self.closed:
            self._changed.clear()
            await self._changed.wait()
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._n_bytes -= len(message)
        if self._n_bytes < MAX_BYTES // 2 and len(self._messages) < MAX_MESSAGES // 2:
            self._room.set()
        return message
