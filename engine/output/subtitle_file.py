"""Subtitle files of others, SRT and WebVTT: read into cues and written again with nothing lost."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final, Literal

from engine.errors import TextFileError
from engine.manifests.text_file import split_lines

SubtitleKind = Literal["srt", "vtt"]
KINDS: Final[dict[str, SubtitleKind]] = {".srt": "srt", ".vtt": "vtt"}
_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(.*)")
_ARROW: Final = "-->"
_KEPT: Final = ("NOTE", "STYLE", "REGION")  # blocks of WebVTT without cues


@dataclass(frozen=True, slots=True)
class FileCue:
    """One cue of a file.

    Attributes:
        lines: as they stand between its times and the empty line, in WebVTT without entities.
        start_s, end_s: seconds.
        name: the line before the times: a number or an identifier; "" where there is none.
        settings: what stands behind the times.
        line: number of the line with its times, from 1.
    """

    lines: tuple[str, ...]
    start_s: float
    end_s: float
    name: str = ""
    settings: str = ""
    line: int = 0


@dataclass(frozen=True)
class SubtitleFile:
    """A whole file.

    Attributes:
        kind: "srt" or "vtt".
        blocks: cues, and in between blocks of lines that hold none (the header, notes, styles).
    """

    kind: SubtitleKind
    blocks: tuple[FileCue | tuple[str, ...], ...] = field(default=())

    @property
    def cues(self) -> list[FileCue]:
        """The cues in the order of the file."""
        return [block for block in self.blocks if isinstance(block, FileCue)]

    def with_lines(self, lines: Sequence[Sequence[str]]) -> SubtitleFile:
        """The same file with other lines in each cue."""
        new = iter(lines)
        blocks = (
            FileCue(tuple(next(new)), b.start_s, b.end_s, b.name, b.settings, b.line)
            if isinstance(b, FileCue)
            else b
            for b in self.blocks
        )
        return SubtitleFile(self.kind, tuple(blocks))


def find_kind(path: str) -> SubtitleKind | None:
    """The kind of subtitles that a file's name tells; None for another file."""
    return KINDS.get(PurePath(path).suffix.lower())


def read_subtitles(text: str, kind: SubtitleKind, name: str) -> SubtitleFile:
    """Read the text of a file.

    Args:
        text: of the whole file, without a byte order mark.
        name: how errors call the file.
    Raises:
        TextFileError: a block without times, or times that end before they begin; it names the line.
    """
    blocks: list[FileCue | tuple[str, ...]] = []
    for first, lines in _blocks(text):
        if kind == "vtt" and (not blocks or lines[0].split()[0] in _KEPT):
            if not blocks and not lines[0].startswith("WEBVTT"):
                raise TextFileError(f"{name}:{first}: {lines[0][:60]!r}", "WEBVTT", "give a WebVTT file")
            blocks.append(tuple(lines))
        else:
            blocks.append(_cue(lines, first, kind, name))
    return SubtitleFile(kind, tuple(blocks))


def render_subtitles(file: SubtitleFile, kind: SubtitleKind | None = None) -> str:
    """The text of a file; of another kind, cues are all that is kept.

    Args:
        kind: None for the file's own.
    """
    kind = kind or file.kind
    if kind == file.kind:
        blocks = ["\n".join(_cue_lines(b, kind) if isinstance(b, FileCue) else b) for b in file.blocks]
    else:
        blocks = ["WEBVTT"] if kind == "vtt" else []
        for number, cue in enumerate(file.cues, 1):
            body = tuple(map(_without_voices, cue.lines)) if kind == "srt" else cue.lines
            plain = FileCue(body, cue.start_s, cue.end_s, str(number) if kind == "srt" else "")
            blocks.append("\n".join(_cue_lines(plain, kind)))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _blocks(text: str) -> list[tuple[int, list[str]]]:
    """Runs of lines between empty ones, each with the number of its first line."""
    found: list[tuple[int, list[str]]] = []
    open_block = False
    for number, line in enumerate(split_lines(text.replace("\r\n", "\n").replace("\r", "\n")), 1):
        if not line.strip():
            open_block = False
        elif open_block:
            found[-1][1].append(line)
        else:
            found.append((number, [line]))
            open_block = True
    return found


def _cue(lines: list[str], first: int, kind: SubtitleKind, name: str) -> FileCue:
    at = 0 if _ARROW in lines[0] else 1
    match = _TIMES.fullmatch(lines[at]) if at < len(lines) else None
    if match is None:
        shown = lines[min(at, len(lines) - 1)][:60]
        raise TextFileError(
            f"{name}:{first + min(at, len(lines) - 1)}: {shown!r}", "00:00:01,000 --> 00:00:02,000",
            "give the cue its times, or remove empty lines inside it",
        )  # fmt: skip
    start_s, end_s = _seconds(match.groups()[:4]), _seconds(match.groups()[4:8])
    if end_s < start_s:
        raise TextFileError(
            f"{name}:{first + at}: a cue that ends before it begins", "times in order", "correct them"
        )
    body = tuple(html.unescape(line) if kind == "vtt" else line for line in lines[at + 1 :])
    return FileCue(body, start_s, end_s, lines[0] if at else "", match[9].rstrip(), first + at)


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


def _cue_lines(cue: FileCue, kind: SubtitleKind) -> list[str]:
    point = "," if kind == "srt" else "."
    times = f"{_clock(cue.start_s, point)} {_ARROW} {_clock(cue.end_s, point)}{cue.settings}"
    body = [_escape(line) if kind == "vtt" else line for line in cue.lines]
    return [*([cue.name] if cue.name else []), times, *body]


def _without_voices(line: str) -> str:
    """A line for players that know no tags but those of HTML: a voice becomes a name."""
    line = re.sub(r"<v(?:\.[^\s>]*)?\s+([^>]+)>", r"\1: ", line)
    return re.sub(r"</?(?:v|c|lang)\b[^>]*>|<\d[^>]*>", "", line)


def _escape(line: str) -> str:
    """Signs that WebVTT reads otherwise; tags stay."""
    line = re.sub(r"&(?!\w+;|#)", "&amp;", line)
    return re.sub(r"<(?!/?[a-z0-9])", "&lt;", line).replace(_ARROW, "--&gt;")


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"
