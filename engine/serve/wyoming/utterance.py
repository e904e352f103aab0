"""One recording on its way to text: audio comes in on the event loop, threads recognise it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from engine.errors import AudioLimitError
from engine.jobs.streams import SpeechStream
from engine.runtime.cancel import CancelToken
from engine.serve.wyoming import protocol
from engine.serve.wyoming.protocol import AudioFormat, Event
from engine.serve.wyoming.samples import FrameReader
from engine.serve.wyoming.settings import WyomingSettings
from engine.serve.wyoming.text import CommandText
from engine.types import StreamEvent

STEP_S: Final = 0.1  # of audio before a thread looks at it: streams decide as often
Open = Callable[[AudioFormat, CancelToken], SpeechStream]
InThread = Callable[..., Awaitable[Any]]  # (function, *arguments) -> its result
Send = Callable[[Event], Awaitable[None]]
_log = logging.getLogger("engine.serve.wyoming")


class Utterance:
    """Audio that waits for a thread, which takes all of it at once, and the text that comes back.

    Attributes:
        form: of the audio.
        ended: whether no more audio is wanted: the client has said so, or a pause, or an error.
    """

    def __init__(self, form: AudioFormat, settings: WyomingSettings, in_thread: InThread, send: Send) -> None:
        """Take audio; run() recognises it.

        Args:
            in_thread: runs a call on a thread.
            send: hands an event to the client.
        """
        self.form, self.ended = form, False
        self._settings, self._in_thread, self._send = settings, in_thread, send
        self._language = protocol.ENGLISH if settings.task == "translate" else protocol.GERMAN
        self._cancel, self._frames = CancelToken(), FrameReader(form)
        self._text = CommandText(settings.full_stop)
        self._waiting, self._n_bytes = bytearray(), 0
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._begun = False  # whether text was sent
        self._speaking, self._silent_s, self._paused = False, 0.0, False
        self._ended_s = 0.0

    @property
    def duration_s(self) -> float:
        """Seconds of audio that came."""
        return self._n_bytes / self.form.frame_bytes / self.form.sample_rate

    def push(self, block: bytes) -> None:
        """Take the next bytes.

        Raises:
            AudioLimitError: more audio than is allowed.
        """
        self._n_bytes += len(block)
        most_s = self._settings.max_duration_s
        if self.duration_s > most_s:
            raise AudioLimitError(
                f"a recording of more than {most_s:g} s", f"at most {most_s:g} s", "send audio-stop before"
            )
        self._waiting += block
        self._changed.set()

    async def wait_for_room(self) -> None:
        """Wait while too much audio waits for a thread; then the client has to wait as well."""
        while len(self._waiting) > self._settings.max_waiting_bytes and not self.ended:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """No more audio: the client says so."""
        self.ended, self._ended_s = True, time.perf_counter()
        self._changed.set()

    def cancel(self) -> None:
        """Free the core, and end run()."""
        self._cancel.cancel()
        self.ended = True
        self._changed.set()

    async def run(self, open_stream: Open) -> None:
        """Recognise until the end, and send the text.

        Args:
            open_stream: called on a thread.
        Raises:
            CancelledError of the engine: cancel() was called. OSError: the client does not take the text.
            Whatever opening a stream and recognising raise.
        """
        try:
            stream = await self._in_thread(open_stream, self.form, self._cancel)
            is_last = False
            while not is_last:
                is_last = await self._wait_for_step()
                content, self._waiting = bytes(self._waiting), bytearray()
                self._room.set()
                await self._tell(await self._in_thread(self._recognise, stream, content, is_last))
                is_last = is_last or self._is_over(stream)
            await self._finish()
        finally:
            self.ended = True
            self._room.set()

    async def _wait_for_step(self) -> bool:
        """Wait for audio that is worth a thread; whether it is the last."""
        least = STEP_S * self.form.sample_rate * self.form.frame_bytes
        while len(self._waiting) < least and not self.ended:
            self._changed.clear()
            await self._changed.wait()
        return self.ended

    def _recognise(self, stream: SpeechStream, content: bytes, is_last: bool) -> list[StreamEvent]:
        events = stream.feed(self._frames.read(content))
        return [*events, *stream.finish()] if is_last else events

    async def _tell(self, events: Sequence[StreamEvent]) -> None:
        """Send what is final, up to the end of the command."""
        wanted = "translation" if self._settings.task == "translate" else "final"
        for event in events:
            if event.kind in ("speech_start", "speech_end"):
                self._speaking, self._silent_s = event.kind == "speech_start", event.end_s
            elif event.kind == wanted:
                await self._send_text(self._text.add(event.text))
                self._paused = event.is_endpoint
                if self._paused and self._settings.ends_at_pause:
                    return

    def _is_over(self, stream: SpeechStream) -> bool:
        """Whether a pause ends the command, or nobody says one."""
        silent_s = 0.0 if self._speaking else stream.position_s - self._silent_s
        return self._settings.ends_at_pause and (self._paused or silent_s > self._settings.max_silence_s)

    async def _send_text(self, text: str) -> None:
        if not self._begun:
            self._begun = True
            await self._send(protocol.start_event(self._language))
        if text:
            await self._send(protocol.chunk_event(text))

    async def _finish(self) -> None:
        """Send the rest of the text, and all of it."""
        await self._send_text(self._text.finish())
        await self._send(protocol.transcript_event(self._text.text, self._language))
        await self._send(protocol.stop_event())
        if self._frames.left:
            _log.warning("the audio ended in the middle of a sample; are its width and channels right?")
        lag = (
            f", {1000 * (time.perf_counter() - self._ended_s):.0f} ms after its end" if self._ended_s else ""
        )
        _log.info("text of %d characters for %.1f s of audio%s", len(self._text.text), self.duration_s, lag)
