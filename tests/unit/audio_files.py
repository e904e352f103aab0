"""Small audio files for tests, made by soundfile and PyAV: joined, cut, late, with gaps and many channels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

RATE = 16_000


def noise(duration_s: float, seed: int = 0, sample_rate: int = RATE, n_channels: int = 1) -> np.ndarray:
    """Speech-like in its spectrum: smoothed noise, float32 [n] or [n, n_channels]."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(int(duration_s * sample_rate) + 64, n_channels))
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(16), "same"), 0, white)[:-64]
    wave = (0.3 * smooth / np.abs(smooth).max()).astype(np.float32)
    return wave[:, 0] if n_channels == 1 else wave


def encoded(samples: np.ndarray, form: str, subtype: str | None = None, sample_rate: int = RATE) -> bytes:
    """A file by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=form, subtype=subtype)
    return buffer.getvalue()


class Track(NamedTuple):
    """One audio track: samples [n] or [n, n_channels]; its start; a stretch without packets."""

    samples: np.ndarray
    start_s: float = 0.0
    gap_s: tuple[float, float] = (0.0, 0.0)


def muxed(
    tracks: Sequence[Track],
    form: str,
    codec: str,
    sample_rate: int = RATE,
    layout: str = "mono",
    **options: str,
) -> bytes:
    """A container by FFmpeg."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options=options) as file:
        streams = [file.add_stream(codec, rate=sample_rate, layout=layout) for _ in tracks]
        for stream in streams:
            stream.codec_context.format = "s16p" if codec == "wavpack" else stream.codec_context.format
        packets = []
        for track, stream in zip(tracks, streams, strict=True):
            packets += encode(av, stream, track, sample_rate, layout)
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            file.mux(packet)
    return buffer.getvalue()


def encode(av, stream, track: Track, sample_rate: int, layout: str) -> list:
    """The packets of a track with the times (s) at which they start."""
    samples = track.samples if track.samples.ndim == 2 else track.samples[:, None]
    kind = stream.codec_context.format.name
    if samples.shape[1] > 7 and kind.endswith("p"):
        kind = "flt"  # av lists at most eight planes; the encoder converts
    packets = []
    for first in range(0, len(samples), 960):
        block = samples[first : first + 960]
        packed = block.reshape(1, -1) if not kind.endswith("p") else np.ascontiguousarray(block.T)
        if kind.startswith("s"):
            dtype = np.int16 if kind.startswith("s16") else np.int32
            packed = np.round(packed.astype(np.float64) * np.iinfo(dtype).max).astype(dtype)
        frame = av.AudioFrame.from_ndarray(packed, format=kind, layout=layout)
        frame.sample_rate, frame.pts = sample_rate, first
        frame.time_base = Fraction(1, sample_rate)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    kept = []
    for packet in packets:
        time_s = float((packet.pts or 0) * packet.time_base)
        if not track.gap_s[0] <= time_s < track.gap_s[1]:
            shift = round(track.start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            kept.append((time_s + track.start_s, packet))
    return kept


def find_offset(waveform: np.ndarray, part: np.ndarray) -> tuple[int, float]:
    """Where a part is found in a waveform, in samples, and the correlation there (0 to 1)."""
    size = 1 << (len(waveform) + len(part)).bit_length()
    spectrum = np.fft.rfft(waveform, size) * np.conj(np.fft.rfft(part, size))
    found = np.fft.irfft(spectrum, size)[: max(1, len(waveform) - len(part) // 2)]
    at = int(np.argmax(found))
    there = waveform[at : at + len(part)]
    norm = float(np.linalg.norm(there) * np.linalg.norm(part[: len(there)])) or 1.0
    return at, float(found[at]) / norm
