"""uvicorn, with bounds on connections and on the time that it takes to end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from fastapi import FastAPI

from engine.errors import OptionError
from engine.serve.service import Service
from engine.serve.settings import ConnectionLimits, ServeSettings
from engine.serve.transport.connections import BoundedProtocol, Connections

BACKLOG: Final = 1024
ACCEPTED_AT_ONCE: Final = 64  # before those that wait are looked at
HEAD_BYTES: Final = 16 << 10
RESERVED_DESCRIPTORS: Final = 160  # the model's files, decoders, the log
MOST_DESCRIPTORS: Final = 1 << 16
LAST_S: Final = 1.0  # for those who are told that they are not finished
_log = logging.getLogger("engine.serve")


class Server(uvicorn.Server):
    """Ends within drain_s: requests in work are finished, or told so; exit is by return, not by signal."""

    def __init__(self, config: uvicorn.Config, service: Service, connections: Connections) -> None:
        super().__init__(config)
        self._service, self._connections = service, connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, with an eye on what the event loop cannot do."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await super().startup(sockets)
        for sock in sockets or []:
            sock.listen(BACKLOG)  # uvicorn's one number would also be that of connections accepted at once
            host, port = sock.getsockname()[:2]
            _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give what is in work until drain_s."""
        service, loop = self._service, asyncio.get_running_loop()
        service.begin_drain()
        drain_s = service.settings.drain_s
        n_requests = service.queue.pending + len(service.uploads) + len(service.realtime)
        _log.info("ending; %d requests and sessions have %g s to be finished", n_requests, drain_s)
        self._connections.ending = True
        timer = loop.call_later(max(drain_s - LAST_S, 0.0), service.end_requests)
        await super().shutdown(sockets)
        timer.cancel()
        _log.info("ended")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second ends what is in work at once."""
        self.interrupted = sig == signal.SIGINT
        if self.should_exit:
            self._service.loop.call_soon_threadsafe(self._service.end_requests)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was answered is not raised again: the exit status says it all."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in ours}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS):
            self._connections.out_of_descriptors(error)
        else:
            _log.error("%s", context.get("message", "error in the event loop"), exc_info=error)


def build_server(app: FastAPI, limits: ConnectionLimits | None = None, **options: Any) -> Server:
    """A server for an application of create_app.

    Args:
        app: from create_app.
        limits: of connections; those of the application's settings when None.
        options: for uvicorn.Config.
    """
    service = cast(Service, app.state.service)
    connections = Connections(limits or service.settings.connections)
    config = uvicorn.Config(
        app,
        http=cast(Any, functools.partial(BoundedProtocol, connections=connections)),
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=cast(int, connections.limits.keep_alive_s),
        timeout_graceful_shutdown=cast(int, max(service.settings.drain_s, LAST_S)),
        **{"ws": _websockets(service, connections), **options},
    )
    service.n_connections = lambda: connections.n_open
    return Server(config, service, connections)


def _websockets(service: Service, connections: Connections) -> Any:
    """What uvicorn makes for a WebSocket; "none" where the package is missing."""
    try:
        from engine.serve.transport.websockets import BoundedWebSocket
    except ImportError:
        return "none"
    most = service.settings.realtime_message_bytes
    return functools.partial(BoundedWebSocket, connections=connections, max_message_bytes=most)


def run_server(server: Server, sockets: list[socket.socket]) -> bool:
    """Serve until a signal.

    Returns:
        Whether it was an interrupt from the keyboard.
    """
    server.interrupted = False
    server.run(sockets)
    return server.interrupted


def listen(host: str, port: int) -> list[socket.socket]:
    """Take an address before a model is loaded for it.

    Returns:
        Bound sockets, one for each address of the host.
    Raises:
        OptionError: it is taken, or none of this machine.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except (OSError, UnicodeError) as error:
        for sock in sockets:
            sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"cannot listen on port {port} of {host!r} ({reason})",
            "a free port of an address of this machine",
            "choose another --port or --host",
        ) from error
    return sockets


def raise_descriptors(settings: ServeSettings) -> ConnectionLimits:
    """Take as many descriptors as the system gives, and as many connections as they are enough for."""
    limits = settings.connections
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        room = soft - RESERVED_DESCRIPTORS - settings.max_uploads - settings.max_pending
        if soft != resource.RLIM_INFINITY and room < limits.max_connections:
            _log.warning("%d descriptors are enough for %d connections only", soft, max(room, 16))
            from dataclasses import replace

            limits = replace(limits, max_connections=max(room, 16))
    return limits


def leave_threads(service: Service, seconds: float, exit_code: int) -> None:
    """Wait for jobs that were cancelled; end the process without them where they do not notice."""
    if not service.wait(seconds):
        _log.warning("a request did not end in time; the process ends without it")
        logging.shutdown()
        os._exit(exit_code)
