"""What a command line names as input: files, folders, patterns and standard input, in a stable order."""

from __future__ import annotations

import glob
import os
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from engine.audio.containers import HEAD_BYTES, sniff
from engine.audio.limits import AudioLimits
from engine.errors import AudioLimitError, AudioNotFoundError, EngineError, OptionError

STDIN, STDIN_NAME = "-", "stdin"
# Names that are audio or video whatever is inside: what turns out to be none is reported, not left out.
SUFFIXES: Final = frozenset(
    "3g2 3gp aac ac3 aif aifc aiff amr asf au avi caf flac flv m2ts m4a m4b m4v mka mkv mov mp2 mp3 mp4 mpeg "
    "mpg mpga mts oga ogg opus snd vob w64 wav wave webm wma wmv wv".split()
)
UNFINISHED: Final = frozenset("crdownload download part partial swp temp tmp".split())
# First bytes that no text has by chance; the other kinds are only looked for behind a known suffix.
CERTAIN: Final = frozenset(
    ("AIFF", "AMR", "CAF", "FLAC", "Matroska or WebM", "MPEG transport stream", "Ogg", "WAV", "Wave64",
     "WavPack", "Windows Media")
)  # fmt: skip
IMAGE_BRANDS: Final = (b"avif", b"avis", b"crx ", b"hei", b"hevc", b"mif1", b"msf1")  # they begin as MP4 does


class Input(NamedTuple):
    """One recording that is to be worked on.

    Attributes:
        path: of the file; "-" is standard input.
        place: where it stands below the folder or pattern that named it ("a/x.wav"); else its name.
        error: why nothing can be read there; None for a file.
    """

    path: str
    place: str
    error: EngineError | None = None

    @property
    def label(self) -> str:
        """How messages call it."""
        return "standard input" if self.path == STDIN else self.path


class Found(NamedTuple):
    """The inputs, and how many files of folders were left out because they are not audio."""

    inputs: list[Input]
    n_left_out: int


def find_inputs(arguments: Sequence[str]) -> Found:
    """Find every recording that some arguments name.

    Args:
        arguments: files; folders, which are searched with everything below them; patterns that the shell has
            left alone (`'**/*.mp3'`); "-" for standard input.
    Returns:
        In the order of the arguments, and sorted by path inside each. What a folder or pattern holds comes
        once, without hidden and unfinished files, and without what is not audio, by its name or first bytes;
        a file that is named twice comes twice. What cannot be read or holds no audio is an input with an
        error.
    Raises:
        OptionError: standard input twice.
    """
    if arguments.count(STDIN) > 1:
        raise OptionError("'-' twice", "standard input once", "leave one out")
    roots = [argument for argument in arguments if argument != STDIN and _root(argument) is not None]
    base = _common([str(_root(argument)) for argument in roots]) if len(roots) > 1 else None
    walk = _Walk()
    inputs: list[Input] = []
    named: set[Path] = set()
    searched: set[Path] = set()
    for argument in arguments:
        alone = len(arguments) == 1 and Path(argument).is_dir()
        is_searched = argument in roots
        for each in _of_argument(argument, base, walk):
            if not alone:
                place = _absolute(each.path)
                if place in searched or (is_searched and place in named):
                    continue
                (searched if is_searched else named).add(place)
            inputs.append(each)
    return Found(_separate(inputs), walk.n_left_out)


def read_standard_input(limits: AudioLimits | None = None) -> bytes:
    """The whole of standard input: the bytes of an audio file.

    Raises:
        AudioNotFoundError: it is closed or a terminal. AudioLimitError: more bytes than limits allow.
    """
    most = (limits or AudioLimits()).max_file_bytes
    if sys.stdin is None or sys.stdin.closed:
        raise AudioNotFoundError("standard input is closed", "an audio file", "pipe one: ... < FILE")
    if sys.stdin.isatty():
        raise AudioNotFoundError("standard input is a terminal", "an audio file", "pipe one: ... < FILE")
    content = sys.stdin.buffer.read(most + 1)
    if len(content) > most:
        raise AudioLimitError(f"standard input holds more than {most} bytes", "fewer", "save it to a file")
    return content


def name_outputs(places: Sequence[str]) -> list[str]:
    """Name the outputs of inputs by where they stand.

    Args:
        places: relative paths, with suffixes.
    Returns:
        For each its path without the suffix, or with it where two would otherwise have the same name, also
        on systems that do not tell capitals apart.
    Raises:
        OptionError: two inputs with the same place.
    """
    names = [str(Path(place).with_suffix("")) for place in places]
    keys = [_key(name) for name in names]
    while True:
        counts = Counter(keys)
        shared = [i for i, key in enumerate(keys) if counts[key] > 1 and names[i] != places[i]]
        if not shared:
            break
        for i in shared:
            names[i], keys[i] = places[i], _key(places[i])
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OptionError(
            f"two inputs share the name {twice[0]!r}", "distinct names", "use one --output_dir for each"
        )
    return names


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _root(argument: str) -> str | None:
    """The folder below which an argument's files stand; None for a single file."""
    if Path(argument).is_dir():
        return argument
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return None
    parts = Path(argument).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:fixed]))


def _of_argument(argument: str, base: str | None, walk: _Walk) -> Iterator[Input]:
    root = None if argument == STDIN else _root(argument)
    if root is None:
        yield Input(argument, STDIN_NAME if argument == STDIN else Path(argument).name)
        return
    is_folder = Path(argument).is_dir()
    n_found = 0
    for match in [argument] if is_folder else sorted(_match(argument), key=_parts):
        place = _place(match, base or root)
        if not Path(match).is_dir() and not walk.is_wanted(match):
            continue
        for each in walk.inputs(match, place) if Path(match).is_dir() else [Input(match, place)]:
            n_found += 1
            yield each
    if not n_found:
        said = f"folder {argument!r} holds no audio" if is_folder else f"no audio matches {argument!r}"
        problem = AudioNotFoundError(said, "at least one audio file", "check the path")
        yield Input(argument, Path(argument).name, problem)


def _match(pattern: str) -> list[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207  - Path.glob finds hidden files too
    return [path for path in found if not is_unfinished(Path(path).name)]


class _Walk:
    """Goes through folders; each is searched once, whatever links lead to it."""

    def __init__(self) -> None:
        self.n_left_out = 0
        self._seen: set[tuple[int, int]] = set()

    def inputs(self, folder: str, place: str) -> Iterator[Input]:
        """Audio files below a folder, sorted; one with an error for a folder that cannot be read."""
        waiting = [(folder, "" if place == os.curdir else place + os.sep, True)]
        while waiting:
            path, place, is_folder = waiting.pop()
            if not is_folder:
                yield Input(path, place)
                continue
            try:
                entries = self._entries(path)
            except OSError as error:
                said = f"folder {path!r} cannot be read ({error.strerror})"
                problem = AudioNotFoundError(said, "a readable folder", "check its permissions")
                yield Input(path, place.rstrip(os.sep), problem)
                continue
            for entry in entries:
                inside = entry.is_dir()
                if inside or self.is_wanted(entry.path):
                    waiting.append((entry.path, place + entry.name + (os.sep if inside else ""), inside))

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """What a folder holds, last first."""
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in self._seen:
            return []
        self._seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            wanted = [entry for entry in entries if not is_unfinished(entry.name)]
        return sorted(wanted, key=lambda entry: entry.name, reverse=True)

    def is_wanted(self, path: str) -> bool:
        """Whether a file is audio; those that are not are counted."""
        if is_audio(path):
            return True
        self.n_left_out += 1
        return False


def is_unfinished(name: str) -> bool:
    """Whether a file's name says that it is hidden, or not complete yet."""
    return name.startswith((".", "~$")) or name.endswith("~") or _suffix(name) in UNFINISHED


def is_audio(path: str) -> bool:
    """Whether a file of a folder is audio or video, by its suffix, else by its first bytes."""
    if _suffix(path) in SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    if head[4:8] == b"ftyp":
        return not head[8:12].startswith(IMAGE_BRANDS)
    container = sniff(head)
    certain = container is not None and container.name in CERTAIN
    return head.startswith(b"ID3") or (certain and (head[:4] != b"FORM" or head[8:12] in (b"AIFF", b"AIFC")))


def _suffix(name: str) -> str:
    _, point, suffix = name.rpartition(os.sep)[2].rpartition(".")
    return suffix.lower() if point else ""


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).parts


def _separate(inputs: list[Input]) -> list[Input]:
    """Inputs that stand at the same place get one below the folder that they have in common."""
    counts = Counter(_key(each.place) for each in inputs)
    shared = [i for i, each in enumerate(inputs) if counts[_key(each.place)] > 1 and each.path != STDIN]
    if shared:
        base = _common([str(_absolute(inputs[i].path).parent) for i in shared])
        for i in shared:
            inputs[i] = inputs[i]._replace(place=_place(inputs[i].path, base))
    return inputs


def _absolute(path: str | Path) -> Path:
    """Without following links: a file keeps the place that its name says."""
    return Path(os.path.normpath(Path(path).absolute()))


def _common(folders: Sequence[str]) -> str | None:
    try:
        return os.path.commonpath([_absolute(folder) for folder in folders])
    except ValueError:  # on several drives
        return None


def _place(path: str, base: str | None) -> str:
    try:
        place = os.path.relpath(_absolute(path), _absolute(base or Path(path).parent))
    except ValueError:
        place = Path(path).name
    return Path(path).name if place.startswith(os.pardir) else place
