"""`stream=true`: text as it becomes final, in server-sent events with OpenAI's names."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineError
from engine.serve import responses
from engine.types import Segment, Transcript, Translation

FIRST_S: Final = 5.0  # until then an error still has a status of its own
ALIVE_S: Final = 10.0  # between comments that keep proxies from closing a quiet stream
COMMENT: Final = b": recognising\n\n"
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_log = logging.getLogger("engine.serve")
Partial = Callable[[Any], None]  # what is known so far: a text, or a translation
Event = dict[str, Any]


class Events(Protocol):
    """What is told of a growing result."""

    def advance(self, so_far: Any) -> Iterator[Event]:
        """What is new in what is known so far."""
        ...

    def finish(self, result: Any) -> Iterator[Event]:
        """The rest of it, and the whole."""
        ...


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


class TextEvents:
    """`transcript.text.delta` and `transcript.text.done`.

    Args:
        logprobs: the last event holds them.
    """

    def __init__(self, logprobs: bool) -> None:
        self._deltas, self._logprobs = Deltas(), logprobs

    def advance(self, so_far: str | Translation) -> Iterator[Event]:
        """The words that are certain now."""
        return _delta(self._deltas.advance(so_far if isinstance(so_far, str) else so_far.text))

    def finish(self, result: Transcript | Translation) -> Iterator[Event]:
        """The rest of the text, and all of it."""
        yield from _delta(self._deltas.finish(result.text))
        words = result.words if isinstance(result, Transcript) else ()
        content: Event = {"type": "transcript.text.done", "text": result.text}
        if self._logprobs:
            content["logprobs"] = responses.word_logprobs(words)
        if result.warnings:
            content["warnings"] = list(result.warnings)
        yield content


class SegmentEvents:
    """`transcript.text.segment`, one for each segment that is new or has changed, and a whole verbose_json.

    Args:
        granularities: as of verbose_json.
    """

    def __init__(self, granularities: frozenset[str]) -> None:
        self._granularities = granularities
        self._sent: list[tuple[Segment, Segment | None]] = []

    def advance(self, so_far: Translation) -> Iterator[Event]:
        """The segments that are not as they were sent."""
        pairs = responses.pair_segments(so_far)
        for index, pair in enumerate(pairs):
            if self._sent[index : index + 1] != [pair]:
                content = responses.segment_dict(index, *pair, with_words="word" in self._granularities)
                yield {"type": "transcript.text.segment", **content}
        self._sent = pairs

    def finish(self, result: Translation) -> Iterator[Event]:
        """The last segments, and all of them."""
        yield from self.advance(result)
        yield {"type": "transcript.text.done", **responses.verbose_json(result, self._granularities)}


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


async def stream_result(work: Callable[[Partial], Awaitable[Any]], told: Events) -> Response:
    """Answer with the events of one recording.

    Args:
        work: recognises; called with what takes the result so far, from any thread.
        told: what is told of it.
    Raises:
        Whatever work raises before its first event.
    """
    loop, began = asyncio.get_running_loop(), asyncio.Event()
    events: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(found: Iterator[Event]) -> None:
        for event in found:
            events.put_nowait(_event(event))
            began.set()

    def partial(so_far: Any) -> None:
        loop.call_soon_threadsafe(lambda: put(told.advance(so_far)))

    async def run() -> None:
        try:
            put(told.finish(await work(partial)))
        except Exception as error:
            if began.is_set():
                events.put_nowait(_error_event(error))
            raise
        finally:
            events.put_nowait(None)

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


def _delta(delta: str) -> Iterator[Event]:
    if delta:
        yield {"type": "transcript.text.delta", "delta": delta}


def _error_event(error: Exception) -> bytes:
    """An error after the answer has begun."""
    if isinstance(error, EngineError) and responses.status_of(error) != 500:
        content = responses.error_object(responses.status_of(error), str(error), type(error).__name__)
    else:
        _log.error("a request failed", exc_info=error)
        content = responses.error_object(500, responses.INTERNAL)
    return _event({"type": "error", **content})


def _event(content: Event) -> bytes:
    return f"event: {content['type']}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def _look_at(task: asyncio.Task[None]) -> None:
    """Its error has been sent, or its client has left."""
    if not task.cancelled():
        task.exception()
