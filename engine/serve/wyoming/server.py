"""The server: who may connect, threads for all, and an end in time."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any, Final

from engine._distribution import NAME
from engine.serve.errors import BusyError, ShuttingDownError
from engine.serve.settings import StreamOpener
from engine.serve.wyoming import protocol
from engine.serve.wyoming.connection import Connection
from engine.serve.wyoming.settings import WyomingSettings

BACKLOG: Final = 128
LAST_S: Final = 1.0  # for those who are told that they are not finished
_log = logging.getLogger("engine.serve.wyoming")


class WyomingServer:
    """Serves Wyoming clients over one loaded model, each on threads of its own; the model shares its cores.

    Attributes:
        recogniser: a SpeechTranslator. settings: bounds. info: what the server says that it is.
        started: set once it listens. interrupted: whether Ctrl-C ended it.
    """

    def __init__(self, recogniser: StreamOpener, settings: WyomingSettings | None = None) -> None:
        """Prepare; run() serves."""
        self.recogniser, self.settings = recogniser, settings or WyomingSettings()
        bundle = getattr(recogniser, "bundle", None)
        name = self.settings.model_name or str(getattr(bundle, "name", NAME))
        self.info = protocol.info_event(name, self.settings)
        self.started, self.interrupted = threading.Event(), False
        self._pool = ThreadPoolExecutor(self.settings.max_clients, thread_name_prefix="engine-wyoming")
        self._calls: set[asyncio.Future[Any]] = set()
        self._clients: dict[Connection, asyncio.Task[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_stops = 0
        self._stopped = asyncio.Event()

    @property
    def n_clients(self) -> int:
        """Connections that are open."""
        return len(self._clients)

    @property
    def n_calls(self) -> int:
        """Calls that are on a thread, or wait for one."""
        return len(self._calls)

    def run(
        self, sockets: list[socket.socket], advert: AbstractAsyncContextManager[Any] | None = None
    ) -> None:
        """Serve until stop() or a signal, then finish what is under way, within settings.drain_s.

        Args:
            sockets: bound, from engine.serve.transport.sockets.
            advert: entered while it serves.
        """
        asyncio.run(self._serve(sockets, advert or nullcontext()))

    def stop(self) -> None:
        """End, from any thread: recordings under way are finished; the second time they are not."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop)

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Run a call on a thread."""
        call = asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def _stop(self) -> None:
        self._n_stops += 1
        self._stopped.set()
        if self._n_stops > 1:
            self._end_all()

    async def _serve(self, sockets: list[socket.socket], advert: AbstractAsyncContextManager[Any]) -> None:
        self._loop = asyncio.get_running_loop()
        servers = []
        for sock in sockets:
            server = await asyncio.start_server(
                self._take_client, sock=sock, limit=protocol.LINE_BYTES, backlog=BACKLOG
            )
            servers.append(server)
            host, port = sock.getsockname()[:2]
            _log.info("listening on tcp://%s:%d", f"[{host}]" if ":" in host else host, port)
        with self._signals():
            async with advert:
                self.started.set()
                await self._stopped.wait()
            for server in servers:
                server.close()
            await self._drain()
        self._pool.shutdown(wait=False, cancel_futures=True)
        _log.info("ended")

    async def _take_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection; make room for it, if there is none."""
        connection = Connection(self, reader, writer)
        clients = self._clients
        if len(clients) - sum(client.leaving for client in clients) >= self.settings.max_clients:
            connection.leaving = not self._end_idle()
        if connection.leaving:
            if len(clients) >= 2 * self.settings.max_clients:
                writer.transport.abort()
                return
            connection.blame(
                BusyError("as many clients as are served at a time", "fewer", "try again in a moment")
            )
        task = asyncio.current_task()
        assert task is not None
        clients[connection] = task
        try:
            await connection.run()
        finally:
            del clients[connection]

    def _end_idle(self) -> bool:
        """Close the connection that has been idle for the longest time; False where none is."""
        idle = [client for client in self._clients if client.is_idle and not client.leaving]
        if idle:
            min(idle, key=lambda client: client.since_s).leave()
        return bool(idle)

    async def _drain(self) -> None:
        """Give what is under way until drain_s, then say that it is not finished."""
        n_recordings = sum(not client.is_idle for client in self._clients)
        drain_s = self.settings.drain_s
        _log.info("ending; %d recordings have %g s to be finished", n_recordings, drain_s)
        for client in list(self._clients):
            client.leave()
        await self._wait_for_clients(drain_s - LAST_S)
        self._end_all()
        await self._wait_for_clients(LAST_S)
        for task in self._clients.values():
            task.cancel()

    def _end_all(self) -> None:
        for client in list(self._clients):
            client.end(ShuttingDownError())

    async def _wait_for_clients(self, seconds: float) -> None:
        if self._clients:
            await asyncio.wait(set(self._clients.values()), timeout=max(seconds, 0.0))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals stop, where this is the main thread; then the handlers of before come back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = number == signal.SIGINT
        self.stop()
