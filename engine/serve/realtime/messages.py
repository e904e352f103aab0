"""Messages of a session: JSON text <-> events."""

from __future__ import annotations

import uuid
from typing import Any, Final

import msgspec

from engine.errors import EngineError, OptionError
from engine.serve import responses
from engine.serve.realtime.problems import SHOWN, EventProblem, show

Event = dict[str, Any]
ID_CHARS: Final = 24
CLIENT_EVENTS: Final = (
    "session.update", "transcription_session.update", "input_audio_buffer.append",
    "input_audio_buffer.commit", "input_audio_buffer.clear",
)  # fmt: skip
NO_TRANSCRIPTION: Final = ("response.", "conversation.", "output_audio_buffer.")


def new_id(kind: str) -> str:
    """A name for something, such as "item_5f0c..."."""
    return f"{kind}_{uuid.uuid4().hex[:ID_CHARS]}"


def make_event(kind: str, **fields: Any) -> Event:
    """An event of the server."""
    return {"type": kind, "event_id": new_id("event"), **fields}


def encode(event: Event) -> str:
    """An event as it is sent."""
    return msgspec.json.encode(event).decode()


def parse(message: str | bytes) -> Event:
    """An event of the client: an object with a known type.

    Raises:
        EventProblem: anything else.
    """
    if isinstance(message, bytes):
        raise EventProblem("invalid_json", None, "a binary message", "JSON text", "send audio as base64")
    try:
        event = msgspec.json.decode(message)
    except (ValueError, RecursionError):
        raise EventProblem("invalid_json", None, "a message that is not JSON", "one JSON object") from None
    if not isinstance(event, dict):
        raise EventProblem("invalid_json", None, f"the message {show(event)}", "one JSON object")
    return event


def check_type(event: Event) -> str:
    """The type of an event.

    Raises:
        EventProblem: none, or one that this service does not take.
    """
    if "type" not in event:
        raise EventProblem("missing_required_parameter", "type", "an event without type", "", "add it")
    kind = event["type"]
    if kind not in CLIENT_EVENTS:
        why = ""
        if isinstance(kind, str) and kind.startswith(NO_TRANSCRIPTION):
            why = " of a conversation"
        known = ", ".join(CLIENT_EVENTS)
        raise EventProblem("invalid_value", "type", f"the type {show(kind)}{why}", known, "leave it out")
    return str(kind)


def id_of(event: Event) -> str | None:
    """The client's own name for an event, as far as it has one."""
    given = event.get("event_id")
    return given[: 4 * SHOWN] if isinstance(given, str) else None


def describe_error(error: Exception) -> dict[str, Any]:
    """type, code and message of an error; ours, whose message may name paths, says no more than that."""
    if isinstance(error, EngineError) and (status := responses.status_of(error)) != 500:
        code = "invalid_value" if isinstance(error, OptionError) else type(error).__name__
        told = responses.error_object(status, str(error), getattr(error, "code", code))["error"]
        return {**told, "param": getattr(error, "param", None)}
    return dict(responses.error_object(500, responses.INTERNAL)["error"])


def error_event(error: Exception, event_id: str | None = None) -> Event:
    """An `error` event; event_id is that of the client's event."""
    return make_event("error", error={**describe_error(error), "event_id": event_id})
