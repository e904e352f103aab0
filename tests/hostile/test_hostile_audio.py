"""Bad audio: each kind raises its own typed error, which says what it got, what it wanted and the fix."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine._distribution import install_command
from engine.audio import load as audio
from engine.audio import sndfile
from engine.audio.load import AudioLimits, load_audio
from engine.errors import (
    AudioDecodeError,
    AudioError,
    AudioLimitError,
    AudioNotFoundError,
    AudioShapeError,
    AudioTooShortError,
    AudioValueError,
    DependencyError,
    EngineError,
)

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)


def encoded(form: str, subtype: str | None = None, samples: np.ndarray = NOISE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=form, subtype=subtype)
    return buffer.getvalue()


def wav_header(sample_rate: int = 16_000, n_channels: int = 1, n_bytes: int = 0) -> bytes:
    rate = min(sample_rate * n_channels * 2, 2**32 - 1)
    form = struct.pack("<HHIIHH", 1, n_channels, sample_rate, rate, (2 * n_channels) & 0xFFFF, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVEfmt " + struct.pack("<I", 16) + form
        + b"data" + struct.pack("<I", n_bytes)
    )  # fmt: skip


def refused(kind: type[EngineError], source: Any, *words: str, **options: Any) -> EngineError:
    with pytest.raises(kind) as caught:
        load_audio(source, **options)
    error = caught.value
    assert error.got, "the message must say what was got"
    assert error.want, "the message must say what was wanted"
    assert error.fix, "the message must say how to mend it"
    for word in (*words, "expected", "fix:"):
        assert word in str(error)
    return error


def test_missing_file(tmp_path: Path) -> None:
    error = refused(AudioNotFoundError, tmp_path / "gone.wav", "gone.wav", "No such file")
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, ValueError)


def test_folder(tmp_path: Path) -> None:
    refused(AudioNotFoundError, tmp_path, "folder")


@pytest.mark.parametrize(
    "name", ["a\0b.wav", "x" * 5_000, "", "http://127.0.0.1/speech.mp3", "concat:a.wav|b.wav"]
)
def test_names_that_are_no_files(name: str) -> None:
    refused(AudioNotFoundError, name)


def test_a_url_is_named_as_such() -> None:
    refused(AudioNotFoundError, "https://example.org/speech.mp3", "download it first")


def test_a_pipe_or_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(AudioNotFoundError, tmp_path / "pipe", "pipe or device", "to a file")
    refused(AudioNotFoundError, "/dev/zero", "pipe or device", "to a file")


def test_a_file_opened_as_text_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(b"RIFF\xff\xc4")
    with (tmp_path / "clip.wav").open(encoding="utf-8") as file:
        refused(AudioDecodeError, file, "opened as text", "'rb'")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(encoded("WAV"))
    path.chmod(0)
    refused(AudioNotFoundError, path, "Permission denied")


@pytest.mark.parametrize("name", ["empty.wav", "empty.mp3", "empty"])
def test_empty_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    refused(AudioDecodeError, tmp_path / name, "0 bytes")
    refused(AudioDecodeError, b"", "0 bytes")


@pytest.mark.parametrize(
    "text", [b"Guten Tag, das ist ein Text.\n", b"\xef\xbb\xbfText", b"<html>", b"%PDF-1.7", b"\0" * 99]
)
def test_text_renamed_to_wav(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_bytes(text)
    refused(AudioDecodeError, path, "text.wav", "no known audio format")


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    ],
)
def test_playlists_reach_neither_network_nor_files(
    playlist: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a playlist reached the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    path = tmp_path / "speech.mp3"
    path.write_bytes(playlist)
    refused(AudioDecodeError, path, "no known audio format")


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_truncated_flac(keep: float, tmp_path: Path) -> None:
    content = encoded("FLAC")
    path = tmp_path / "cut.flac"
    path.write_bytes(content[: int(len(content) * keep)])
    refused(AudioDecodeError, path, "FLAC", "complete")


def test_flac_with_a_damaged_middle() -> None:
    content = bytearray(encoded("FLAC"))
    content[len(content) // 2 : len(content) // 2 + 4_096] = bytes(4_096)
    refused(AudioDecodeError, bytes(content), "FLAC")


def test_a_flac_that_claims_days_is_refused_before_it_is_decoded() -> None:
    content = bytearray(encoded("FLAC"))
    content[21] |= 0x0F  # the upper four bits of STREAMINFO's 36-bit sample count
    content[22:26] = b"\xff\xff\xff\xff"
    refused(AudioLimitError, bytes(content), "s of audio", "max_duration_s")


@pytest.mark.parametrize("sample_rate", [0, 999, 384_001, 100_000_000, 2**32 - 1])
def test_wav_header_with_an_impossible_rate(sample_rate: int) -> None:
    refused(AudioLimitError, wav_header(sample_rate), str(sample_rate), "384000 Hz")


@pytest.mark.parametrize("n_channels", [0, 33, 65_535])
def test_wav_header_with_impossible_channels(n_channels: int) -> None:
    header = wav_header(n_channels=n_channels) + bytes(200)
    refused(AudioLimitError, header, f"{n_channels} channels", "1 to 32")


def test_a_header_claiming_4_gib_allocates_nothing() -> None:
    assert len(load_audio(wav_header(n_bytes=2**32 - 44) + bytes(32_000))) == 16_000


@pytest.mark.parametrize(
    ("form", "chunk", "code", "offset"),
    [
        ("WAV", b"data", "<I", 4), ("RF64", b"ds64", "<Q", 16), ("AIFF", b"SSND", ">I", 4),
        ("AU", b".snd", ">I", 8), ("CAF", b"data", ">q", 4), ("CAF", b"desc", ">q", 4),
        ("W64", b"data\xf3\xac", "<Q", 16),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::engine.errors.AudioWarning")
def test_no_header_decides_how_much_is_allocated(form: str, chunk: bytes, code: str, offset: int) -> None:
    content = bytearray(encoded(form, "PCM_16"))
    at = content.index(chunk) + offset
    for claimed in (2**31 - 5_000, 2**31 + 4, 2**40, 2**62):
        if code == ">I" or code == "<I":
            claimed = min(claimed, 2**32 - 300)
        struct.pack_into(code, content, at, claimed)
        tracemalloc.start()
        try:
            with contextlib.suppress(AudioError):
                load_audio(bytes(content))
            assert tracemalloc.get_traced_memory()[1] < 20e6
        finally:
            tracemalloc.stop()


def test_headers_without_samples() -> None:
    refused(AudioValueError, wav_header(), "no samples")
    refused(AudioValueError, encoded("WAV", "FLOAT", NOISE[:0]), "no samples")


@pytest.mark.parametrize(
    "content", [b"RIFF\0\0\0\0WAVE", wav_header()[:20], b"fLaC", b"OggS", b"ID3\x03", b"\xff\xfb"]
)
def test_nothing_but_magic(content: bytes) -> None:
    refused(AudioDecodeError, content, "cannot be decoded")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(bad: float) -> None:
    samples = NOISE.copy()
    samples[7_000] = bad
    refused(AudioValueError, samples, "NaN or infinite", "nan_to_num")
    refused(AudioValueError, samples.astype(np.float64), "NaN or infinite", sample_rate=48_000)
    refused(AudioValueError, encoded("WAV", "FLOAT", samples), "NaN or infinite")


def test_floats_that_were_never_scaled() -> None:
    refused(AudioValueError, NOISE * 32_768, "[-1, 1]", "divide by 32768")
    refused(AudioValueError, np.full(800, 1e300), "NaN or infinite")


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_zero_samples(shape: tuple[int, ...]) -> None:
    refused(AudioValueError, np.zeros(shape, np.float32), "no samples")


@pytest.mark.parametrize("n_samples", [1, 160, 399])
def test_ten_milliseconds(n_samples: int) -> None:
    refused(AudioTooShortError, NOISE[:n_samples], "ms of audio", "25 ms")
    refused(AudioTooShortError, encoded("WAV", samples=NOISE[:n_samples]), "25 ms")


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.complex128, bool, object, np.int64, np.uint64, "U4", "S4", "M8[s]"]
)
def test_arrays_of_the_wrong_dtype(dtype: Any) -> None:
    refused(AudioShapeError, np.zeros(800, dtype), str(np.dtype(dtype)), "float16/32/64")


@pytest.mark.parametrize("shape", [(), (2, 3, 800), (1, 1, 800), (40, 800), (800, 40)])
def test_arrays_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    refused(AudioShapeError, np.zeros(shape, np.float32), str(shape), "n_samples")


@pytest.mark.parametrize("source", [None, 3, [0.1, 0.2], {"array": 1}, object()])
def test_sources_that_are_no_audio(source: Any) -> None:
    refused(AudioShapeError, source, type(source).__name__)


@pytest.mark.parametrize(
    "sample_rate", [0, -1, 999, 384_001, 100_000_000, float("nan"), float("inf"), "16000"]
)
def test_arrays_at_an_impossible_rate(sample_rate: Any) -> None:
    refused(AudioLimitError, NOISE, "sample rate", sample_rate=sample_rate)


def test_a_file_object_opened_as_text() -> None:
    refused(AudioDecodeError, io.StringIO("Guten Tag"), "opened as text", "'rb'")


def test_a_file_object_that_never_ends() -> None:
    class Endless:
        def read(self, _: int) -> bytes:
            return bytes(1 << 20)

    refused(AudioLimitError, Endless(), "bytes", limits=AudioLimits(max_file_bytes=8 << 20))


def test_a_decompression_bomb_stops_at_the_limit() -> None:
    content = encoded("FLAC", samples=np.zeros((400_000, 8), np.float32))  # 25 s in a few kilobytes
    assert len(content) < 60_000
    refused(AudioLimitError, content, "at least", "10.0 s", limits=AudioLimits(max_duration_s=10))
    refused(AudioLimitError, content, "samples", limits=AudioLimits(max_decoded_samples=1_000_000))


def test_an_ogg_that_states_no_length_stops_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("OGG", "OPUS", np.zeros(16_000 * 20, np.float32))
    monkeypatch.setattr(sndfile, "UNKNOWN_FRAMES", 0)  # believe no header
    refused(AudioLimitError, content, "at least", limits=AudioLimits(max_duration_s=5))


def test_a_container_without_av_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_has_av", lambda: False)
    error = refused(DependencyError, b"\0\0\0\x18ftypM4A " + bytes(64), "MP4", install_command("media"))
    assert isinstance(error, ImportError)
    refused(AudioDecodeError, b"fLaC" + bytes(64), "FLAC")


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x18ftypM4A ", b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75"]
)
def test_broken_containers(head: bytes) -> None:
    pytest.importorskip("av")
    refused(AudioDecodeError, head + bytes(512), "cannot be decoded")


def test_a_video_without_sound() -> None:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    refused(AudioDecodeError, buffer.getvalue(), "no readable audio track")


def container(form: str = "mp4", codec: str = "aac", **metadata: str) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        file.metadata.update(metadata)
        stream = file.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(NOISE[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return buffer.getvalue()


def test_a_container_with_a_codec_nobody_knows() -> None:
    refused(
        AudioDecodeError,
        container("webm", "libopus").replace(b"A_OPUS", b"A_OPUZ"),
        "no readable audio track",
    )


def test_titles_that_are_no_utf8_do_not_matter() -> None:
    content = container(title="Gruesse aus Rothenburg")
    assert len(load_audio(content.replace(b"Gruesse", b"Gr\xfc\xdfe  "))) >= 16_000


def test_truncated_containers() -> None:
    content = container()
    for keep in (0.2, 0.6, 0.95):
        refused(AudioDecodeError, content[: int(len(content) * keep)], "the buffer")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 255)), min_size=1, max_size=30))
def test_random_damage_to_a_container_ends_in_audio_or_a_typed_error(changes: list[tuple[int, int]]) -> None:
    content = bytearray(container())
    for at, value in changes:
        content[at % len(content)] = value
    with contextlib.suppress(AudioError):
        assert np.isfinite(load_audio(bytes(content))).all()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), min_size=1, max_size=12),
    st.floats(0.01, 1.0),
)
def test_random_damage_ends_in_audio_or_a_typed_error(
    form: str, changes: list[tuple[int, int]], keep: float
) -> None:
    content = bytearray(CLEAN[form])
    for at, value in changes:
        content[at % len(content)] = value
    try:
        waveform = load_audio(bytes(content[: max(1, int(len(content) * keep))]))
    except AudioError as error:
        assert error.got
        assert error.want
        assert error.fix
    else:
        assert waveform.dtype == np.float32
        assert np.isfinite(waveform).all()


CLEAN = {form: encoded(form, samples=NOISE[:8_000]) for form in ("WAV", "FLAC", "OGG", "MP3")}
