"""Connections: a bounded number, and none that waits without end for a request, a body or a reader."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine.serve.responses import raw_response
from engine.serve.settings import ConnectionLimits
from engine.serve.transport.deadlines import WriteDeadline

MAX_LINGERING: Final = 100  # refused connections that still get an answer; more are cut
EVICTED_AT_ONCE: Final = 32  # where the system has no descriptor left
REFUSAL_S: Final = 0.5  # the event loop accepts nothing for a second after a refusal
_log = logging.getLogger("engine.serve")


class Connections:
    """All connections of one server, and those among them that wait for a request."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.n_open = 0
        self.ending = False
        self._waiting: dict[BoundedProtocol, None] = {}  # the longest first
        self._refused_s = -REFUSAL_S

    def admit(self) -> bool:
        """Count a new connection; whether there is room for it, made by closing one that waits."""
        self.n_open += 1
        return self.n_open <= self.limits.max_connections or self.evict(1) > 0

    def wait(self, connection: BoundedProtocol, waits: bool) -> None:
        """Note whether a connection is without a complete request."""
        if not waits:
            self._waiting.pop(connection, None)
        elif connection not in self._waiting:
            self._waiting[connection] = None

    def leave(self, connection: BoundedProtocol) -> None:
        """Forget a connection."""
        self.n_open -= 1
        self._waiting.pop(connection, None)

    def evict(self, n: int) -> int:
        """Close those that have waited longest for a request; returns how many."""
        oldest = list(self._waiting)[:n]
        for connection in oldest:
            self._waiting.pop(connection)
            connection.transport.abort()
        return len(oldest)

    def out_of_descriptors(self, error: OSError) -> None:
        """The system refuses to accept: close connections that wait, once for a burst of refusals."""
        if time.monotonic() - self._refused_s < REFUSAL_S:
            return
        self._refused_s = time.monotonic()
        n_closed = self.evict(EVICTED_AT_ONCE)
        _log.warning("cannot accept a connection (%s); %d idle ones closed", error.strerror, n_closed)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines for what it waits for without any.

    A connection waits for the head of a request (header_timeout_s), is idle between two (keep_alive_s, by
    uvicorn), drops the rest of a body after its answer (linger_s), or has a client that does not read
    (write_timeout_s). The body of a request that is wanted is bounded in uploads.py.
    """

    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._all, self._limits = connections, connections.limits
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for = ""
        self.dropping = False  # nothing that arrives is looked at any more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or answer 503 where every other one is at work."""
        super().connection_made(LingeringTransport(transport, self))  # type: ignore[arg-type]
        self._writes = WriteDeadline(self.transport, self._limits.write_timeout_s)
        if self._all.admit():
            self._watch()
        elif self._all.n_open > self._limits.max_connections + MAX_LINGERING:
            self.transport.abort()
        else:
            self.refuse(503, "as many connections as this service takes", "BusyError")

    def connection_lost(self, exc: Exception | None) -> None:
        """End all deadlines."""
        self._all.leave(self)
        self._set_timer("", 0.0)
        self._writes.watch(False)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse what arrives; whatever is wrong with it ends this connection and no other."""
        if self.dropping:
            return
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # a broken body after its answer has begun
            self.transport.abort()
            return
        came_early = self.flow.read_paused and self.cycle is not None and not self.cycle.more_body
        if came_early and len(self.conn.trailing_data[0]) < HIGH_WATER_LIMIT:
            self.flow.resume_reading()  # for a while: a client that leaves must be noticed
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the rest of the body or the next request."""
        try:
            super().on_response_complete()
        except h11.LocalProtocolError:  # what follows on the connection is no request
            self.transport.abort()
        if self.transport.get_write_buffer_size():
            self._writes.watch(True)
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection on to a protocol with deadlines of its own."""
        self._all.leave(self)
        self._set_timer("", 0.0)
        self.transport = self.transport.inner  # type: ignore[attr-defined]
        super().handle_websocket_upgrade(event)
        if early := self.conn.trailing_data[0]:  # of a client that did not wait for the answer
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(early)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as every other error is answered."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", 400)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = "the head of a request is too long" if status == 431 else "this is no valid HTTP request"
            self.refuse(status, text)
        else:
            self.transport.abort()

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        """Send an error and close, without a request that could be looked at."""
        self.transport.write(raw_response(status, message, code))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.dropping = True
        self.transport.close()

    def pause_writing(self) -> None:
        """The client reads slowly."""
        super().pause_writing()
        self._writes.watch(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._writes.watch(False)

    def shutdown(self) -> None:
        """Close now, or after the answer that is under way."""
        self._all.ending = True
        if self.dropping or self.conn.our_state is h11.ERROR:
            self.transport.abort()
        else:
            super().shutdown()

    def linger(self) -> bool:
        """Whether to read and drop for a moment: a client that still sends would not see its answer."""
        sends = self.cycle is None or self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if not sends or self._all.ending:
            return False
        self.dropping = True
        self._set_timer("drop", self._limits.linger_s)
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless it is being closed."""
        if not self.dropping:
            super().timeout_keep_alive_handler()

    def _watch(self) -> None:
        """Choose the deadline by what the connection waits for."""
        if self.dropping or self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        state = self._state()
        self._all.wait(self, state in ("head", "idle"))
        if state != self._waits_for:
            seconds = {"head": self._limits.header_timeout_s, "rest": self._limits.linger_s}
            self._set_timer(state, seconds.get(state, 0.0))

    def _state(self) -> str:
        if self.cycle is not None and not self.cycle.response_complete:
            return "answer"
        if self.conn.their_state is h11.SEND_BODY:
            return "rest"
        return "idle" if self.cycle is not None and not self.conn.trailing_data[0] else "head"

    def _set_timer(self, waits_for: str, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._waits_for = waits_for
        self._timer = self.loop.call_later(seconds, self.transport.abort) if seconds else None


class LingeringTransport:
    """A transport whose close() first lets a client that still sends read its answer."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self.inner, self._protocol, self._closing = transport, protocol, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def is_closing(self) -> bool:
        """Whether close() was called, though it may still read."""
        return self._closing or self.inner.is_closing()

    def close(self) -> None:
        """Close, at once or after a while in which what arrives is dropped."""
        if self._closing or self.inner.is_closing():
            return
        self._closing = True
        if not self._protocol.linger():
            self.inner.close()
            return
        try:
            self.inner.resume_reading()
            self.inner.write_eof()
        except OSError:  # the client has gone
            self.inner.abort()
