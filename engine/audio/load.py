"""Any audio file or array -> float32 mono 16 kHz, bounded in size and time.

Files are told apart by their first bytes, never by their names: a playlist, a script or a text has no
entry in the table of containers.py, and FFmpeg is told which demuxer to use, so nothing that a file names
is ever opened. Uncompressed samples are read here, FLAC, Vorbis and Opus by libsndfile; MP3 and everything
else is decoded in a child process, which a damaged file may end without ending this one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from types import FrameType
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine.audio import child
from engine.audio.containers import KINDS, Found, identify
from engine.audio.decoding import Job, damaged, find_decoder
from engine.audio.headers import read_layout
from engine.audio.limits import (
    SAMPLE_RATE,
    AudioLimits,
    Waveform,
    check_duration,
    check_length,
    check_rate,
    downmix,
)
from engine.audio.media import missing_av
from engine.audio.pcm import read_pcm
from engine.audio.sink import RESAMPLER_QUALITY, Sink, StreamResampler, resample
from engine.audio.sndfile import decode_flac, decode_ogg
from engine.audio.sources import descriptor_of, open_source, stream_size
from engine.audio.vad import detect_speech
from engine.errors import (
    AudioDecodeError,
    AudioError,
    AudioTooShortError,
    AudioValueError,
    AudioWarning,
    EngineError,
)
from engine.runtime.cancel import CancelToken

__all__ = [
    "RESAMPLER_QUALITY",
    "SAMPLE_RATE",
    "AudioLimits",
    "AudioSource",
    "StreamResampler",
    "Waveform",
    "downmix",
    "load_audio",
]

UNCOMPRESSED: Final = frozenset({"WAV", "AIFF", "AU", "CAF", "Wave64"})

AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[Any]


def load_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    *,
    limits: AudioLimits | None = None,
    cancel: CancelToken | None = None,
) -> Waveform:
    """Decode, downmix and resample speech.

    Args:
        source: a path, the bytes of a file, a binary file object (read from where it stands), or
            an array: [n_samples], [n_samples, n_channels] or [n_channels, n_samples]. The shorter
            axis of a 2-D array holds the channels. Integers are scaled by their dtype's range
            (int16 by 1/32768), unsigned ones around its middle.
        sample_rate: Hz, of an array (16,000 when None); files state their own.
        limits: bounds on duration, channels, rate and size.
        cancel: ends decoding from another thread.
    Returns:
        float32 [n_samples], mono (the mean of all channels), 16 kHz, nominally [-1, 1]. Times are
        those of the container: silence stands for what it says is not there. Joined files follow
        each other. It may share memory with a source array that already has this form.
    Warns:
        AudioWarning: once a file, if part of it is missing or damaged, or was chosen among several.
    Raises:
        AudioNotFoundError: no such file, or not a regular one.
        AudioDecodeError: not audio, or damaged.
        AudioShapeError: an array of a wrong shape or dtype.
        AudioValueError: no samples, or NaN, infinite or unscaled ones.
        AudioTooShortError: less than limits.min_duration_s.
        AudioLimitError: beyond one of the limits.
        CancelledError: cancel was set.
        DependencyError: the container needs the package av.
    """
    limits = limits or AudioLimits()
    if isinstance(source, np.ndarray):
        return _load_array(source, SAMPLE_RATE if sample_rate is None else sample_rate, limits)
    with open_source(source, limits) as (stream, name):
        sink = Sink(name, limits, cancel)
        sink.beat()
        try:
            waveform = _decode(stream, sink)
        except EngineError:
            raise
        except OSError as error:  # of the disk, or of what only looks like a file
            reason = error.strerror or str(error)
            raise AudioDecodeError(f"{name} cannot be read ({reason})", "a file", "copy it again") from error
        if sink.notes:
            _warn(f"{name}: {'; '.join(sink.notes)}", sys._getframe(1))
        return waveform


def _warn(text: str, caller: FrameType) -> None:
    """Warn at the caller's line, at each file: warnings.warn would keep all texts for ever."""
    where = caller.f_code.co_filename
    warnings.warn_explicit(AudioWarning(text), AudioWarning, where, caller.f_lineno, registry={})


def _load_array(samples: NDArray[Any], sample_rate: int, limits: AudioLimits) -> Waveform:
    check_rate(sample_rate, "the array", limits)
    waveform = downmix(samples, limits)
    check_duration(len(waveform) / sample_rate, "the array", limits)
    if len(waveform) and sample_rate != SAMPLE_RATE:
        waveform = resample(waveform, sample_rate)
    return check_length(waveform, "the array", limits)


def _decode(stream: BinaryIO, sink: Sink) -> Waveform:
    if not stream_size(stream):
        raise AudioDecodeError(f"{sink.name} is empty (0 bytes)", "an audio file", "check how it was written")
    found = identify(stream)
    if found is None:
        stream.seek(0)
        raise AudioDecodeError(
            f"{sink.name} begins with {stream.read(12)!r}, which no known audio format does",
            KINDS,
            "convert it, for instance `ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.flac`",
        )
    container = found.container
    if container.name == "MP3":
        return _decode_mpeg(stream, found, sink)
    if container.name == "FLAC":
        decode_flac(stream, found.start, sink.name, sink)
        return sink.finish()
    if container.name == "Ogg" and decode_ogg(stream, found.start, sink.name, sink):
        return sink.finish()
    if container.name in UNCOMPRESSED and _read_uncompressed(stream, found, sink):
        return sink.finish()
    return _decode_media(stream, found, sink)


def _read_uncompressed(stream: BinaryIO, found: Found, sink: Sink) -> bool:
    """Read plain samples; False, before anything is read, where a codec is needed."""
    layout = read_layout(stream, found.start)
    if layout is None:
        raise damaged(sink.name, found.container.name, "its header holds no samples")
    if layout.parts[0] is None:
        return False
    for text in layout.notes:
        sink.note(text)
    for number, part in enumerate(layout.parts, 1):
        if part is None:
            sink.note(f"recording {number} of those joined in it needs a codec and is left out")
        else:
            read_pcm(stream, part, sink)
    return True


def _decode_mpeg(stream: BinaryIO, found: Found, sink: Sink) -> Waveform:
    job = Job("mpeg", sink.name, found.container.name, found.container.demuxer, start=found.start)
    try:
        _run(stream, job, sink)
    except AudioDecodeError:
        if not _has_av():
            raise
        try:
            sink.restart()
            _run(stream, job._replace(kind="media"), sink)
        except AudioDecodeError:
            sink.restart()
        if not sink.duration_s:
            raise
    return sink.finish()


def _decode_media(stream: BinaryIO, found: Found, sink: Sink) -> Waveform:
    container = found.container
    job = Job("media", sink.name, container.name, container.demuxer, start=found.start)
    if not _has_av():
        if container.name not in (*UNCOMPRESSED, "Ogg"):
            raise missing_av(job)
        job = job._replace(kind="other")
    n_tracks = _run(stream, job, sink)
    return sink.finish() if n_tracks == 1 else _choose_track(stream, job, n_tracks, sink)


def _choose_track(stream: BinaryIO, job: Job, n_tracks: int, sink: Sink) -> Waveform:
    """The first track if it speaks, else the first of the others that does."""
    first, problem = _finish(sink)
    if first is not None and detect_speech(first):
        sink.note(f"it has {n_tracks} audio tracks; the first is used")
        return first
    for track in range(1, n_tracks):
        other = sink.sibling()
        try:
            _run(stream, job._replace(track=track), other)
        except AudioDecodeError:
            continue
        waveform, _ = _finish(other)
        if waveform is not None and detect_speech(waveform):
            sink.note(f"its first audio track is silent; track {track + 1} of {n_tracks} is used")
            for text in other.notes:
                sink.note(text)
            return waveform
    if first is None:
        raise problem or damaged(sink.name, job.container, "no track holds audio")
    sink.note(f"it has {n_tracks} audio tracks, and none speaks; the first is used")
    return first


def _finish(sink: Sink) -> tuple[Waveform | None, AudioError | None]:
    """The waveform, or why there is too little of it."""
    try:
        return sink.finish(), None
    except (AudioValueError, AudioTooShortError) as error:
        return None, error


def _run(stream: BinaryIO, job: Job, sink: Sink) -> int:
    """Decode in a child process; in this one only where the system has no way to hand files over."""
    if not child.AVAILABLE:
        return find_decoder(job.kind)(stream, job, sink)
    with descriptor_of(stream) as descriptor:
        return child.decode_in_child(descriptor, job, sink)


def _has_av() -> bool:
    try:
        return importlib.util.find_spec("av") is not None
    except (ImportError, ValueError):
        return False
