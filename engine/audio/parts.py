"""A part of an audio file: only the part is decoded where the format allows it, else all, and then cut."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple

from engine.audio.containers import HEAD_BYTES, sniff
from engine.audio.limits import SAMPLE_RATE, AudioLimits, Waveform, check_channels, check_duration, check_rate
from engine.audio.load import load_audio
from engine.errors import AudioValueError

SLACK_S: Final = 0.05  # manifests round their seconds
_ESTIMATED: Final = 0.02  # of an MP3's length, which its header often only estimates
# Formats in which libsndfile finds a sample exactly and at once. The others are decoded from the start.
_SEEKABLE: Final = ("WAV", "FLAC", "AIFF", "AU", "CAF", "Wave64")


class Length(NamedTuple):
    """How long a file is by its header, in seconds, and how far that may be from the truth."""

    seconds: float
    slack_s: float


def read_length(path: str | os.PathLike[str]) -> Length | None:
    """The length of a file by its header; None where it is missing or libsndfile cannot tell."""
    import soundfile

    try:
        if not Path(path).is_file():
            return None
        info = soundfile.info(os.fspath(path))
    except (OSError, ValueError, RuntimeError):  # soundfile's own errors are RuntimeErrors
        return None
    seconds = info.frames / max(info.samplerate, 1)
    if not 0 < seconds < 1e9:  # unknown, or a header that was never completed
        return None
    return Length(seconds, SLACK_S + (_ESTIMATED * seconds if info.format == "MP3" else 0.0))


def load_part(
    path: str | os.PathLike[str],
    offset_s: float = 0.0,
    duration_s: float | None = None,
    *,
    limits: AudioLimits | None = None,
) -> Waveform:
    """Load a part of a file as load_audio loads the whole.

    Args:
        path: the audio file.
        offset_s: where the part begins, in seconds.
        duration_s: its length in seconds; None is the rest of the file.
        limits: for the part; for the whole file where the format has to be decoded from its start.
    Returns:
        float32 [n_samples], mono, 16 kHz; n_samples = duration_s * 16,000, rounded.
    Raises:
        AudioValueError: offset or duration is negative, not finite, or beyond the file's end.
        AudioError: as load_audio.
    """
    return PartLoader(limits).load(path, offset_s, duration_s)


class PartLoader:
    """Loads parts one after the other; a file that must be decoded from its start is decoded once for all.

    Safe to share between threads. It holds the last such file.
    """

    def __init__(self, limits: AudioLimits | None = None) -> None:
        """Take the limits, which are those of load_part."""
        self._limits = limits or AudioLimits()
        self._lock = threading.Lock()
        self._held: tuple[str, Waveform] | None = None

    def load(
        self, path: str | os.PathLike[str], offset_s: float = 0.0, duration_s: float | None = None
    ) -> Waveform:
        """As load_part."""
        if not offset_s and duration_s is None:
            return load_audio(path, limits=self._limits)
        _check_numbers(path, offset_s, duration_s)
        waveform = _seek(path, offset_s, duration_s, self._limits)
        if waveform is not None:
            return waveform
        name = os.fspath(path)
        stated = read_length(path)  # whoever wrote the manifest has read the length there
        slack_s = stated.slack_s if stated is not None else SLACK_S
        whole = self._decode(name)
        return cut_part(whole, offset_s, duration_s, name=name, slack_s=slack_s, limits=self._limits)

    def _decode(self, name: str) -> Waveform:
        with self._lock:
            if self._held is None or self._held[0] != name:
                self._held = None  # before the next one needs room
                self._held = name, load_audio(name, limits=self._limits)
            return self._held[1]


def cut_part(
    waveform: Waveform,
    offset_s: float,
    duration_s: float | None,
    *,
    name: str,
    slack_s: float = SLACK_S,
    limits: AudioLimits | None = None,
) -> Waveform:
    """Cut a part out of a waveform of 16 kHz.

    Args:
        waveform: float32 [n_samples].
        offset_s, duration_s: as for load_part. name: for errors.
        slack_s: how far the part may reach beyond the end.
    Returns:
        A copy.
    Raises:
        AudioValueError: offset or duration is negative, not finite, or beyond the end.
    """
    _check_numbers(name, offset_s, duration_s)
    start, stop = _samples(offset_s, duration_s, SAMPLE_RATE, len(waveform))
    if start >= len(waveform) or stop > len(waveform) + slack_s * SAMPLE_RATE:
        raise _beyond(name, offset_s, duration_s, len(waveform) / SAMPLE_RATE)
    return load_audio(waveform[start:stop].copy(), SAMPLE_RATE, limits=limits)


def _check_numbers(path: object, offset_s: float, duration_s: float | None) -> None:
    good = math.isfinite(offset_s) and offset_s >= 0
    if duration_s is not None:
        good = good and math.isfinite(duration_s) and duration_s > 0
    if not good:
        raise AudioValueError(
            f"offset {offset_s} s and duration {duration_s} s of {path}",
            "an offset of at least 0 and a duration of more than 0 seconds",
            "correct the manifest",
        )


def _samples(offset_s: float, duration_s: float | None, rate: int, n_samples: int) -> tuple[int, int]:
    start = round(offset_s * rate)
    return start, n_samples if duration_s is None else start + max(round(duration_s * rate), 1)


def _beyond(path: object, offset_s: float, duration_s: float | None, length_s: float) -> AudioValueError:
    said = f"offset {offset_s:.10g} s" + (
        f" + duration {duration_s:.10g} s" if duration_s is not None else ""
    )
    return AudioValueError(
        f"{said} is beyond the end of {path} ({length_s:.3f} s)",
        "a part inside the file",
        "correct the manifest",
    )


def _seek(
    path: str | os.PathLike[str], offset_s: float, duration_s: float | None, limits: AudioLimits
) -> Waveform | None:
    """Read only the part; None where the format, or a header that may be wrong, does not allow it."""
    import soundfile

    if not Path(path).is_file():
        return None  # load_audio says what is wrong
    with open(path, "rb") as stream:
        head = stream.read(HEAD_BYTES)
    container = sniff(head) if head else None
    if container is None or container.name not in _SEEKABLE:
        return None
    try:
        with soundfile.SoundFile(os.fspath(path)) as file:
            block = _read_part(file, os.fspath(path), offset_s, duration_s, limits)
            rate = file.samplerate
    except soundfile.LibsndfileError:
        return None
    return None if block is None else load_audio(block, rate, limits=limits)


def _read_part(
    file: Any, name: str, offset_s: float, duration_s: float | None, limits: AudioLimits
) -> Any | None:
    check_channels(file.channels, name, limits)
    check_rate(file.samplerate, name, limits)
    start, stop = _samples(offset_s, duration_s, file.samplerate, file.frames)
    if duration_s is None or stop > file.frames:  # to the end: headers are often wrong about it
        return None
    check_duration((stop - start) / file.samplerate, name, limits)
    file.seek(start)
    block = file.read(stop - start, dtype="float32", always_2d=True)
    if len(block) < stop - start:
        return None
    return block[:, 0] if file.channels == 1 else block
