"""Any audio file or array -> float32 mono 16 kHz, bounded in size and time.

Files are told apart by their first bytes, never by their names: a playlist, a script or a text has no
entry in the table of containers.py, and FFmpeg is told which demuxer to use, so nothing that a file names
is ever opened. Uncompressed samples are read here, FLAC, Vorbis and Opus by libsndfile; MP3 and everything
else is decoded in a child process, which a damaged file may end without ending this one.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audio import child
from engine.audio.channels import drop_copies
from engine.audio.containers import KINDS, Found, identify
from engine.audio.decoding import Job, damaged, find_decoder, no_such_track
from engine.audio.headers import read_layout
from engine.audio.limits import (
    SAMPLE_RATE,
    AudioLimits,
    Waveform,
    check_duration,
    check_length,
    check_rate,
    downmix,
    read_array,
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
from engine.runtime.notices import warn_caller

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
SINGLE_TRACK: Final = UNCOMPRESSED | {"MP3", "FLAC"}

AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[Any]


class Audio(NamedTuple):
    """What a source holds.

    Attributes:
        waveforms: float32 [n_samples], mono, 16 kHz: one, or one for each channel, of equal lengths.
        channels: the number of each in the source, from 1.
        notes: what is missing, damaged, or was chosen among several.
        name: of the source, for messages.
    """

    waveforms: tuple[Waveform, ...]
    channels: tuple[int, ...]
    notes: tuple[str, ...]
    name: str

    def without_copies(self) -> Audio:
        """The same without channels that are copies of another one; a note says that there were some."""
        kept, note = drop_copies(self.waveforms)
        if not note:
            return self
        waveforms = tuple(self.waveforms[number] for number in kept)
        channels = tuple(self.channels[number] for number in kept)
        return Audio(waveforms, channels, (*self.notes, note), self.name)

    def warn(self, depth: int = 0) -> None:
        """Give the notes as one AudioWarning, depth frames above the caller's caller."""
        if self.notes:
            warn_caller(AudioWarning(f"{self.name}: {'; '.join(self.notes)}"), depth + 1)


def load_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    *,
    limits: AudioLimits | None = None,
    cancel: CancelToken | None = None,
    track: int | None = None,
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
        track: the audio track of a container, from 1; None takes the first one that speaks.
    Returns:
        float32 [n_samples], mono (the mean of all channels), 16 kHz, nominally [-1, 1]. Times are
        those of the container: silence stands for what it says is not there. Joined files follow
        each other. It may share memory with a source array that already has this form.
    Warns:
        AudioWarning: once a file, if part of it is missing or damaged, or was chosen among several.
    Raises:
        AudioNotFoundError: no such file, or not a regular one.
        AudioDecodeError: not audio, or damaged, or no such track.
        AudioShapeError: an array of a wrong shape or dtype.
        AudioValueError: no samples, or NaN, infinite or unscaled ones.
        AudioTooShortError: less than limits.min_duration_s.
        AudioLimitError: beyond one of the limits.
        CancelledError: cancel was set.
        DependencyError: the container needs the package av.
    """
    audio = read_audio(source, sample_rate, limits=limits, cancel=cancel, track=track)
    audio.warn()
    return audio.waveforms[0]


def read_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    *,
    limits: AudioLimits | None = None,
    cancel: CancelToken | None = None,
    channels: Literal["mix", "separate"] = "mix",
    track: int | None = None,
) -> Audio:
    """As load_audio, but what would be warned of is part of the result.

    Args:
        channels: "mix" averages them; "separate" keeps each.
    """
    limits, separate = limits or AudioLimits(), channels == "separate"
    if isinstance(source, np.ndarray):
        if track not in (None, 1):
            raise no_such_track("the array", track or 0, 1)
        rate = SAMPLE_RATE if sample_rate is None else sample_rate
        return _read_array(source, rate, limits, separate)
    with open_source(source, limits) as (stream, name):
        sink = Sink(name, limits, cancel, separate)
        sink.beat()
        try:
            waveforms = _decode(stream, sink, track)
        except EngineError:
            raise
        except OSError as error:  # of the disk, or of what only looks like a file
            reason = error.strerror or str(error)
            raise AudioDecodeError(f"{name} cannot be read ({reason})", "a file", "copy it again") from error
        return Audio(waveforms, _numbers(waveforms), tuple(sink.notes), name)


def _numbers(waveforms: tuple[Waveform, ...]) -> tuple[int, ...]:
    return tuple(range(1, len(waveforms) + 1))


def _read_array(samples: NDArray[Any], sample_rate: int, limits: AudioLimits, separate: bool) -> Audio:
    name = "the array"
    check_rate(sample_rate, name, limits)
    found, notes = read_array(samples, limits, separate)
    check_duration(len(found[0]) / sample_rate, name, limits)
    if len(found[0]) and sample_rate != SAMPLE_RATE:
        found = tuple(resample(waveform, sample_rate) for waveform in found)
    return Audio(
        tuple(check_length(waveform, name, limits) for waveform in found), _numbers(found), notes, name
    )


def _decode(stream: BinaryIO, sink: Sink, track: int | None) -> tuple[Waveform, ...]:
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
    if track is not None and track > 1 and container.name in SINGLE_TRACK:
        raise no_such_track(sink.name, track, 1)
    if container.name == "MP3":
        return _decode_mpeg(stream, found, sink)
    if container.name == "FLAC":
        decode_flac(stream, found.start, sink.name, sink)
        return sink.finish()
    if container.name == "Ogg" and track in (None, 1) and decode_ogg(stream, found.start, sink.name, sink):
        return sink.finish()
    if container.name in UNCOMPRESSED and _read_uncompressed(stream, found, sink):
        return sink.finish()
    return _decode_media(stream, found, sink, track)


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


def _decode_mpeg(stream: BinaryIO, found: Found, sink: Sink) -> tuple[Waveform, ...]:
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


def _decode_media(stream: BinaryIO, found: Found, sink: Sink, track: int | None) -> tuple[Waveform, ...]:
    container = found.container
    job = Job("media", sink.name, container.name, container.demuxer, (track or 1) - 1, found.start)
    if not _has_av():
        if container.name not in (*UNCOMPRESSED, "Ogg"):
            raise missing_av(job)
        job = job._replace(kind="other")
    n_tracks = _run(stream, job, sink)
    if n_tracks == 1 or track is not None:
        return sink.finish()
    return _choose_track(stream, job, n_tracks, sink)


def _choose_track(stream: BinaryIO, job: Job, n_tracks: int, sink: Sink) -> tuple[Waveform, ...]:
    """The first track if it speaks, else the first of the others that does."""
    first, problem = _finish(sink)
    if first is not None and _speaks(first):
        sink.note(f"it has {n_tracks} audio tracks; the first is used")
        return first
    for track in range(1, n_tracks):
        other = sink.sibling()
        try:
            _run(stream, job._replace(track=track), other)
        except AudioDecodeError:
            continue
        waveforms, _ = _finish(other)
        if waveforms is not None and _speaks(waveforms):
            sink.note(f"its first audio track is silent; track {track + 1} of {n_tracks} is used")
            for text in other.notes:
                sink.note(text)
            return waveforms
    if first is None:
        raise problem or damaged(sink.name, job.container, "no track holds audio")
    sink.note(f"it has {n_tracks} audio tracks, and none speaks; the first is used")
    return first


def _speaks(waveforms: tuple[Waveform, ...]) -> bool:
    return any(detect_speech(waveform) for waveform in waveforms)


def _finish(sink: Sink) -> tuple[tuple[Waveform, ...] | None, AudioError | None]:
    """The waveforms, or why there is too little of them."""
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
