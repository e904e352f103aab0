"""Any audio file or array -> float32 mono 16 kHz, bounded in size and time.

The only importer of soundfile (beside parts.py), soxr and, for some containers, av. Files are told apart by
their first bytes, never by their names: a playlist, a script or a text has no entry in the table of
audio_container.py, and FFmpeg is told which demuxer to use, so nothing that a file names is ever opened.
"""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine._distribution import install_command
from engine.audio.containers import HEAD_BYTES, KINDS, Container, check_wav_header, sniff
from engine.audio.limits import (
    SAMPLE_RATE,
    AudioLimits,
    Waveform,
    check_bytes,
    check_channels,
    check_duration,
    check_length,
    check_rate,
    check_values,
    downmix,
)
from engine.errors import (
    AudioDecodeError,
    AudioLimitError,
    AudioNotFoundError,
    AudioShapeError,
    DependencyError,
)

__all__ = [
    "SAMPLE_RATE",
    "AudioLimits",
    "AudioSource",
    "StreamResampler",
    "Waveform",
    "downmix",
    "load_audio",
]

RESAMPLER_QUALITY: Final = "HQ"
BLOCK_SAMPLES: Final = 1 << 18  # decoded at a time, over all channels
UNKNOWN_FRAMES: Final = 1 << 62  # libsndfile's "the header does not say"
MP3_LENGTH_SLACK: Final = 0.02  # an MP3's stated length is often an estimate

AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | NDArray[Any]
_log = logging.getLogger("engine")


def load_audio(
    source: AudioSource, sample_rate: int | None = None, *, limits: AudioLimits | None = None
) -> Waveform:
    """Decode, downmix and resample speech.

    Args:
        source: a path, the bytes of a file, a binary file object (read from where it stands), or
            an array: [n_samples], [n_samples, n_channels] or [n_channels, n_samples]. The shorter
            axis of a 2-D array holds the channels. Integers are scaled by their dtype's range
            (int16 by 1/32768), unsigned ones around its middle.
        sample_rate: Hz, of an array (16,000 when None); files state their own.
        limits: bounds on duration, channels, rate and size.
    Returns:
        float32 [n_samples], mono (the mean of all channels), 16 kHz, nominally [-1, 1].
        It may share memory with a source array that already has this form.
    Raises:
        AudioNotFoundError: no such file, or not a regular one.
        AudioDecodeError: not audio, damaged, or cut off.
        AudioShapeError: an array of a wrong shape or dtype.
        AudioValueError: no samples, or NaN, infinite or unscaled ones.
        AudioTooShortError: less than limits.min_duration_s.
        AudioLimitError: beyond one of the limits.
        DependencyError: the container needs the package av.
    """
    limits = limits or AudioLimits()
    if isinstance(source, np.ndarray):
        return _load_array(source, SAMPLE_RATE if sample_rate is None else sample_rate, limits)
    with _open_source(source, limits) as (stream, name):
        sink = _Sink(name, limits)
        _decode(stream, name, sink, limits)
        return sink.finish()


class StreamResampler:
    """Mono chunks at any rate -> 16 kHz, without a seam between chunks.

    Args:
        sample_rate: Hz of the chunks.
    """

    def __init__(self, sample_rate: float) -> None:
        self.sample_rate = sample_rate
        self._stream: Any = None
        if sample_rate != SAMPLE_RATE:
            import soxr

            self._stream = soxr.ResampleStream(
                sample_rate, SAMPLE_RATE, 1, dtype="float32", quality=RESAMPLER_QUALITY
            )

    def push(self, chunk: Waveform) -> Waveform:
        """Resample float32 [n] and return what is ready, float32 [m]; lags some milliseconds."""
        return chunk if self._stream is None else self._call(chunk, last=False)

    def flush(self) -> Waveform:
        """Return the rest after the last chunk; the object is spent."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else self._call(empty, last=True)

    def _call(self, chunk: Waveform, last: bool) -> Waveform:
        return np.asarray(self._stream.resample_chunk(chunk, last=last), np.float32)


def _load_array(samples: NDArray[Any], sample_rate: int, limits: AudioLimits) -> Waveform:
    check_rate(sample_rate, "the array", limits)
    waveform = downmix(samples, limits)
    check_duration(len(waveform) / sample_rate, "the array", limits)
    if len(waveform) and sample_rate != SAMPLE_RATE:
        import soxr

        waveform = soxr.resample(waveform, sample_rate, SAMPLE_RATE, quality=RESAMPLER_QUALITY)
    return check_length(waveform, "the array", limits)


class _Sink:
    """Grows the 16 kHz waveform block by block and stops at the first limit that is passed."""

    def __init__(self, name: str, limits: AudioLimits) -> None:
        self._name, self._limits = name, limits
        self._resampler: StreamResampler | None = None
        self._bytes = bytearray()  # grows in place: no second copy at the end
        self._n_decoded = 0

    def push(self, block: Waveform, sample_rate: float) -> None:
        """Take float32 [n, n_channels] at sample_rate Hz; the rate may change between blocks."""
        self._n_decoded += block.size
        if self._n_decoded > self._limits.max_decoded_samples:
            raise AudioLimitError(
                f"{self._name} decodes to more than {self._limits.max_decoded_samples} samples",
                "fewer over all channels",
                "resample or cut it first, or raise AudioLimits.max_decoded_samples",
            )
        waveform = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        check_values(waveform, self._name)
        if self._resampler is None or self._resampler.sample_rate != sample_rate:
            self._flush()
            self._resampler = StreamResampler(sample_rate)
        self._append(self._resampler.push(np.ascontiguousarray(waveform)))

    def finish(self) -> Waveform:
        """Return float32 [n_samples]."""
        self._flush()
        waveform = np.frombuffer(self._bytes, np.float32)
        return check_length(waveform, self._name, self._limits)

    def _flush(self) -> None:
        if self._resampler is not None:
            self._append(self._resampler.flush())

    def _append(self, waveform: Waveform) -> None:
        self._bytes += waveform.data
        check_duration(len(self._bytes) / (4 * SAMPLE_RATE), self._name, self._limits)


class _Buffer(io.BytesIO):
    """Bytes in which damaged headers may seek before the start without a complaint on stderr."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(base + offset, 0))


@contextmanager
def _open_source(source: Any, limits: AudioLimits) -> Iterator[tuple[BinaryIO, str]]:
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        with _open_file(name) as file:
            yield file, name
    elif isinstance(source, bytes | bytearray | memoryview):
        check_bytes(len(source), limits)
        yield _Buffer(source), "the buffer"
    elif hasattr(source, "read"):
        yield _read_object(source, limits), "the file object"
    else:
        raise AudioShapeError(
            f"audio of type {type(source).__name__}",
            "a path, bytes, a binary file object or a numpy array",
            "convert it, for instance np.asarray(samples, dtype=np.float32)",
        )


def _open_file(name: str) -> BinaryIO:
    try:
        status = Path(name).stat()
        if stat.S_ISREG(status.st_mode):
            return open(name, "rb", buffering=0)  # libsndfile shares the descriptor
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fix = "download it first: the engine opens no network" if "://" in name else "check the path"
        raise AudioNotFoundError(f"{name!r} cannot be opened ({reason})", "an audio file", fix) from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioNotFoundError(f"{name!r} is a folder", "an audio file", "pass the path of a file in it")
    raise AudioNotFoundError(f"{name!r} is a pipe or device", "an audio file", "save what it holds to a file")


def _read_object(source: Any, limits: AudioLimits) -> BinaryIO:
    content = bytearray()
    while True:
        part = "" if isinstance(source, io.TextIOBase) else source.read(1 << 20)
        if isinstance(part, str):
            raise AudioDecodeError("a file object opened as text", "a binary one", "open(path, 'rb')")
        if not part:
            return _Buffer(content)
        content += part
        check_bytes(len(content), limits)


def _decode(stream: BinaryIO, name: str, sink: _Sink, limits: AudioLimits) -> None:
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if not head:
        raise AudioDecodeError(f"{name} is empty (0 bytes)", "an audio file", "check how it was written")
    container = sniff(head)
    if container is None:
        raise AudioDecodeError(
            f"{name} begins with {head[:12]!r}, which no known audio format does",
            KINDS,
            "convert it, for instance `ffmpeg -i INPUT -ac 1 -ar 16000 OUTPUT.flac`",
        )
    if container.magic == b"WAVE":
        check_wav_header(head, name, limits)
    if container.sndfile and _decode_sndfile(stream, name, container, sink, limits):
        return
    stream.seek(0)
    _decode_av(stream, name, container, sink, limits)


def _decode_sndfile(
    stream: BinaryIO, name: str, container: Container, sink: _Sink, limits: AudioLimits
) -> bool:
    """Decode with libsndfile; False where it does not know this codec but av may."""
    import soundfile

    source = stream if isinstance(stream, _Buffer) else stream.fileno()
    try:
        file = soundfile.SoundFile(source, closefd=False)
    except soundfile.LibsndfileError as error:
        if _av() is not None:
            return False
        raise _damaged(name, container, error) from error
    with file:
        check_channels(file.channels, name, limits)
        check_rate(file.samplerate, name, limits)
        if file.frames < UNKNOWN_FRAMES:
            check_duration(file.frames / file.samplerate, name, limits)
        try:
            n_frames = _read_blocks(file, sink)
        except soundfile.LibsndfileError as error:
            raise _damaged(name, container, error) from error
        _check_complete(n_frames, file.frames, name, container)
    return True


def _read_blocks(file: Any, sink: _Sink) -> int:
    block = np.empty((BLOCK_SAMPLES // file.channels, file.channels), np.float32)
    n_frames = 0
    # Not .read(): it stops at the frame count of the header, which may be wrong or absent.
    while n := file.buffer_read_into(block, "float32"):
        sink.push(block[:n], file.samplerate)
        n_frames += n
    return n_frames


def _check_complete(n_frames: int, n_claimed: int, name: str, container: Container) -> None:
    if n_claimed >= UNKNOWN_FRAMES or n_frames >= n_claimed:
        return
    message = f"{name} ends after {n_frames} of {n_claimed} frames"
    if container.name == "FLAC":
        raise AudioDecodeError(message, "a complete FLAC file", "copy or download it again")
    if n_frames < n_claimed * (1 - MP3_LENGTH_SLACK):
        _log.warning("%s; the rest is missing", message)


def _decode_av(stream: BinaryIO, name: str, container: Container, sink: _Sink, limits: AudioLimits) -> None:
    av = _av()
    if av is None:
        raise DependencyError(
            f"{name} is {container.name}, which libsndfile does not read",
            "the package av for this format",
            f"{install_command('media')}, or convert it to wav, flac, ogg, opus or mp3",
        )
    # A named demuxer never probes, and no protocol may be opened: playlists stay text.
    options = {"protocol_whitelist": "none", "enable_drefs": "0"}
    try:
        with av.open(
            stream, "r", format=container.demuxer, options=options, metadata_errors="replace"
        ) as file:
            if not any(track.codec_context for track in file.streams.audio):
                raise AudioDecodeError(f"{name} has no readable audio track", "sound", "pass another file")
            _push_frames(av, file, name, sink, limits)
    except av.error.FFmpegError as error:
        raise _damaged(name, container, error) from error


def _push_frames(av: Any, file: Any, name: str, sink: _Sink, limits: AudioLimits) -> None:
    track = next(track for track in file.streams.audio if track.codec_context)
    track.thread_type = "NONE"
    check_channels(track.codec_context.channels, name, limits)
    converter: Any = None
    form = None
    for frame in file.decode(track):
        check_rate(frame.sample_rate, name, limits)
        check_channels(frame.layout.nb_channels, name, limits)
        if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
            converter = av.AudioResampler(format="fltp")  # scales only: rate and layout stay
        for converted in converter.resample(frame):
            sink.push(converted.to_ndarray().T, frame.sample_rate)


def _damaged(name: str, container: Container, error: Exception) -> AudioDecodeError:
    reason = str(getattr(error, "error_string", None) or error).rstrip(".")
    return AudioDecodeError(
        f"{name} begins as {container.name} but cannot be decoded ({reason})",
        f"a complete and undamaged {container.name} file",
        "copy, download or record it again",
    )


def _av() -> Any:
    """The module av, or None where it is not installed."""
    try:
        import av
    except ImportError:
        return None
    return av
