"""One client: its events in order, one recording at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from engine.errors import CancelledError, EngineError
from engine.jobs.streams import SpeechStream
from engine.runtime.cancel import CancelToken
from engine.serve.errors import EventError, RequestTimeoutError
from engine.serve.settings import StreamOpener
from engine.serve.transport.sockets import LEFT_POLL_S, has_hung_up
from engine.serve.wyoming import protocol
from engine.serve.wyoming.protocol import AudioFormat, Event, EventReader
from engine.serve.wyoming.settings import WyomingSettings
from engine.serve.wyoming.utterance import Utterance

INTERNAL: Final = "something went wrong here; the log of the server says more"
LINGER_S: Final = 1.0  # for which a refused client may read why, and a cancelled call may end
NO_AUDIO: Final = AudioFormat(sample_rate=16_000, width=2, n_channels=1)
BLOCK_BYTES: Final = 64 << 10  # read at a time of what nobody looks at
_log = logging.getLogger("engine.serve.wyoming")


class Shared(Protocol):
    """What all connections have in common."""

    recogniser: StreamOpener
    settings: WyomingSettings
    info: Event

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Run a call on a thread."""
        ...


class Connection:
    """Reads events while a thread recognises, so that a client that leaves is noticed.

    A client that sends faster than a thread recognises is not read; the socket is asked whether it has left.
    """

    def __init__(self, shared: Shared, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over a connection; run() serves it."""
        self._shared, self._settings = shared, shared.settings
        self._stream, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._problem: tuple[str, str] | None = None  # why it ends: a text and its code
        self._names: tuple[str, ...] = ()
        self._utterance: Utterance | None = None  # the last one
        self._stopped = True  # whether audio-stop came since
        self._work: asyncio.Task[None] | None = None
        self._last_s = 0.0  # until when the recording must be complete, on the loop's clock
        self.leaving = False  # no recording begins any more
        self.since_s = self._loop.time()  # when the last event came

    @property
    def is_open(self) -> bool:
        """Whether audio is expected."""
        return not self._stopped and self._utterance is not None and not self._utterance.ended

    @property
    def is_idle(self) -> bool:
        """Whether no recording is under way."""
        return not self.is_open and (self._work is None or self._work.done())

    async def run(self) -> None:
        """Serve the client until one of the two leaves. Raises nothing."""
        reader = EventReader(self._stream, self._settings.max_event_bytes)
        try:
            async with self._timeout:
                self._set_deadline()
                while not self.leaving and (event := await reader.read()) is not None:
                    await self._answer(event)
                    self._set_deadline()
        except TimeoutError:
            if self.is_open:
                self.blame(_too_slow(self._settings))
        except EngineError as error:
            self.blame(error)
        except OSError:
            pass  # the client is gone
        except Exception:
            _log.exception("a connection failed")
            self._problem = (INTERNAL, "InternalError")
        await self._close()

    def end(self, error: EngineError | None = None) -> None:
        """End the connection now, and say why."""
        if error is not None:
            self.blame(error)
        self._wake(self._loop.time())

    def leave(self) -> None:
        """End the connection as soon as no recording is under way."""
        self.leaving = True
        if self.is_idle:
            self.end()

    def blame(self, error: EngineError) -> None:
        """The client is told so when the connection ends; the first reason counts."""
        self._problem = self._problem or (str(error), type(error).__name__)

    def _wake(self, when_s: float | None) -> None:
        """Let the reading end at a moment, or never."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._timeout.reschedule(when_s)

    def _set_deadline(self) -> None:
        """Until when the next event must be there; never, where the client waits for us."""
        self.since_s = self._loop.time()
        if self._problem is not None or (self.leaving and self.is_idle):
            self._wake(self.since_s)
        elif self.is_open:
            self._wake(min(self.since_s + self._settings.stall_s, self._last_s))
        else:
            self._wake(self.since_s + self._settings.idle_s if self.is_idle else None)

    async def _answer(self, event: Event) -> None:
        """Do what an event asks for; those that are not known are ignored, as the protocol wants it."""
        match event.type:
            case "describe":
                await self._send(self._shared.info)
            case "ping":
                await self._send(protocol.pong_event(event))
            case "transcribe":
                await self._begin_request(event)
            case "audio-start":
                await self._begin_audio(event)
            case "audio-chunk":
                await self._take_audio(event)
            case "audio-stop":
                await self._end_audio(event)

    async def _begin_request(self, event: Event) -> None:
        await self._wait_for_work(event)
        protocol.check_language(event, self._settings)
        self._names, n_left_out = protocol.read_names(event, self._settings)
        if n_left_out:
            _log.warning(
                "%d names of a request are left out, beyond the first %d", n_left_out, len(self._names)
            )

    async def _begin_audio(self, event: Event) -> None:
        await self._wait_for_work(event)
        self._open(protocol.read_format(event))

    async def _take_audio(self, event: Event) -> None:
        """Pass samples on. The first may come without a start: each says its format."""
        form = protocol.read_format(event)
        if self._stopped:
            await self._wait_for_work(event)
            self._open(form)
        utterance = self._utterance
        if utterance is None or utterance.ended:
            return  # a pause has ended the command, which the client does not know yet
        if form != utterance.form:
            raise EventError(
                f"samples of another format ({form.sample_rate} Hz, {form.width} bytes, {form.n_channels} "
                "channels) in the middle of a recording",
                "one format",
                "send audio-stop before",
            )
        if event.payload:
            utterance.push(event.payload)
            await utterance.wait_for_room()

    async def _end_audio(self, event: Event) -> None:
        """The text follows as soon as it is there; without audio there is none, which is no error."""
        if self._stopped:
            await self._wait_for_work(event)
            self._open(NO_AUDIO)
        self._stopped = True
        if self._utterance is not None and not self._utterance.ended:
            self._utterance.end()

    def _open(self, form: AudioFormat) -> None:
        self._stopped = False
        self._last_s = self._loop.time() + self._settings.max_duration_s + self._settings.stall_s
        self._utterance = Utterance(form, self._settings, self._shared.in_thread, self._send)
        self._work = asyncio.create_task(self._recognise(self._utterance))
        watch = asyncio.create_task(self._watch(self._utterance))
        self._work.add_done_callback(lambda _: watch.cancel())
        self._work.add_done_callback(lambda _: self._set_deadline())

    async def _watch(self, utterance: Utterance) -> None:
        """Free the core as soon as the client has left, however much it has sent before."""
        while not has_hung_up(self._writer.transport):
            await asyncio.sleep(LEFT_POLL_S)
        utterance.cancel()

    async def _wait_for_work(self, event: Event) -> None:
        """Wait for the recording before; only then the next one can begin.

        Raises:
            EventError: it still expects audio.
        """
        if self.is_open:
            raise EventError(f"{event.type} in the middle of a recording", "audio-stop", "send that before")
        if self._work is not None:
            await asyncio.wait({self._work})

    async def _recognise(self, utterance: Utterance) -> None:
        try:
            await utterance.run(self._open_stream)
        except CancelledError:
            pass  # the client is gone, or knows why
        except EngineError as error:
            self.blame(error)
        except OSError:
            self.end()
        except Exception:
            _log.exception("a recording failed")
            self._problem = (INTERNAL, "InternalError")

    def _open_stream(self, form: AudioFormat, cancel: CancelToken) -> SpeechStream:
        settings = self._settings
        return self._shared.recogniser.open_stream(
            form.sample_rate, task=settings.task, hotwords=self._names, options=settings.decoding,
            endpoint=settings.endpoint, cancel=cancel,
        )  # fmt: skip

    async def _send(self, event: Event) -> None:
        await protocol.write_event(event, self._writer, self._settings.write_timeout_s)

    async def _close(self) -> None:
        """Free the core, say what was wrong, and close."""
        if self._work is not None and not self._work.done():
            if self._utterance is not None:
                self._utterance.cancel()
            await asyncio.wait({self._work}, timeout=LINGER_S)
            self._work.cancel()
        with contextlib.suppress(OSError):
            if self._problem is not None:
                _log.info("refused: %s", self._problem[0])
                await self._send(protocol.error_event(*self._problem))
                await self._linger()
        self._writer.close()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._writer.wait_closed()
        except OSError:  # it does not read what it was sent
            self._writer.transport.abort()

    async def _linger(self) -> None:
        """Drop what still comes: a connection that is closed before takes the error with it."""
        self._writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await self._stream.read(BLOCK_BYTES):
                    pass


def _too_slow(settings: WyomingSettings) -> RequestTimeoutError:
    return RequestTimeoutError(
        "a recording that does not go on",
        f"an event every {settings.stall_s:g} s, and an end after {settings.max_duration_s:g} s",
        "send audio-stop at its end",
    )
