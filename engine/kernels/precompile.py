"""Compile kernels before they are needed, also for levels that this processor lacks.

What the embedded bundle and Wav2Vec2 models call is listed in signatures.json, which
tests/reference/record_kernels.py writes. Code is written to one folder for each level; engine.kernels first
looks in its own folder `compiled`. Each level is compiled by separate processes.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.errors import OptionError, OutputError
from engine.kernels._disk_cache import KernelCache, Places, folder_of
from engine.kernels._dispatch import keep_code_in
from engine.kernels._signatures import decode
from engine.kernels.vector import levels

LIST = Path(__file__).parent / "signatures.json"
# The package itself is not imported: a build environment holds numba and little else. No -m: that would
# look for the package in the working directory first.
START = (
    "import sys, types; package = types.ModuleType('engine'); package.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['engine'] = package; "
    "from engine.kernels.precompile import run_level; run_level(*sys.argv[1:])"
)
SILENT_S, END_S = 900, 60  # a single kernel takes seconds
Signature = tuple[Any, ...]
Progress = Callable[[int, int], None]


class _Listed:
    """A cache that stores the listed signatures only: their code contains what they call."""

    def __init__(self, cache: KernelCache, signatures: set[Signature]) -> None:
        self._cache, self._signatures = cache, signatures

    def load_overload(self, signature: Signature, target_context: Any) -> Any:
        """The code of one signature, or None."""
        return self._cache.load_overload(signature, target_context) if signature in self._signatures else None

    def save_overload(self, signature: Signature, data: Any) -> None:
        """Write the code of a listed signature; an error of the disk is raised."""
        if signature in self._signatures:
            self._cache.save_or_raise(signature, data)


def read_list() -> dict[str, list[Signature]]:
    """Signatures as numba's types, by "module:function"."""
    listed = json.loads(LIST.read_text(encoding="utf-8"))
    return {name: [tuple(decode(part) for part in one) for one in many] for name, many in listed.items()}


def compile_level(level: levels.Level, folder: Path, part: int = 0, n_parts: int = 1) -> Iterator[None]:
    """Compile what is listed, in a process used for nothing else; yields after each signature.

    What is in the folder already is not compiled again.

    Args:
        folder: the parent of the level's folder.
        part, n_parts: which of the listed kernels, when several processes share them.
    """
    levels.force(level)
    listed, places = read_list(), Places(None, folder_of(folder, level))
    wanted = {name: set(listed[name]) for name in sorted(listed)[part::n_parts]}

    def make_cache(function: Any) -> _Listed:
        name = f"{function.__module__}:{function.__qualname__}"
        return _Listed(KernelCache(function, places), wanted.get(name, set()))

    keep_code_in(make_cache)
    for name in wanted:
        module, _, function = name.partition(":")
        kernel = getattr(importlib.import_module(module), function)
        for signature in listed[name]:
            kernel.compile(signature)
            yield


def run_level(folder: str, name: str, part: str = "0", n_parts: str = "1") -> None:
    """The process that compiles a part of one level; it prints a line for each signature."""
    for _ in compile_level(levels.LEVELS[name], Path(folder), int(part), int(n_parts)):
        sys.stdout.write("compiled\n")
        sys.stdout.flush()


def compile_ahead(folder: Path, names: Sequence[str], n_parts: int, progress: Progress | None = None) -> None:
    """Compile everything that is listed for some levels, one level after another.

    Args:
        folder: engine.kernels finds the code in its own folder `compiled`, or where NUMBA_CACHE_DIR
            points.
        names: of levels; the processor may lack them.
        n_parts: processes that share a level.
        progress: called with the signatures that are done and all of them.
    Raises:
        OptionError: an unknown level. OutputError: the folder cannot be written.
    """
    unknown = [name for name in names if name not in levels.LEVELS]
    if unknown:
        raise OptionError(f"level {unknown[0]!r}", f"one of {', '.join(levels.LEVELS)}", "name one of these")
    _check_folder(folder, names)
    total, done = len(names) * sum(len(many) for many in json.loads(LIST.read_text("utf-8")).values()), 0
    for name in names:
        running: list[subprocess.Popen[str]] = []
        try:
            running += (_start(folder, name, part, n_parts) for part in range(n_parts))
            for _ in _lines(running):
                done += 1
                if progress is not None:
                    progress(done, total)
            _raise_problems(running, folder, name)
        finally:  # also of an interruption: nothing goes on behind it
            for process in running:
                _end(process)


def _check_folder(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that takes no file before minutes go into code for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_compiled(" and ".join(names), str(error), folder) from error


def _not_compiled(name: str, reason: str, folder: Path) -> OutputError:
    return OutputError(
        f"kernels for {name} could not be compiled ({reason})",
        f"a folder that can be written, with 10 MB free: {folder}",
        "name another folder",
    )


def _start(folder: Path, name: str, part: int, n_parts: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", START, str(Path(__file__).parents[1]), str(folder), name]
    return subprocess.Popen(
        [*command, str(part), str(n_parts)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(END_S)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _lines(running: Sequence[subprocess.Popen[str]]) -> Iterator[str]:
    """Lines of several processes as they come, until all end or none has said anything for SILENT_S."""
    with selectors.DefaultSelector() as selector:
        for process in running:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in (ready := selector.select(SILENT_S)):
                stream: Any = key.fileobj
                line = stream.readline()
                if line:
                    yield line
                else:
                    selector.unregister(stream)
            if not ready:
                return


def _raise_problems(running: Sequence[subprocess.Popen[str]], folder: Path, name: str) -> None:
    for process in running:
        try:
            _, said = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            said = f"nothing was compiled for {SILENT_S} s"
        if process.returncode != 0:
            problem = said.strip().splitlines() or ["no reason was given"]
            raise _not_compiled(name, problem[-1], folder)
