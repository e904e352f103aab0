"""Compiled kernels on disk: a folder for each state of the sources and each target, which may be read-only.

numba's own cache compares only the time of a function's file. It would load code after functions that it
calls in other files have changed, which may then read outside of arrays with a new layout; and it needs a
folder that can be written, which a container's image may not have.

A package may contain compiled kernels (in the folder `compiled`). They are read first; others are compiled
into a folder that can be written. A folder that other users could have written is not read.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.misc.appdirs import AppDirs

from engine.kernels._trust import find_distrusted
from engine.kernels.vector.levels import NONE, Level, active

_PREFIX = "kernels-"
_SOURCES = Path(__file__).parent
SHIPPED = _SOURCES / "compiled"
logger = logging.getLogger("engine")


class Places(NamedTuple):
    """Folders of one state.

    Attributes:
        shipped: comes with the package; None where it has nothing for this state.
        own: for what is compiled here; None where no folder can be written.
    """

    shipped: Path | None
    own: Path | None


def digest_sources(sources: Path) -> str:
    """A name for the state of all sources in a folder and of numba: 16 hexadecimal digits."""
    state = hashlib.sha256(numba.__version__.encode())
    for path in sorted(sources.rglob("*.py")):
        state.update(path.relative_to(sources).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


def name_target(level: Level) -> str:
    """A name for the target of the compiler: the level, and 8 hexadecimal digits of its exact features."""
    if level.name == NONE:
        name = config.CPU_NAME or llvm.get_host_cpu_name()  # type: ignore[attr-defined]
        features = config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()  # type: ignore[attr-defined]
    else:
        name, features = level.processor, ",".join(level.features)
    return f"{level.name}-{hashlib.sha256(repr((name, features)).encode()).hexdigest()[:8]}"


def list_places(sources: Path) -> list[Path]:
    """Folders that may hold the cache, best first: NUMBA_CACHE_DIR alone, or the package's and the user's."""
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        return [Path(config.CACHE_DIR)]  # type: ignore[attr-defined]
    users = AppDirs(appname="numba", appauthor=False)  # type: ignore[no-untyped-call]
    return [sources / "__pycache__", Path(users.user_cache_dir)]


def find_folder(places: Sequence[Path], state: str) -> Path | None:
    """The first folder that holds kernels of this state, else the first that can be written.

    Args:
        places: parent folders of the cache, best first.
        state: digests of sources and processor.
    Returns:
        None where nothing is compiled and nothing can be written, or others could have written it.
    """
    folders = [place / f"{_PREFIX}{state}" for place in places]
    for folder in folders:
        with suppress(OSError):
            if any(folder.glob("*.nbi")) and is_trusted(folder):
                return folder
    for folder in folders:
        with suppress(OSError):
            make_folder(folder)
            tempfile.TemporaryFile(dir=folder).close()
            if is_trusted(folder):
                return folder
    return None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, which only this user may write, whatever the umask is."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)


@cache
def is_trusted(folder: Path) -> bool:
    """Whether no other user could have put code into a folder; says so where one could."""
    wrong = find_distrusted(folder, _SOURCES)
    if wrong is not None:
        logger.warning(
            "compiled kernels in %s are not used: other users may write to %s, or own it; "
            "fix: chmod go-w it, or set NUMBA_CACHE_DIR to a folder of your own", folder, wrong
        )  # fmt: skip
    return wrong is None


def drop_other_states(place: Path, digest: str) -> None:
    """Delete what was compiled from earlier sources in a place that no other installation uses."""
    for folder in place.glob(f"{_PREFIX}*"):
        if not folder.name.startswith(f"{_PREFIX}{digest}"):
            shutil.rmtree(folder, ignore_errors=True)


@cache
def state_of_sources() -> str:
    """The digest of this package's kernels."""
    return digest_sources(_SOURCES)


def name_state(level: Level) -> str:
    """Sources and target."""
    return f"{state_of_sources()}-{name_target(level)}"


def folder_of(place: Path, level: Level) -> Path:
    """The folder in a place for the kernels of these sources and a level."""
    return place / f"{_PREFIX}{name_state(level)}"


@cache
def find_cache() -> Places:
    """Where the kernels of this process are stored."""
    state = name_state(active())
    shipped = folder_of(SHIPPED, active())
    own = find_folder(list_places(_SOURCES), state)
    if own is not None and own.parent == _SOURCES / "__pycache__":
        drop_other_states(own.parent, state_of_sources())
    return Places(shipped if shipped.is_dir() and is_trusted(shipped) else None, own)


class _Locator:
    """Tells numba where a function's code is stored; _Implementation sets the folder."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self._py_file = path
        self._line = function.__code__.co_firstlineno
        self.folder = Path()

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator:
        """numba's constructor."""
        return cls(function, path)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self.folder)

    def get_source_stamp(self) -> str:
        """Code of another stamp is not read."""
        return state_of_sources()

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return f"{Path(self._py_file).parent.name}-{self._line}"

    def ensure_cache_path(self) -> None:
        """Called before code is written."""
        make_folder(self.folder)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 (as numba declares it)


class _Index(IndexDataCacheFile):
    """numba's list of a function's compiled signatures; a damaged list is empty and is written again."""

    def _load_index(self) -> Any:
        try:
            return super()._load_index()  # type: ignore[no-untyped-call]
        except Exception:  # a truncated pickle may raise any exception
            return {}


class _FolderCache(FunctionCache):
    """numba's cache of one function in one folder. What cannot be read counts as missing."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._impl.locator.folder = folder
        self._cache_path = str(folder)
        self._cache_file = _Index(self._cache_path, self._impl.filename_base, state_of_sources())  # type: ignore[no-untyped-call]

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The code of one signature, or None."""
        try:
            return super().load_overload(signature, target_context)  # type: ignore[no-untyped-call]
        except Exception:  # damaged code may raise any exception
            return None


class KernelCache:
    """numba's cache of one function in two places. What cannot be read or written is compiled again."""

    def __init__(self, function: Callable[..., Any], places: Places) -> None:
        self._shipped, self._own = (
            _FolderCache(function, folder) if folder is not None else None for folder in places
        )

    @property
    def cache_path(self) -> str | None:
        """The folder that is written."""
        return self._own.cache_path if self._own else None

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The code of one signature, or None."""
        for place in (self._shipped, self._own):
            code = place.load_overload(signature, target_context) if place else None
            if code is not None:
                return code
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Write the code of one signature, unless the folder is read-only or its disk is full."""
        with suppress(OSError):
            self.save_or_raise(signature, data)

    def save_or_raise(self, signature: Any, data: Any) -> None:
        """Write the code of one signature, if there is a folder."""
        if self._own:
            self._own.save_overload(signature, data)  # type: ignore[no-untyped-call]

    def flush(self) -> None:
        """Forget what was compiled here."""
        if self._own:
            self._own.flush()  # type: ignore[no-untyped-call]
