"""What all requests share: the model, the queue, the uploads, and whether the service is ending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from engine.serve.errors import ShuttingDownError
from engine.serve.metrics import create_metrics
from engine.serve.realtime.sessions import Sessions
from engine.serve.settings import Recogniser, ServeSettings, model_name_of, threads_of
from engine.serve.uploads import Uploads
from engine.serve.work import WorkQueue


class Service:
    """One loaded model and its bounds.

    Attributes:
        recogniser: a SpeechTranslator.
        queue: complete requests.
        uploads: those that are arriving.
        realtime: sessions over WebSockets.
        draining: requests in work are finished, and no more are taken.
        created_s: when it was loaded, in seconds since 1970.
        n_connections: open connections; set by the server.
        metrics: what /metrics says.
        loop: the event loop that it runs on, once it does.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, recogniser: Recogniser, settings: ServeSettings) -> None:
        self.recogniser, self.settings = recogniser, settings
        self.model_name = model_name_of(recogniser, settings)
        self.queue = WorkQueue(
            threads_of(recogniser, settings), settings.max_pending, settings.request_timeout_s
        )
        self.uploads = Uploads(settings)
        self.realtime = Sessions(settings)
        self.draining = False
        self.created_s = int(time.time())
        self.n_connections: Callable[[], int] = lambda: 0
        self.metrics = create_metrics(self)

    def check_open(self) -> None:
        """Refuse a request before its body is read.

        Raises:
            ShuttingDownError: the service is ending. BusyError: the queue is full.
        """
        if self.draining:
            raise ShuttingDownError
        self.queue.check_room()

    def check_sessions(self) -> None:
        """Refuse a session before it is opened.

        Raises:
            ShuttingDownError: the service is ending. BusyError: as many are open as it takes.
        """
        if self.draining:
            raise ShuttingDownError
        self.realtime.check_room()

    def begin_drain(self) -> None:
        """Take no more requests; sessions finish what they have taken."""
        self.draining = True
        self.realtime.drain(ShuttingDownError())

    def close(self) -> None:
        """Cancel what is in work; nothing follows."""
        self.queue.close()
        self.realtime.end_all(ShuttingDownError())
        self.realtime.close()

    def wait(self, seconds: float) -> bool:
        """Wait for cancelled work to end; whether all of it did."""
        return self.queue.wait(seconds) and self.realtime.wait(seconds)

    def end_requests(self) -> None:
        """Tell every request and session that is still in work that it will not be finished."""
        self.draining = True
        self.uploads.end_all(ShuttingDownError())
        self.queue.end_all(ShuttingDownError())
        self.realtime.end_all(ShuttingDownError())
