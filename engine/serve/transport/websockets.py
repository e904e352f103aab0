"""WebSockets under uvicorn: bounded messages, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
import http
import logging
from collections import deque
from typing import Any, Final, cast
from urllib.parse import unquote

from starlette.types import Message, Scope
from starlette.websockets import WebSocketDisconnect
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from engine.serve.responses import raw_response
from engine.serve.transport.connections import Connections
from engine.serve.transport.deadlines import WriteDeadline
from engine.serve.transport.sockets import LEFT_POLL_S, has_hung_up

PING_S: Final = 20.0
LAST_S: Final = 1.0  # for closing, where the server ends
NORMAL, GOING_AWAY, NO_CODE, CUT, BAD_TEXT, BROKEN = 1000, 1001, 1005, 1006, 1007, 1011  # close codes
_log = logging.getLogger("engine.serve")
_quiet = logging.getLogger("engine.serve.websockets")  # of the parser, which tells of every connection
_quiet.setLevel(logging.WARNING)


class ClientGoneError(OSError):
    """What ASGI says to an application that sends to nobody."""


class BoundedWebSocket(asyncio.Protocol):
    """One WebSocket as an ASGI application sees it.

    Nothing is read while a message waits for the application. That would hide a client that leaves, so the
    socket is asked now and then; `scope["extensions"]["engine.connection"]["left"]` is an event that says so.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        connections: Connections,
        max_message_bytes: int,
    ) -> None:
        """Made by uvicorn, for a request that asks for a WebSocket."""
        self._config, self._state, self._app_state = config, server_state, app_state
        self._all, self._limits = connections, connections.limits
        self._conn = ServerProtocol(max_size=max_message_bytes, logger=_quiet)
        self._loop = asyncio.get_running_loop()
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._left = asyncio.Event()  # the client is gone, or was sent away
        self._code, self._reason = CUT, ""  # of the close, for the application
        self._parts: list[bytes | bytearray | memoryview] = []  # of a message
        self._is_text = False
        self._paused = False
        self._response: Response | None = None  # to the handshake
        self._answered = False  # with HTTP
        self._early = b""  # from before the answer
        self._denial: Response | None = None
        self._end: asyncio.TimerHandle | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._ping: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection of HTTP."""
        self._transport = cast(asyncio.Transport, transport)
        self._writes = WriteDeadline(self._transport, self._limits.write_timeout_s)
        self._state.connections.add(cast(Any, self))
        self._all.n_open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, and end all deadlines."""
        self._state.connections.discard(cast(Any, self))
        self._all.n_open -= 1
        self._writes.watch(False)
        for timer in (self._end, self._poll, self._ping):
            if timer is not None:
                timer.cancel()
        self._disconnect()

    def data_received(self, data: bytes) -> None:
        """Parse what arrives; what comes before the answer to the handshake waits for it."""
        if self._answered:
            return  # with HTTP: nothing that follows is looked at
        data, self._early = self._early + data, b""
        if self._response is not None and self._conn.state is State.CONNECTING:
            self._early = data
            return
        self._conn.receive_data(data)
        for event in self._conn.events_received():
            if isinstance(event, Request):
                self._open(event)
            elif isinstance(event, Frame):
                self._take(event)
        if self._response is None:  # the whole head has come, and is none of a WebSocket
            self._answered = True
            self._transport.write(raw_response(400, "this is no valid request for a WebSocket"))
            self._end_soon()
        self._flush()

    def eof_received(self) -> bool:
        """The client sends no more: it has left."""
        self._conn.receive_eof()
        self._flush()
        self._disconnect()
        return False

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self._writable.clear()
        self._writes.watch(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()
        self._writes.watch(False)

    def shutdown(self) -> None:
        """The server ends: sessions were told, and close by themselves; the others are closed."""
        if self._conn.state is not State.OPEN:
            if self._end is not None:
                self._end.cancel()
                self._end = None
            self._end_soon()

    async def receive(self) -> Message:
        """The next message, for the application."""
        while not self._messages and not self._left.is_set():
            self._arrived.clear()
            if self._conn.state is State.OPEN:
                self._read(True)
            await self._arrived.wait()
        if not self._messages:
            return {"type": "websocket.disconnect", "code": self._code, "reason": self._reason}
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        """A message of the application.

        Raises:
            ClientGoneError: it is, or was sent away.
        """
        await self._writable.wait()
        if self._left.is_set():
            raise ClientGoneError("the client is gone")
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.http.response.start":
            headers = Headers(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]
            )
            self._denial = Response(
                message["status"], http.HTTPStatus(message["status"]).phrase, headers, b""
            )
        elif kind == "websocket.http.response.body":
            self._deny(message)
        elif kind == "websocket.send":
            text = message.get("text")
            if text is not None:
                self._conn.send_text(text.encode())
            else:
                self._conn.send_binary(message["bytes"])
        elif self._conn.state is State.CONNECTING:
            self._reject(403, "no WebSocket for this path")
        else:
            self._close(message.get("code", NORMAL), message.get("reason") or "")
        self._flush()

    def _open(self, request: Request) -> None:
        """Start the application for a request, unless it is no handshake."""
        self._response = self._conn.accept(request)
        if self._response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._answer(self._response)
            return
        self._messages.append({"type": "websocket.connect"})
        self._read(False)
        self._task = self._loop.create_task(self._run(self._scope(request)))
        self._state.tasks.add(self._task)
        self._task.add_done_callback(self._state.tasks.discard)

    def _scope(self, request: Request) -> Scope:
        path, _, query = request.path.partition("?")
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol")).split(",")
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self._transport) else "ws",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "root_path": self._config.root_path,
            "path": self._config.root_path + unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in request.headers.raw_items()
            ],
            "subprotocols": [name.strip() for name in offered if name.strip()],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, "engine.connection": {"left": self._left}},
        }

    async def _run(self, scope: Scope) -> None:
        code = GOING_AWAY  # where the server cancels it
        try:
            await self._config.loaded_app(scope, self.receive, self.send)
            code = NORMAL
        except (ClientGoneError, WebSocketDisconnect):
            pass
        except Exception:
            _log.exception("a WebSocket failed")
            code = BROKEN
        finally:
            if self._conn.state is State.OPEN:
                self._close(code, "")
            elif self._conn.state is State.CONNECTING and not self._answered:
                self._reject(500, "internal error; see the server's log")
            self._flush()
            self._end_soon()

    def _accept(self, message: Message) -> None:
        assert self._response is not None
        headers = self._response.headers
        for name, value in message.get("headers", ()):
            headers[name.decode("latin-1")] = value.decode("latin-1")
        if message.get("subprotocol"):
            headers["Sec-WebSocket-Protocol"] = message["subprotocol"]
        self._conn.send_response(self._response)
        self._loop.call_soon(self._parse_early)
        self._ping = self._loop.call_later(PING_S, self._send_ping)

    def _parse_early(self) -> None:
        if self._early and not self._left.is_set():
            self.data_received(b"")

    def _deny(self, message: Message) -> None:
        """Send an answer of HTTP once it is complete."""
        assert self._denial is not None
        self._denial.body = (self._denial.body or b"") + message.get("body", b"")
        if not message.get("more_body", False):
            headers = self._denial.headers
            for name in ("Connection", "Content-Length"):
                if name in headers:
                    del headers[name]
            headers["Connection"], headers["Content-Length"] = "close", str(len(self._denial.body))
            self._answer(self._denial)

    def _reject(self, status: int, told: str) -> None:
        self._answer(self._conn.reject(status, told + "\n"))

    def _answer(self, response: Response) -> None:
        """Answer with HTTP, and no WebSocket follows."""
        self._answered = True
        if not self._left.is_set():
            self._conn.send_response(response)
            self._end_soon()

    def _take(self, frame: Frame) -> None:
        """Collect a message; the parser bounds all its parts together."""
        if frame.opcode is Opcode.CLOSE:
            received = self._conn.close_rcvd
            self._code, self._reason = (received.code, received.reason) if received else (NO_CODE, "")
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # the parser answers pings
        if self._left.is_set():
            return  # the application wants no more
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.data:
            self._parts.append(frame.data)
        if frame.fin:
            content, self._parts = b"".join(self._parts), []
            self._deliver(content)

    def _deliver(self, content: bytes) -> None:
        if self._is_text:
            try:
                self._messages.append({"type": "websocket.receive", "text": content.decode()})
            except UnicodeDecodeError:
                self._conn.fail(BAD_TEXT, "text that is not UTF-8")
                return
        else:
            self._messages.append({"type": "websocket.receive", "bytes": content})
        self._arrived.set()
        self._read(False)

    def _close(self, code: int, reason: str) -> None:
        """Begin to close; the client has a while to answer."""
        if self._conn.state is State.OPEN:
            self._code, self._reason = code, reason
            self._conn.send_close(code, reason.encode()[:120].decode(errors="ignore"))
            self._disconnect()

    def _flush(self) -> None:
        """Send what the parser has to say, and see whether that was the end."""
        for data in self._conn.data_to_send():
            if self._transport.is_closing():
                break
            if data != SEND_EOF:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()
        if self._conn.state in (State.CLOSING, State.CLOSED):
            if self._conn.close_sent is not None and not self._left.is_set():
                self._note_close()
            self._end_soon()

    def _note_close(self) -> None:
        sent = self._conn.close_sent
        if sent is not None and self._conn.close_rcvd is None:
            self._code, self._reason = sent.code, sent.reason
        self._disconnect()

    def _end_soon(self) -> None:
        """Wait no longer than linger_s for a client that still sends, or does not read."""
        self._read(True)
        if self._end is None and not self._transport.is_closing():
            seconds = min(self._limits.linger_s, LAST_S) if self._all.ending else self._limits.linger_s
            self._end = self._loop.call_later(seconds, self._transport.abort)

    def _disconnect(self) -> None:
        """The application gets what is left of the messages, and then that the client is gone."""
        self._left.set()
        self._arrived.set()
        self._writable.set()

    def _read(self, on: bool) -> None:
        """Read on, or not while there is enough; then look now and then whether the client is still there."""
        if on == self._paused and not self._transport.is_closing():
            self._paused = not on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
                if self._poll is None:
                    self._poll = self._loop.call_later(LEFT_POLL_S, self._look)

    def _look(self) -> None:
        self._poll = None
        if not self._paused or self._transport.is_closing():
            return
        if has_hung_up(self._transport):
            self._transport.abort()
        else:
            self._poll = self._loop.call_later(LEFT_POLL_S, self._look)

    def _send_ping(self) -> None:
        """Keep proxies from closing a quiet connection."""
        if self._conn.state is State.OPEN:
            if not self._transport.get_write_buffer_size():
                self._conn.send_ping(b"")
                self._flush()
            self._ping = self._loop.call_later(PING_S, self._send_ping)
