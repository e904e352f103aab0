"""What may be wrong with an event of a client: told in an `error` event, after which the session goes on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from engine.errors import OptionError

SHOWN: Final = 60  # characters of a wrong value in a message


class EventProblem(OptionError):
    """An event that cannot be taken; nothing of it was.

    Attributes:
        code: as OpenAI names such problems. param: the field, with dots.
    """

    def __init__(self, code: str, param: str | None, got: str, want: str = "", fix: str = "") -> None:
        super().__init__(got, want, fix)
        self.code, self.param = code, param


def show(value: object) -> str:
    """A wrong value, short enough for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def invalid(param: str, value: object, want: str, fix: str = "correct it or leave it out") -> EventProblem:
    """A field with an impossible value."""
    return EventProblem("invalid_value", param, f"{param} {show(value)}", want, fix)


def require_object(value: object, param: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        EventProblem: something else.
    """
    if not isinstance(value, dict):
        raise invalid(param, value, "an object")
    return value


def check_names(given: Mapping[str, Any], known: Collection[str], param: str) -> None:
    """Refuse fields that are not known: a misspelled one would be ignored in silence.

    Raises:
        EventProblem: names the field.
    """
    for name in given:
        if name not in known:
            path = f"{param}.{name[:SHOWN]}"
            raise EventProblem(
                "unknown_parameter", path, f"the unknown field {path}", ", ".join(sorted(known)), "correct it"
            )


def one_of(value: object, known: Collection[str], param: str) -> str:
    """One of a few strings.

    Raises:
        EventProblem: something else.
    """
    if not isinstance(value, str) or value not in known:
        raise invalid(param, value, ", ".join(known), "name one of these")
    return value


def strings(value: object, param: str) -> tuple[str, ...]:
    """A list of strings; none where it is null.

    Raises:
        EventProblem: something else.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise invalid(param, value, "a list of strings")
    return tuple(value)


def whole_number(value: object, low: int, high: int, param: str) -> int:
    """A whole number within bounds.

    Raises:
        EventProblem: something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value % 1:
        raise invalid(param, value, f"a whole number, {low} to {high}")
    if not low <= value <= high:
        raise invalid(param, value, f"{low} to {high}")
    return int(value)
