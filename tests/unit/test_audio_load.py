"""Every format, rate, dtype and channel count ends as the same float32 mono 16 kHz waveform."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio import load as audio
from engine.audio import pcm
from engine.audio.load import SAMPLE_RATE, AudioLimits, StreamResampler, load_audio
from engine.errors import AudioWarning

TONE_HZ = 440.0


def tone(sample_rate: int, duration_s: float = 1.0, n_channels: int = 1) -> np.ndarray:
    times = np.arange(int(sample_rate * duration_s)) / sample_rate
    wave = (0.5 * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.float32)
    return wave if n_channels == 1 else np.stack([wave] * n_channels, axis=1)


def encoded(samples: np.ndarray, sample_rate: int, form: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format=form, subtype=subtype)
    return buffer.getvalue()


def dominant_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(waveform))


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-3),
        ("WAV", "PCM_24", 1e-4),
        ("WAV", "PCM_U8", 2e-2),
        ("WAV", "FLOAT", 1e-4),
        ("WAV", "ULAW", 3e-2),
        ("FLAC", "PCM_16", 1e-3),
        ("AIFF", "PCM_16", 1e-3),
        ("AU", "PCM_16", 1e-3),
        ("OGG", "VORBIS", 5e-2),
        ("OGG", "OPUS", 5e-2),
        ("MP3", "MPEG_LAYER_III", 5e-2),
    ],
)
def test_every_libsndfile_format_reads_the_same(
    form: str, subtype: str, tolerance: float, tmp_path: Path
) -> None:
    content = encoded(tone(48_000), 48_000, form, subtype)
    path = tmp_path / "no_such_suffix.raw"  # names decide nothing
    path.write_bytes(content)
    want = load_audio(tone(48_000), 48_000)
    for source in (path, str(path), content, bytearray(content), io.BytesIO(content), path.open("rb")):
        got = load_audio(source)
        assert got.dtype == np.float32
        assert got.ndim == 1
        assert len(got) == SAMPLE_RATE
        middle = slice(2_000, 14_000)  # codecs ring at the edges
        assert np.abs(got[middle] - want[middle]).max() < tolerance


@pytest.mark.parametrize(
    "sample_rate", [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 384_000]
)
def test_every_rate_keeps_length_and_pitch(sample_rate: int) -> None:
    from_file = load_audio(encoded(tone(sample_rate), sample_rate, "WAV", "FLOAT"))
    from_array = load_audio(tone(sample_rate), sample_rate)
    assert len(from_file) == len(from_array) == SAMPLE_RATE
    np.testing.assert_allclose(from_file, from_array, atol=1e-6)
    assert dominant_hz(from_file) == pytest.approx(TONE_HZ, abs=1.5)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 6, 8])
def test_channels_are_averaged(n_channels: int) -> None:
    samples = np.zeros((4_000, n_channels), np.float32)
    samples[:, -1] = 0.5
    want = np.full(4_000, 0.5 / n_channels, np.float32)
    for layout in (samples, samples.T, np.asfortranarray(samples)):
        np.testing.assert_allclose(load_audio(layout), want, rtol=1e-6)
    np.testing.assert_allclose(load_audio(encoded(samples, 16_000, "WAV", "FLOAT")), want, rtol=1e-6)


def test_the_shorter_axis_holds_the_channels_and_a_tie_reads_rows_as_samples() -> None:
    square = np.arange(16, dtype=np.float32).reshape(4, 4) / 16
    np.testing.assert_allclose(audio.downmix(square), square.mean(axis=1))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.int8, -128, 127),
        (np.int16, -32768, 32767),
        (np.int32, -(2**31), 2**31 - 1),
        (np.uint8, 0, 255),
        (np.uint16, 0, 65535),
        (np.dtype(">i2"), -32768, 32767),
    ],
)
def test_integers_fill_minus_one_to_one(dtype: np.dtype, low: int, high: int) -> None:
    samples = np.array([low, high] * 400, dtype)
    waveform = load_audio(samples)
    assert waveform.min() == -1.0
    assert 0.99 < waveform.max() <= 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.dtype(">f4")])
def test_floats_of_any_width_pass_unscaled(dtype: np.dtype) -> None:
    np.testing.assert_array_equal(load_audio(np.full(800, 0.25, dtype)), np.full(800, 0.25, np.float32))


def test_the_source_array_is_never_written_to() -> None:
    samples = tone(16_000)
    before = samples.copy()
    waveform = load_audio(samples)
    assert np.shares_memory(waveform, samples)
    load_audio(samples[::-1], 44_100)
    np.testing.assert_array_equal(samples, before)


def test_a_file_longer_than_one_block_has_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    samples = rng.uniform(-0.5, 0.5, (30_000, 2)).astype(np.float32)
    content = encoded(samples, 44_100, "WAV", "FLOAT")
    whole = load_audio(content)
    monkeypatch.setattr(pcm, "BLOCK_SAMPLES", 1_000)
    np.testing.assert_allclose(load_audio(content), whole, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=8), st.sampled_from([8_000, 16_000, 44_100]))
def test_the_stream_resampler_does_not_depend_on_chunk_borders(sizes: list[int], sample_rate: int) -> None:
    samples = np.random.default_rng(2).uniform(-1, 1, sum(sizes)).astype(np.float32)
    resampler = StreamResampler(sample_rate)
    parts = [resampler.push(part) for part in np.split(samples, np.cumsum(sizes)[:-1])]
    whole = StreamResampler(sample_rate)
    np.testing.assert_allclose(
        np.concatenate([*parts, resampler.flush()]),
        np.concatenate([whole.push(samples), whole.flush()]),
        atol=1e-6,
    )


def container(form: str, codec: str) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream = file.add_stream(codec, rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(tone(48_000, n_channels=2).T), format="fltp", layout="stereo"
        )
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mp4", "aac"),
        ("webm", "libopus"),
        ("matroska", "ac3"),
        ("mov", "alac"),
        ("mpegts", "aac"),
        ("adts", "aac"),
        ("avi", "ac3"),
        ("ac3", "ac3"),
        ("caf", "alac"),
        ("flv", "aac"),
    ],
)
def test_other_containers_go_through_av(form: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(container(form, codec))
    waveform = load_audio(path)
    assert len(waveform) == pytest.approx(SAMPLE_RATE, abs=1_000)  # encoders pad by a frame or two
    assert dominant_hz(waveform[2_000:14_000]) == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(waveform[4_000:12_000]).max() == pytest.approx(0.5, abs=0.05)


def test_limits_can_be_raised_and_lowered() -> None:
    assert len(load_audio(tone(16_000, 0.01), limits=AudioLimits(min_duration_s=0.0))) == 160
    with pytest.raises(ValueError, match=r"1\.0 s.*at most 0\.5 s"):
        load_audio(tone(16_000), limits=AudioLimits(max_duration_s=0.5))


def test_a_wav_of_unknown_length_reads_to_its_end() -> None:
    content = bytearray(encoded(tone(16_000), 16_000, "WAV", "PCM_16"))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # what a pipe leaves in the header
    assert len(load_audio(bytes(content))) == SAMPLE_RATE


def test_a_cut_off_mp3_is_read_with_a_warning() -> None:
    content = encoded(tone(16_000, 4.0), 16_000, "MP3")
    with pytest.warns(AudioWarning, match="the rest is missing"):
        waveform = load_audio(content[: len(content) // 2])
    assert 1.5 * SAMPLE_RATE < len(waveform) < 2.5 * SAMPLE_RATE
