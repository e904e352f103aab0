"""Results as txt, json, srt, vtt and tsv, by Whisper's conventions; files appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.errors import OptionError, OutputError
from engine.output.bilingual import compute_bilingual_cues
from engine.output.subtitles import Cue, compute_cues, word_cues
from engine.output.targets import is_stream
from engine.types import Segment, Transcript, Translation, Word

DECIMALS: Final = 3  # of seconds and probabilities

Result = Transcript | Translation


def render(
    result: Result, output_format: str, *, word_timestamps: bool = False, bilingual: bool = False
) -> str:
    """Write a result as text.

    Args:
        result: a transcript or a translation.
        output_format: txt (a line a segment), json (everything), srt, vtt, or tsv (milliseconds).
        word_timestamps: German words one by one: cues in srt, time tags inside the cues of vtt,
            rows in tsv. json always holds them; a translation has none.
        bilingual: srt and vtt show German above English; other formats stay as they are.
    Raises:
        OptionError: an unknown format; bilingual for a transcript, or together with word_timestamps.
    """
    if bilingual:
        _check_bilingual(result, word_timestamps)
    if bilingual and output_format in _CUE_WRITERS:
        assert isinstance(result, Translation)
        return _CUE_WRITERS[output_format](compute_bilingual_cues(result), False)
    writer = _WRITERS.get(output_format)
    if writer is None:
        raise OptionError(f"output format {output_format!r}", ", ".join(FORMATS), "name one of these")
    return writer(result, word_timestamps)


def _check_bilingual(result: Result, word_timestamps: bool) -> None:
    if not isinstance(result, Translation):
        raise OptionError("bilingual subtitles of a transcript", "a translation", "translate the audio")
    if word_timestamps:
        raise OptionError("bilingual with word_timestamps", "one of the two", "leave one out")


def write(
    result: Result,
    path: str | os.PathLike[str],
    output_format: str | None = None,
    *,
    word_timestamps: bool = False,
    bilingual: bool = False,
) -> Path:
    """Write a result to a file: beside it first, then renamed, so that nobody reads half of it.

    Args:
        path: its suffix tells the format when output_format is None.
    Returns:
        The path.
    Raises:
        OptionError: an unknown format or suffix. OutputError: the file cannot be written.
    """
    path = Path(path)
    kind = output_format or path.suffix[1:].lower()
    return write_text(render(result, kind, word_timestamps=word_timestamps, bilingual=bilingual), path)


def write_text(text: str, path: str | os.PathLike[str], *, follow: bool = True) -> Path:
    """Write UTF-8 text to a file as `write` does.

    Args:
        follow: write through a link; else the link itself is replaced.
    Raises:
        OutputError: the folder is missing, full or not writable, or the path is a folder.
    """
    try:
        if follow and is_stream(path):
            with open(path, "a", encoding="utf-8", newline="\n") as file:
                file.write(text)
        else:
            _replace(text, Path(os.path.realpath(path) if follow else path))
    except OSError as error:
        raise OutputError(
            f"{os.fspath(path)!r} cannot be written ({error.strerror or error})",
            "a path in a folder that exists and has room",
            "create the folder, free some space or choose another path",
        ) from error
    return Path(path)


def to_dict(result: Result) -> dict[str, Any]:
    """The contents of the json format, of plain Python values."""
    content: dict[str, Any] = {
        "text": result.text,
        "language": result.language,
        "duration": _round(result.duration_s),
        "segments": [_segment_dict(i, segment) for i, segment in enumerate(result.segments)],
        "stages_s": {stage: _round(seconds) for stage, seconds in result.stages_s.items()},
        "warnings": list(result.warnings),
    }
    if isinstance(result, Translation):
        content["source"] = to_dict(result.source)
    return content


def word_dict(word: Word) -> dict[str, Any]:
    """A word as Whisper's json has it."""
    return {
        "word": word.text,
        "start": _round(word.start_s),
        "end": _round(word.end_s),
        "probability": _round(word.confidence),
    }


def channel_dict(segment: Segment) -> dict[str, Any]:
    """Channel and speaker of a segment; empty where the channels were mixed."""
    return {"channel": segment.channel, "speaker": segment.speaker} if segment.channel else {}


def _segment_dict(index: int, segment: Segment) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": index,
        "start": _round(segment.start_s),
        "end": _round(segment.end_s),
        "text": segment.text,
        "confidence": _round(segment.confidence),
    }
    content |= channel_dict(segment)
    if segment.words:
        content["words"] = [word_dict(word) for word in segment.words]
    return content


def _round(value: float) -> float:
    return round(float(value), DECIMALS)


def _replace(text: str, target: Path) -> None:
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with open(beside, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _write_txt(result: Result, word_timestamps: bool) -> str:
    spoken = (segment for segment in result.segments if segment.text)
    return "".join(f"{_label(segment.speaker)}{_one_line(segment.text)}\n" for segment in spoken)


def _write_json(result: Result, word_timestamps: bool) -> str:
    return msgspec.json.format(msgspec.json.encode(to_dict(result)), indent=2).decode() + "\n"


def _write_tsv(result: Result, word_timestamps: bool) -> str:
    separate = any(segment.channel for segment in result.segments)
    rows = ["start\tend\tspeaker\ttext\n" if separate else "start\tend\ttext\n"]
    for segment in result.segments:
        if not segment.text:
            continue
        speaker = f"{segment.speaker}\t" if separate else ""
        entries: Sequence[Segment | Word] = segment.words if word_timestamps else ()
        for entry in entries or (segment,):
            start_ms, end_ms = round(entry.start_s * 1000), round(entry.end_s * 1000)
            rows.append(f"{start_ms}\t{end_ms}\t{speaker}{_one_line(entry.text)}\n")
    return "".join(rows)


def _write_srt(result: Result, word_timestamps: bool) -> str:
    return _srt(word_cues(result.segments) if word_timestamps else compute_cues(result.segments), False)


def _write_vtt(result: Result, word_timestamps: bool) -> str:
    return _vtt(compute_cues(result.segments), word_timestamps)


def _srt(cues: Sequence[Cue], _tagged: bool) -> str:
    blocks = (
        f"{i}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_label(cue.speaker)}{cue.text}\n"
        for i, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def _vtt(cues: Sequence[Cue], tagged: bool) -> str:
    blocks = ["WEBVTT\n"]
    for cue in cues:
        lines = _tagged_lines(cue) if tagged and cue.words else map(_escape, cue.lines)
        voice = f"<v {cue.speaker}>" if cue.speaker else ""
        times = f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}"
        blocks.append(f"{times}\n{voice}" + "\n".join(lines) + "\n")
    return "\n".join(blocks)


def _tagged_lines(cue: Cue) -> Iterator[str]:
    """Lines in which every word after the first of the cue carries the time when it is spoken."""
    for line in cue.words:
        tagged = []
        for word in line:
            tag = "" if word is cue.words[0][0] else f"<{_clock(word.start_s, '.')}>"
            tagged.append(tag + _escape(word.text))
        yield " ".join(tagged)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _label(speaker: str) -> str:
    return f"{speaker}: " if speaker else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clock(seconds: float, point: str) -> str:
    ms = max(0, round(seconds * 1000))
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


_WRITERS: Final[dict[str, Callable[[Result, bool], str]]] = {
    "txt": _write_txt,
    "json": _write_json,
    "srt": _write_srt,
    "vtt": _write_vtt,
    "tsv": _write_tsv,
}
_CUE_WRITERS: Final[dict[str, Callable[[Sequence[Cue], bool], str]]] = {"srt": _srt, "vtt": _vtt}
FORMATS: Final[tuple[str, ...]] = tuple(_WRITERS)
