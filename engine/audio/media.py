"""Everything else by FFmpeg (extra [media]): the only importer of av.

Meant for a child process, see audio/child.py: a damaged file can end the process that reads it here.
Samples are taken in packed form: a frame lists at most eight planes, whatever its channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from engine._distribution import install_command
from engine.audio.container_clock import ContainerClock
from engine.audio.decoding import Job, Output, damaged, decode_each, no_such_track
from engine.audio.extent import find_extent
from engine.errors import AudioDecodeError, DependencyError, EngineError

PENDING_BYTES: Final = 1 << 17  # frames are small; they are delivered together
# Decoders of these need nothing but rate and channels, so a layout that av cannot copy is left behind.
PCM_CODECS: Final = frozenset(
    f"pcm_{kind}{order}"
    for kind in ("s16", "u16", "s24", "u24", "s32", "u32", "f32", "f64")
    for order in ("le", "be")
) | {"pcm_s8", "pcm_u8", "pcm_alaw", "pcm_mulaw"}

_KEPT: Final[list[Any]] = []  # custom layouts, which must not be freed a second time


def decode_media(stream: BinaryIO, job: Job, out: Output) -> int:
    """Decode one audio track of a container, at the times that the container gives.

    Args:
        stream: seekable, from its start.
        job: what to decode. out: where to.
    Returns:
        The number of audio tracks that can be decoded.
    Raises:
        AudioDecodeError: no such track, or nothing of it can be decoded.
        DependencyError: av is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise missing_av(job) from error
    extent = find_extent(stream, job.demuxer)
    if extent.cut_off:
        out.note("it ends in the middle, as when recording is interrupted; all that is there is used")
    numbers, last = range(len(extent.starts)), len(extent.starts) - 1
    return decode_each(
        numbers,
        lambda number: _decode_file(av, _Span(stream, extent.starts, number), job, out, number == last),
        out,
    )[0]


def _decode_file(av: Any, stream: Any, job: Job, out: Output, last: bool) -> int:
    """Decode one of the files that are joined in a stream; return its number of audio tracks."""
    # A named demuxer never probes, and no protocol may be opened: playlists stay text.
    options = {"protocol_whitelist": "none", "enable_drefs": "0"}
    try:
        with av.open(stream, "r", format=job.demuxer, options=options, metadata_errors="replace") as file:
            tracks = [track for track in file.streams.audio if track.codec_context]
            if 0 < len(tracks) <= job.track:
                raise no_such_track(job.name, job.track + 1, len(tracks))
            if not tracks:
                raise AudioDecodeError(
                    f"{job.name} has no readable audio track", "sound", "pass another file"
                )
            _Track(av, file, tracks[job.track], job, out).decode()
            if last:
                out.done(len(tracks))
            return len(tracks)
    except EngineError:
        raise
    except (av.error.FFmpegError, IndexError, ValueError, OverflowError, MemoryError) as error:
        raise damaged(job.name, job.container, error) from error


class _Span:
    """One of the files that are joined in a stream, as a file of its own for av."""

    def __init__(self, stream: BinaryIO, starts: list[int], number: int) -> None:
        self._stream, self._start = stream, starts[number]
        size = stream.seek(0, os.SEEK_END)
        self._size = (starts[number + 1] if number + 1 < len(starts) else size) - self._start
        self._at = 0

    def read(self, n_bytes: int) -> bytes:
        self._stream.seek(self._start + self._at)
        content = self._stream.read(max(0, min(n_bytes, self._size - self._at))) or b""
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = min(max(base + offset, 0), self._size)
        return self._at

    def tell(self) -> int:
        return self._at


def missing_av(job: Job) -> DependencyError:
    """The error for a container that needs av where it is not installed."""
    return DependencyError(
        f"{job.name} is {job.container}, which libsndfile does not read",
        "the package av for this format",
        f"{install_command('media')}, or convert it to wav, flac, ogg, opus or mp3",
    )


class _Track:
    """One audio track on its way to the output."""

    def __init__(self, av: Any, file: Any, track: Any, job: Job, out: Output) -> None:
        self._av, self._file, self._track, self._job, self._out = av, file, track, job, out
        self._clock = ContainerClock(job.demuxer, file.start_time)
        self._context = self._open_context()
        self._converter: Any = None
        self._form: tuple[str, int, int] | None = None
        self._pending = bytearray()
        self._n_packets = self._n_damaged = self._n_frames = 0

    def decode(self) -> None:
        """Decode all packets that can be decoded; say how many could not."""
        error: Exception | None = None
        for packet in self._packets():
            self._out.beat()
            self._n_packets += 1
            self._n_damaged += bool(packet.is_corrupt)
            try:
                frames = self._context.decode(packet)
            except (self._av.error.FFmpegError, ValueError) as caught:
                error = caught
                self._n_damaged += not packet.is_corrupt
                continue
            for frame in frames:
                self._deliver(frame)
        self._flush()
        if error is not None and not self._n_frames:
            raise damaged(self._job.name, self._job.container, error) from error
        if self._n_damaged:
            self._out.note(
                f"{self._n_damaged} of {self._n_packets} packets are damaged; what they hold is missing"
            )
        for text in self._clock.notes:
            self._out.note(text)

    def _open_context(self) -> Any:
        context = self._track.codec_context
        layout = context.layout  # once: av frees the list of a custom layout with every object that shows it
        if " (" in layout.name or "@" in layout.name:
            _KEPT.append(layout)
        n_channels = layout.nb_channels
        if context.sample_rate > 0 and n_channels > 0:
            self._out.form(context.sample_rate, n_channels)
        if context.name in PCM_CODECS:
            fresh = self._av.CodecContext.create(context.name, "r")
            fresh.sample_rate = context.sample_rate
            fresh.layout = {1: "mono", 2: "stereo"}.get(n_channels, f"{n_channels} channels")
            return fresh
        context.thread_type = "NONE"
        if self._job.demuxer == "caf" and context.name == "alac":
            # The last frame knows how short it is; FFmpeg would cut it by that much once more.
            context.options = {"flags2": "skip_manual"}
        return context

    def _packets(self) -> Iterator[Any]:
        """The track's packets. A stream that appears in the middle is unknown to av: go on behind it."""
        while True:
            try:
                yield from self._file.demux(self._track)
                return
            except IndexError:
                self._out.beat()
            except self._av.error.FFmpegError:
                if not self._n_packets:
                    raise
                self._n_damaged += 1
                return

    def _deliver(self, frame: Any) -> None:
        n_channels = frame.layout.nb_channels
        self._out.form(frame.sample_rate, n_channels)
        form = (frame.format.name, n_channels, frame.sample_rate)
        if form != self._form:
            self._flush()
            self._form, self._converter = form, self._av.AudioResampler(format="flt")
        time_s = None if frame.pts is None else float(frame.pts * frame.time_base)
        silence_s, n_dropped = self._clock.place(time_s, frame.samples, frame.sample_rate)
        if silence_s:
            self._send()
            self._out.silence(silence_s)
        if n_dropped >= frame.samples:
            return
        self._n_frames += 1
        skip = n_dropped * 4 * n_channels
        for packed in self._converter.resample(frame):
            self._pending += self._bytes_of(packed)[skip:]
            skip = 0
        if len(self._pending) >= PENDING_BYTES:
            self._send()

    def _bytes_of(self, packed: Any) -> memoryview:
        n_bytes = 4 * packed.samples * packed.layout.nb_channels
        content = memoryview(packed.planes[0])
        if len(content) < n_bytes:
            raise damaged(self._job.name, self._job.container, "a frame is shorter than it says")
        return content[:n_bytes]

    def _flush(self) -> None:
        if self._converter is not None:
            for packed in self._converter.resample(None):
                self._pending += self._bytes_of(packed)
        self._send()

    def _send(self) -> None:
        if self._pending and self._form is not None:
            self._out.audio(bytes(self._pending), self._form[2], self._form[1])
            self._pending.clear()
