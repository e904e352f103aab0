"""One session: what a client sends, in order, through a stream, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.errors import CancelledError, EngineError
from engine.jobs.streams import SpeechStream
from engine.runtime.cancel import CancelToken
from engine.serve.errors import ShuttingDownError
from engine.serve.realtime import messages
from engine.serve.realtime.config import OBJECT, SessionConfig, from_beta, to_beta
from engine.serve.realtime.formats import Samples
from engine.serve.realtime.inbox import Inbox, Message
from engine.serve.realtime.items import Items
from engine.serve.realtime.messages import Event, make_event
from engine.serve.realtime.problems import EventProblem
from engine.types import StreamEvent

if TYPE_CHECKING:
    from engine.serve.service import Service

APPEND: Final = "input_audio_buffer.append"
MAX_FEED_S: Final = 1.0  # of audio that waits are recognised in one call
MIN_COMMIT_S: Final = 0.1
GOING_AWAY, POLICY, BROKEN = 1001, 1008, 1011  # close codes
_log = logging.getLogger("engine.serve")


class Session:
    """One client. Everything runs on the event loop, but for the work on audio.

    A task receives; another takes the messages in order, has them computed on a thread and sends events, so
    that a client which does not read holds up nobody but itself.
    """

    def __init__(self, socket: WebSocket, service: Service, beta: bool = False) -> None:
        """Begin with an accepted WebSocket.

        Args:
            beta: the client speaks the protocol of OpenAI's beta.
        """
        self._socket, self._service, self._beta = socket, service, beta
        self._id = messages.new_id("sess")
        self._expires_s = int(time.time() + service.settings.realtime_max_s)
        self.config = SessionConfig()
        self._items = Items(self.config)
        self._inbox, self._token = Inbox(), CancelToken()
        self._stream: SpeechStream | None = None
        self._offset_s = 0.0  # when the stream began
        self._pending: list[Samples] = []  # not heard yet
        self._n_pending, self._n_heard, self._n_committed = 0, 0, 0  # samples
        self._why: EngineError | None = None  # it is ended by the service
        self._gone = False  # the client is

    async def run(self) -> None:
        """Work until the client leaves or the session is ended."""
        loop, settings = asyncio.get_running_loop(), self._service.settings
        receiver = asyncio.create_task(self._receive())
        timer = loop.call_later(settings.realtime_max_s, self.end, _expired(settings.realtime_max_s))
        try:
            await self._send([self._describe("created")])
            await self._work()
            await self._conclude()
        except WebSocketDisconnect:  # the client is gone
            pass
        except Exception as error:
            _log.exception("a session failed")
            self._service.metrics.count_error("InternalError")
            with contextlib.suppress(WebSocketDisconnect):
                await self._send([messages.error_event(error)])
                await self._socket.close(BROKEN)
        finally:
            timer.cancel()
            self._token.cancel()
            receiver.cancel()

    def end(self, why: EngineError) -> None:
        """Take no more messages; finish what was taken, say why, and close."""
        if self._why is None:
            self._why = why
            self._inbox.close()

    def abort(self, why: EngineError) -> None:
        """End without finishing what was taken."""
        self.end(why)
        self._inbox.clear()
        self._token.cancel()

    async def _receive(self) -> None:
        """Take messages as they come, as long as there is room for them."""
        idle_s: float | None = self._service.settings.realtime_idle_s
        left = self._socket.scope.get("extensions", {}).get("engine.connection", {}).get("left")
        try:
            while True:
                try:
                    async with asyncio.timeout(idle_s):
                        message = await self._socket.receive()
                except TimeoutError:
                    self.end(_idle(idle_s))
                    idle_s = None
                    continue
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                self._inbox.put(message.get("bytes") or b"" if text is None else text)
                if not await self._inbox.wait_for_room(left):
                    return
        finally:
            self._leave()

    def _leave(self) -> None:
        """The client is gone: what is computed for it ends now."""
        self._gone = True
        self._token.cancel()
        self._inbox.clear()
        self._inbox.close()

    async def _work(self) -> None:
        """Take messages in order until the end of them."""
        try:
            while (message := await self._inbox.get()) is not None:
                await self._take(message)
                full = self._n_pending >= MAX_FEED_S * self.config.format.rate
                if self._n_pending and (full or not len(self._inbox)):
                    await self._hear_pending()
            await self._hear_pending()
            if self.config.server_vad:
                await self._close_stream()
        except CancelledError:
            pass  # the client is gone, or nothing more is wanted

    async def _conclude(self) -> None:
        """Say why the service ends the session."""
        if self._gone or self._why is None:
            return
        item = self._items.current
        if item is not None and (item.committed or self.config.server_vad):
            await self._send(self._items.fail(self._why, self._heard_s))
        await self._send([messages.error_event(self._why)])
        shutting = isinstance(self._why, ShuttingDownError)
        await self._socket.close(GOING_AWAY if shutting else POLICY, str(self._why)[:100])

    async def _take(self, message: Message) -> None:
        """Do what a message asks for; an error is told, and the session goes on."""
        event_id: str | None = None
        try:
            event = messages.parse(message)
            event_id = messages.id_of(event)
            kind = messages.check_type(event)
            if kind == APPEND:
                self._append(event)
                return
            await self._hear_pending()
            await self._answer(kind, event)
        except CancelledError:
            raise
        except EngineError as error:
            self._service.metrics.count_error(getattr(error, "code", type(error).__name__))
            await self._send([messages.error_event(error, event_id)])

    async def _answer(self, kind: str, event: Event) -> None:
        if kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            self._stream = None
            self._items.drop()
            self._n_committed = self._n_heard
            await self._send([make_event("input_audio_buffer.cleared")])
        else:
            beta = kind == "transcription_session.update"
            await self._update(from_beta(event.get("session")) if beta else event.get("session"))
            await self._send([self._describe("updated", beta)])

    def _append(self, event: Event) -> None:
        if "audio" not in event:
            raise EventProblem(
                "missing_required_parameter", "audio", f"{APPEND} without audio", "base64", "add it"
            )
        samples = self.config.format.decode(event["audio"])
        if len(samples):
            self._pending.append(samples)
            self._n_pending += len(samples)

    async def _update(self, session: object) -> None:
        """Change the configuration, or nothing where that is not possible."""
        config = self.config.update(session, self._service.settings)
        if config.format != self.config.format and self._n_heard:
            raise EventProblem(
                "invalid_value", "session.audio.input.format", "another format after the first audio",
                "the format of the audio before", "open another session",
            )  # fmt: skip
        if not config.same_hearing(self.config):
            stream = await self._open(config)
            await self._close_stream()
            if config.server_vad and self._items.current is not None:  # the client will commit no more
                await self._send(self._items.commit(self._committed_s, self._heard_s))
                await self._complete()
            self._stream, self._offset_s = stream, self._heard_s
        self.config = self._items.config = config

    async def _commit(self) -> None:
        """Make an item of the audio since the last one, and its text final."""
        audio_s = self._heard_s - self._committed_s
        if audio_s < MIN_COMMIT_S:
            raise EventProblem(
                "input_audio_buffer_commit_empty", None, f"a commit of {1000 * audio_s:.0f} ms of audio",
                f"{1000 * MIN_COMMIT_S:.0f} ms or more", "append audio first",
            )  # fmt: skip
        await self._send(self._items.commit(self._committed_s, self._heard_s))
        await self._close_stream()
        await self._complete()

    async def _complete(self) -> None:
        await self._send(self._items.complete())
        self._n_committed = self._n_heard

    async def _hear_pending(self) -> None:
        """Have all audio recognised that came in."""
        if not self._pending:
            return
        samples = np.concatenate(self._pending)
        self._pending, self._n_pending = [], 0
        began_s = self._heard_s
        self._n_heard += len(samples)
        try:
            if self._stream is None:
                self._stream, self._offset_s = await self._open(self.config), began_s
            events = await self._service.realtime.run(self._stream.feed, samples)
        except CancelledError:
            raise
        except Exception as error:
            await self._fail(error)
        else:
            await self._tell(events)
        self._service.metrics.observe_audio("realtime", len(samples) / self.config.format.rate)

    async def _close_stream(self) -> None:
        """Make everything final that the stream was given."""
        if self._stream is None:
            return
        try:
            events = await self._service.realtime.run(self._stream.finish)
        except CancelledError:
            raise
        except Exception as error:
            await self._fail(error)
        else:
            await self._tell(events)
        self._stream = None

    async def _tell(self, events: list[StreamEvent]) -> None:
        n_done = self._items.n_done
        await self._send(self._items.hear(events, self._offset_s))
        if self._items.n_done > n_done:
            self._n_committed = self._n_heard

    async def _fail(self, error: Exception) -> None:
        """Tell that audio could not be recognised, and go on behind it."""
        self._service.metrics.count_error(type(error).__name__)
        _log.error("audio of a session could not be recognised", exc_info=error)
        stream, self._stream = self._stream, None
        if stream is not None:
            await self._send(self._items.hear(stream.take_events(), self._offset_s, whole=False))
        failed = list(self._items.fail(error, self._heard_s))
        await self._send(failed or [messages.error_event(error)])
        self._n_committed = self._n_heard

    async def _open(self, config: SessionConfig) -> SpeechStream:
        """A stream that does what a configuration asks for."""
        usual = self._service.settings.decoding
        options = usual.replace(channels="mix", audio_track=None, vad="energy")
        stream: SpeechStream = await self._service.realtime.run(
            lambda: self._service.recogniser.open_stream(
                config.format.rate,
                task="translate" if config.translate else "transcribe",
                hotwords=config.hotwords,
                options=options,
                endpoint=config.endpoint,
                cancel=self._token,
            )
        )
        return stream

    @property
    def _heard_s(self) -> float:
        return self._n_heard / self.config.format.rate

    @property
    def _committed_s(self) -> float:
        return self._n_committed / self.config.format.rate

    def _describe(self, what: str, beta: bool = False) -> Event:
        """`session.created` or `session.updated`."""
        view: dict[str, Any] = {
            "type": "transcription",
            "object": OBJECT,
            "id": self._id,
            "expires_at": self._expires_s,
            "audio": {"input": self.config.describe_input(self._service.model_name)},
            "include": self.config.describe_include(),
        }
        if beta or self._beta:
            return make_event(f"transcription_session.{what}", session=to_beta(view))
        return make_event(f"session.{what}", session=view)

    async def _send(self, events: Iterable[Event]) -> None:
        for event in events:
            await self._socket.send_text(messages.encode(event))


def _idle(seconds: float | None) -> EventProblem:
    return EventProblem(
        "idle_timeout", None, f"no event for {seconds:g} s", "an event now and then", "open another session"
    )


def _expired(seconds: float) -> EventProblem:
    return EventProblem(
        "session_expired", None, f"the session is {seconds:g} s old", "shorter ones", "open another session"
    )
