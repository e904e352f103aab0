"""Where results may be written: checked before any work, so that no input is lost and no work is in vain."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from engine.errors import OutputError

STREAMS: Final = ("/dev/std", "/dev/fd/", "/proc/")
FIX: Final = "choose another path"

Name = str | os.PathLike[str]


def is_stream(path: Name) -> bool:
    """A pipe or terminal takes no renaming; nor does /dev/stdout, whatever file it is redirected to."""
    opened = os.fspath(path).startswith(STREAMS)
    target = Path(path)
    return target.exists() and not target.is_dir() and (opened or not target.is_file())


class Inputs:
    """Files that a run reads, known by what they are and not by how they are spelled."""

    def __init__(self, files: Iterable[Name]) -> None:
        self._names = {_identity(file): os.fspath(file) for file in files}

    def find(self, path: Name) -> str | None:
        """The input that a path leads to, also by a link, a hard link or a name in another case."""
        return self._names.get(_identity(path))

    def find_inside(self, folder: Name) -> str | None:
        """An input that lies in a folder."""
        real = os.path.realpath(folder)
        return next((n for n in self._names.values() if Path(os.path.realpath(n)).is_relative_to(real)), None)

    def refuse(self, path: Name) -> None:
        """Raise OutputError for an output that is one of them."""
        if (same := self.find(path)) is not None:
            shown = repr(os.fspath(path))
            raise OutputError(f"{shown} is also the input {same!r}", "an output that is another file", FIX)


def check_apart(outputs: Iterable[Name], inputs: Iterable[Name]) -> None:
    """Refuse a run that would replace what it reads.

    Args:
        outputs: files, and folders that are replaced with all that they hold.
        inputs: files and folders; those that do not exist do not count.
    Raises:
        OutputError: an input is an output, or lies in one.
    """
    known = Inputs(path for path in inputs if Path(path).exists())
    for output in outputs:
        known.refuse(output)
        if (inside := known.find_inside(output)) is not None:
            shown = repr(os.fspath(output))
            raise OutputError(
                f"{shown} is overwritten and holds the input {inside!r}", "an output elsewhere", FIX
            )


def check_target(path: Name, inputs: Inputs | None = None, *, derived: bool = False) -> None:
    """Refuse a path that cannot be written, or that would replace what is read.

    Args:
        path: of a file that will be written, whether it exists or not.
        inputs: files that the same run reads, or is given.
        derived: the program made the name from that of an input, in a folder that was checked. Then a link
            is not followed, since nobody asked for what it points to, and no pipe or device is written into.
    Raises:
        OutputError: an input, also by a link or another spelling; a folder; a link, pipe or device with a
            name that was derived; a folder that is missing or that is not writable.
    """
    target = Path(path)
    shown = repr(os.fspath(path))
    if inputs is not None:
        inputs.refuse(path)
    if target.is_dir():
        raise OutputError(f"{shown} is a folder", "the path of a file", FIX)
    if derived and target.is_symlink():
        leads = os.fspath(target.readlink())
        raise OutputError(f"{shown} is a link to {leads!r}", "a file, or nothing yet", "remove the link")
    if is_stream(target):
        if derived:
            raise OutputError(f"{shown} is a pipe or device", "a file", "remove it, or use another folder")
    elif not derived:
        check_folder(Path(os.path.realpath(target)).parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder in which no file can be made.

    Raises:
        OutputError: it is missing, no folder, or not writable.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"nothing can be written to {os.fspath(folder)!r} ({error.strerror or error})",
            "a folder that exists and can be written",
            "create it, change its permissions or choose another one",
        ) from error


def find_clash(folder: Path, names: Sequence[str]) -> tuple[int, int] | None:
    """Which two names would be one file in a folder that exists; None where all are apart.

    Names that differ in case or in the form of their accents are one file on some disks: the folder is asked.
    """
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        key = _fold(name)
        if key in seen and (names[seen[key]] == name or _are_one(folder, names[seen[key]], name)):
            return seen[key], index
        seen.setdefault(key, index)
    return None


def _identity(path: Name) -> tuple[int, int] | str:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return os.path.realpath(os.fspath(path).replace("\0", ""))
    return status.st_dev, status.st_ino


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _are_one(folder: Path, first: str, second: str) -> bool:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".names-") as scratch:
        Path(scratch, first).touch()
        return Path(scratch, second).exists()
