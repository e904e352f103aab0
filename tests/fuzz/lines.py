"""Which lines of which functions ran: a count of what a fuzzer reaches, for modules it names.

Lines of a module's own body run when it is imported and prove nothing; only those of functions count.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Lines = dict[str, set[int]]


def function_lines(path: str, without: Collection[str] = ()) -> set[int]:
    """The lines of all functions of a source file that hold code, without those of some functions."""
    found: set[int] = set()
    waiting = [compile(Path(path).read_text(encoding="utf-8"), path, "exec")]
    while waiting:
        code = waiting.pop()
        if code.co_name in without:
            continue
        inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        waiting += inner
        if code.co_flags & 2:  # a function: a class or module has no fast locals
            heads = {code.co_firstlineno, *(one.co_firstlineno for one in inner if not one.co_flags & 2)}
            found |= {line for _, _, line in code.co_lines() if line} - heads
    return found


class LineCounter:
    """Lines of some modules, by file, that ran while it recorded."""

    def __init__(self, modules: Iterable[str], without: Collection[str] = ()) -> None:
        """without: functions that do not count, in any of the modules."""
        paths = {name: str(importlib.import_module(name).__file__) for name in modules}
        self.names = {path: name for name, path in paths.items()}
        self.wanted = {path: function_lines(path, without) for path in self.names}
        self.seen: Lines = {path: set() for path in self.names}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Trace this thread and those that it starts."""
        before = sys.gettrace()
        sys.settrace(self._call)
        threading.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)
            threading.settrace(None)  # type: ignore[arg-type]  - documented to take None

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        seen = self.seen.get(frame.f_code.co_filename)
        if seen is None:
            return None

        def line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                seen.add(frame.f_lineno)
            return line

        return line

    def add(self, seen: Mapping[str, Iterable[int]]) -> None:
        """Lines that another process saw."""
        for path, lines in seen.items():
            self.seen[path] |= set(lines)

    def shares(self) -> dict[str, list[int]]:
        """Lines that ran, and all, by module; and of all together."""
        found = {
            name: [len(self.seen[path] & self.wanted[path]), len(self.wanted[path])]
            for path, name in sorted(self.names.items(), key=lambda item: item[1])
        }
        return {**found, "all": [sum(pair[i] for pair in found.values()) for i in (0, 1)]}

    def missing(self) -> dict[str, list[int]]:
        """Lines that did not run, by module."""
        return {name: sorted(self.wanted[path] - self.seen[path]) for path, name in self.names.items()}
