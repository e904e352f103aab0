"""The log of the service: lines for people or JSON lines, never more of one kind than anybody reads."""

from __future__ import annotations

import json
import logging
import threading
import time
import warnings
from contextvars import ContextVar
from typing import Any, Final

WINDOW_S: Final = 10.0
MOST_IN_WINDOW: Final = 100  # lines of one kind
MOST_ANSWERED: Final = 1000  # of requests that were answered with text
MAX_LINE: Final = 4000  # characters of a message, and of a traceback
MAX_KINDS: Final = 1000
request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the HTTP request in work


class Bounded(logging.Filter):
    """Lets the first lines of one kind through in each window, then says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[tuple[Any, ...], int] = {}
        self._began_s = time.monotonic()
        self._left_out = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line."""
        with self._lock:
            return self._count(record)

    def _count(self, record: logging.LogRecord) -> bool:
        if time.monotonic() - self._began_s > WINDOW_S:
            self._report(record)
        fields = getattr(record, "fields", {})
        answered = fields.get("status") == 200 and fields["path"].startswith("/v1/audio/")
        key = (record.name, str(record.msg)[:200], fields.get("status"), answered)
        if key not in self._counts and len(self._counts) >= MAX_KINDS:
            return False
        self._counts[key] = self._counts.get(key, 0) + 1
        if self._counts[key] <= (MOST_ANSWERED if answered else MOST_IN_WINDOW):
            return True
        self._left_out += 1
        return False

    def _report(self, record: logging.LogRecord) -> None:
        """Say it in the next line that is looked at: no line of its own that could be lost."""
        if self._left_out:
            record.left_out = self._left_out
        self._counts.clear()
        self._began_s, self._left_out = time.monotonic(), 0


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, more with a traceback."""
        moment = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        name = request_id.get()
        text = f"{moment} {record.levelname.lower()} {_one_line(record.getMessage())}"
        text += f" [{name}]" if name else ""
        if left_out := getattr(record, "left_out", 0):
            text += f" ({left_out} similar lines were left out before)"
        if record.exc_info:
            text = text[:MAX_LINE] + "\n" + self.formatException(record.exc_info)[-MAX_LINE:]
        return text[: 2 * MAX_LINE]


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        content: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_LINE],
        }
        if name := request_id.get():
            content["request_id"] = name
        content |= getattr(record, "fields", {})
        if left_out := getattr(record, "left_out", 0):
            content["left_out"] = left_out
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)[-MAX_LINE:]
        return json.dumps(content, ensure_ascii=False)


def configure_logs(log_format: str) -> None:
    """Write everything to standard error.

    Args:
        log_format: "text" or "json".
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(Bounded())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("engine").setLevel(logging.INFO)
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    logging.getLogger("engine").warning("%s: %s", category.__name__, message)


def _one_line(text: str) -> str:
    """No line of the log is written by a client."""
    return text.replace("\r", "\\r").replace("\n", "\\n")
