"""Compiled kernels on disk: a folder for each state of the sources and processor, which may be read-only.

numba's own cache looks at the time of a function's file only. It keeps code whose callees in other
files have changed, which would then read outside of arrays with a new layout; and it needs a folder
that can be written, so that kernels compiled into a container's image were of no use there.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.misc.appdirs import AppDirs

_PREFIX = "kernels-"
_SOURCES = Path(__file__).parent


def digest_sources(sources: Path) -> str:
    """A name for the state of all sources in a folder and of numba: 16 hexadecimal digits."""
    state = hashlib.sha256(numba.__version__.encode())
    for path in sorted(sources.glob("*.py")):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


def digest_processor() -> str:
    """A name for what code is compiled for: 8 hexadecimal digits."""
    features = llvm.get_host_cpu_features().flatten()
    name = config.CPU_NAME or llvm.get_host_cpu_name()  # type: ignore[attr-defined]
    target = name, config.CPU_FEATURES or features  # type: ignore[attr-defined]
    return hashlib.sha256(repr(target).encode()).hexdigest()[:8]


def list_places(sources: Path) -> list[Path]:
    """Folders that may hold the cache, best first: NUMBA_CACHE_DIR alone, or the package's and the user's."""
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        return [Path(config.CACHE_DIR)]  # type: ignore[attr-defined]
    users = AppDirs(appname="numba", appauthor=False)  # type: ignore[no-untyped-call]
    return [sources / "__pycache__", Path(users.user_cache_dir)]


def find_folder(places: Sequence[Path], state: str) -> Path | None:
    """The first folder that holds kernels of this state, else the first that can be written.

    Args:
        places: folders that the cache's own may lie in.
        state: digests of sources and processor.
    Returns:
        None where nothing is compiled and nothing can be written.
    """
    folders = [place / f"{_PREFIX}{state}" for place in places]
    for folder in folders:
        with suppress(OSError):
            if any(folder.glob("*.nbi")):
                return folder
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    return None


def drop_other_states(place: Path, digest: str) -> None:
    """Delete what was compiled from earlier sources in a place that no other installation uses."""
    for folder in place.glob(f"{_PREFIX}*"):
        if not folder.name.startswith(f"{_PREFIX}{digest}"):
            shutil.rmtree(folder, ignore_errors=True)


DIGEST = digest_sources(_SOURCES)
FOLDER = find_folder(list_places(_SOURCES), f"{DIGEST}-{digest_processor()}")
if FOLDER is not None and FOLDER.parent == _SOURCES / "__pycache__":
    drop_other_states(FOLDER.parent, DIGEST)


class _Locator:
    """What numba asks where a function's code is kept."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self._py_file = path
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator | None:
        """None where there is no folder."""
        return None if FOLDER is None else cls(function, path)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(FOLDER)

    def get_source_stamp(self) -> str:
        """Code of another stamp is not read."""
        return DIGEST

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return str(self._line)

    def ensure_cache_path(self) -> None:
        """Called before code is written."""
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 (as numba declares it)


class KernelCache(FunctionCache):
    """numba's cache of one function, in FOLDER. What cannot be read or written is compiled anew."""

    _impl_class = _Implementation

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The code of one signature, or None."""
        with suppress(OSError):
            return super().load_overload(signature, target_context)  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Write the code of one signature, unless the folder is read-only or its disk is full."""
        with suppress(OSError):
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]
