"""`stream=true`: text as it becomes final, in server-sent events with OpenAI's names."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from engine.serve import responses
from engine.types import Transcript

FIRST_S: Final = 5.0  # until then an error still has a status of its own
ALIVE_S: Final = 10.0  # between comments that keep proxies from closing a quiet stream
COMMENT: Final = b": recognising\n\n"
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_log = logging.getLogger("engine.serve")
Partial = Callable[[str], None]


class Deltas:
    """Texts of a growing transcript -> what may be sent of them: whole words that two in a row agree on."""

    def __init__(self) -> None:
        self.sent = ""
        self._last: list[str] = []

    def advance(self, text: str) -> str:
        """What is new and agreed on."""
        words = text.split(" ")
        n_agreed = next(
            (i for i, (a, b) in enumerate(zip(words, self._last, strict=False)) if a != b),
            min(len(words), len(self._last)),
        )
        self._last = words
        return self._send(" ".join(words[:n_agreed]))

    def finish(self, text: str) -> str:
        """The rest; empty where the whole text is not a continuation of what was sent."""
        return self._send(text)

    def _send(self, text: str) -> str:
        if not text.startswith(self.sent):
            return ""
        delta, self.sent = text[len(self.sent) :], text
        return delta


class EventStream(Response):
    """An answer whose events come from a task. The task ends with the answer, whoever ends it."""

    def __init__(
        self, events: asyncio.Queue[bytes | None], task: asyncio.Task[None], first: bytes | None
    ) -> None:
        super().__init__()
        self._events, self._task, self._first = events, task, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the task has none any more."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            event: bytes | None = self._first or COMMENT
            while event is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                event = await _next(self._events, ALIVE_S, COMMENT)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._task.cancel()


async def stream_text(work: Callable[[Partial], Awaitable[Transcript]], logprobs: bool) -> Response:
    """Answer with the events of one recording.

    Args:
        work: recognises; called with what takes the text so far, from any thread.
        logprobs: the last event holds them.
    Raises:
        Whatever work raises before its first text.
    """
    loop, deltas = asyncio.get_running_loop(), Deltas()
    events: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put_delta(delta: str) -> None:
        if delta:
            events.put_nowait(_event({"type": "transcript.text.delta", "delta": delta}))

    def partial(text: str) -> None:
        loop.call_soon_threadsafe(lambda: put_delta(deltas.advance(text)))

    async def run() -> None:
        try:
            result = await work(partial)
            put_delta(deltas.finish(result.text))
            events.put_nowait(_event(_done(result, logprobs)))
        except Exception as error:
            if deltas.sent or began.is_set():
                events.put_nowait(_error_event(error))
            raise
        finally:
            events.put_nowait(None)

    began = asyncio.Event()
    task = asyncio.create_task(run())
    task.add_done_callback(_look_at)
    try:
        first = await _next(events, FIRST_S, COMMENT)
        if first is None or (first is COMMENT and task.done()):
            await task  # raises, unless the last event came just now
    except BaseException:
        task.cancel()
        raise
    began.set()
    return EventStream(events, task, first)


async def _next(events: asyncio.Queue[bytes | None], seconds: float, otherwise: bytes) -> bytes | None:
    try:
        return await asyncio.wait_for(events.get(), seconds)
    except TimeoutError:
        return otherwise


def _done(result: Transcript, logprobs: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"type": "transcript.text.done", "text": result.text}
    return content | ({"logprobs": responses.word_logprobs(result.words)} if logprobs else {})


def _error_event(error: Exception) -> bytes:
    """An error after the answer has begun."""
    if isinstance(error, EngineError) and responses.status_of(error) != 500:
        content = responses.error_object(responses.status_of(error), str(error), type(error).__name__)
    else:
        _log.error("a request failed", exc_info=error)
        content = responses.error_object(500, responses.INTERNAL)
    return _event({"type": "error", **content})


def _event(content: dict[str, Any]) -> bytes:
    return f"event: {content['type']}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def _look_at(task: asyncio.Task[None]) -> None:
    """Its error has been sent, or its client has left."""
    if not task.cancelled():
        task.exception()
