"""Containers: times of their clock, the track and the channel that speak, and a child that decodes them."""

from __future__ import annotations

import gc
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from engine.audio import child, load
from engine.audio.channels import mix_channels
from engine.audio.container_clock import ContainerClock
from engine.audio.load import AudioLimits, downmix, load_audio
from engine.audio.sink import Sink
from engine.errors import AudioDecodeError, AudioLimitError, AudioValueError, AudioWarning, CancelledError
from engine.runtime.cancel import CancelToken
from tests.unit.audio_files import RATE, Track, encoded, find_offset, muxed, noise

pytest.importorskip("av")
ROOT = Path(__file__).resolve().parents[2]
CLIP = noise(2.0, 1)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(sorted((ROOT / "examples/audio").glob("*.flac"))[0])


def load_noted(content: bytes, **options: object) -> tuple[np.ndarray, str]:
    """The waveform and the text of the one warning, or nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waveform = load_audio(content, **options)
    texts = [str(warning.message) for warning in caught if warning.category is AudioWarning]
    assert len(texts) <= 1
    return waveform, "".join(texts)


def time_of(waveform: np.ndarray, part: np.ndarray) -> float:
    at, similarity = find_offset(waveform, part)
    assert similarity > 0.8
    return at / RATE


@pytest.mark.parametrize(
    ("form", "codec"), [("matroska", "pcm_s16le"), ("mp4", "aac"), ("mpegts", "aac"), ("webm", "libopus")]
)
def test_a_gap_in_the_packets_keeps_later_times(form: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    clip = noise(4.0, 2, rate)
    waveform, _ = load_noted(muxed([Track(clip, gap_s=(1.0, 3.0))], form, codec, rate))
    assert len(waveform) / RATE == pytest.approx(4.0, abs=0.15)
    last = load_audio(clip, rate)[int(3.3 * RATE) : int(3.9 * RATE)]
    assert time_of(waveform, last) == pytest.approx(3.3, abs=0.12)
    assert np.abs(waveform[int(1.4 * RATE) : int(2.8 * RATE)]).max() < 1e-3


@pytest.mark.parametrize("form", ["matroska", "mov"])
def test_a_track_that_starts_late(form: str) -> None:
    waveform, _ = load_noted(muxed([Track(CLIP, start_s=5.0)], form, "pcm_s16le"))
    assert time_of(waveform, CLIP[RATE // 2 : RATE]) == pytest.approx(5.5, abs=0.02)
    assert len(waveform) / RATE == pytest.approx(7.0, abs=0.05)


def test_a_track_that_starts_later_than_another_in_a_transport_stream(speech: np.ndarray) -> None:
    silent = np.zeros(9 * RATE, np.float32)
    content = muxed([Track(silent), Track(speech[: 4 * RATE], start_s=5.0)], "mpegts", "aac")
    waveform, note = load_noted(content)
    assert "track 2 of 2" in note
    assert time_of(waveform, speech[RATE : 2 * RATE]) == pytest.approx(6.0, abs=0.12)


def test_joined_transport_streams_follow_each_other() -> None:
    first, second = noise(2.0, 3), noise(2.0, 4)
    parts = [muxed([Track(part)], "mpegts", "aac") for part in (first, second)]
    waveform, note = load_noted(b"".join(parts))
    assert "clock jumps" in note
    assert time_of(waveform, second[RATE // 2 : RATE]) == pytest.approx(2.5, abs=0.2)


@pytest.mark.parametrize(
    ("form", "codec"),
    [("matroska", "pcm_s16le"), ("mp4", "aac"), ("avi", "pcm_s16le"), ("adts", "aac"), ("wv", "wavpack")],
)
def test_joined_containers_follow_each_other(form: str, codec: str) -> None:
    first, second = noise(2.0, 3), noise(1.0, 4)
    waveform, _ = load_noted(b"".join(muxed([Track(part)], form, codec) for part in (first, second)))
    assert time_of(waveform, first[RATE // 2 : RATE]) == pytest.approx(0.5, abs=0.1)
    assert time_of(waveform, second[RATE // 4 : RATE // 2]) == pytest.approx(2.25, abs=0.2)


def test_the_clock_inserts_drops_and_starts_again() -> None:
    clock = ContainerClock("matroska", 0)
    assert clock.place(0.0, RATE, RATE) == (0.0, 0)
    assert clock.place(1.05, RATE, RATE) == (0.0, 0)  # within the tolerance of a clock in ms
    assert clock.place(5.0, RATE, RATE) == (3.0, 0)
    assert clock.place(5.5, RATE, RATE) == (0.0, RATE // 2)  # half of it is there already
    assert clock.place(None, RATE, RATE) == (0.0, 0)
    assert clock.place(0.0, RATE, RATE) == (0.0, 0)
    assert "jumps by -7.5 s" in clock.notes[0]
    assert ContainerClock("aac", 9_000_000).place(3.0, RATE, RATE) == (0.0, 0)
    assert ContainerClock("mpegts", 9_000_000).place(9.0, RATE, RATE) == (0.0, 0)


def test_the_track_that_speaks_is_used(speech: np.ndarray) -> None:
    silent = np.zeros(len(speech), np.float32)
    hum = (0.05 * np.sin(np.arange(len(speech)) * 2 * np.pi * 50 / RATE)).astype(np.float32)
    for first in (silent, hum):
        waveform, note = load_noted(muxed([Track(first), Track(speech)], "matroska", "pcm_s16le"))
        np.testing.assert_allclose(waveform[: len(speech)], speech, atol=1e-3)
        assert "first audio track is silent; track 2 of 2 is used" in note
    waveform, note = load_noted(muxed([Track(speech), Track(CLIP)], "matroska", "pcm_s16le"))
    np.testing.assert_allclose(waveform[: len(speech)], speech, atol=1e-3)
    assert "2 audio tracks; the first is used" in note
    waveform, note = load_noted(muxed([Track(speech[:16]), Track(speech)], "matroska", "pcm_s16le"))
    np.testing.assert_allclose(waveform[: len(speech)], speech, atol=1e-3)
    assert "track 2 of 2 is used" in note
    _, note = load_noted(muxed([Track(silent), Track(silent)], "matroska", "pcm_s16le"))
    assert "none speaks" in note


@pytest.mark.parametrize("n_channels", [8, 16, 24])
@pytest.mark.parametrize("codec", ["pcm_s16le", "flac"])
def test_many_channels(n_channels: int, codec: str) -> None:
    if codec == "flac" and n_channels > 8:
        pytest.skip("FLAC has at most 8")
    samples = np.zeros((RATE // 2, n_channels), np.float32)
    samples[:, -1] = 0.4 * CLIP[: len(samples)]
    layout = "7.1" if codec == "flac" else f"{n_channels} channels"
    content = muxed([Track(samples)], "matroska", codec, layout=layout)
    waveform, note = load_noted(content)
    assert not note
    np.testing.assert_allclose(waveform[: len(samples)], samples[:, -1] / n_channels, atol=1e-3)


def test_channels_in_an_order_of_their_own() -> None:
    """Stereo that is labelled right, left: av frees such a layout twice where it is looked at twice."""
    stereo = np.stack([CLIP, -0.5 * CLIP], axis=1)
    content = bytearray(muxed([Track(stereo)], "mov", "pcm_s16le", layout="stereo"))
    at = content.index(b"chan") - 4
    labels = struct.pack(">4sIIII", b"chan", 0, 0, 0, 2) + struct.pack(">I16x", 2) + struct.pack(">I16x", 1)
    more = 4 + len(labels) - struct.unpack_from(">I", content, at)[0]
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"sowt"):
        size_at = content.rindex(box, 0, at) - 4
        struct.pack_into(">I", content, size_at, struct.unpack_from(">I", content, size_at)[0] + more)
    content[at : at + 4 + len(labels) - more] = struct.pack(">I", 4 + len(labels)) + labels
    for _ in range(3):
        np.testing.assert_allclose(load_audio(bytes(content)), 0.25 * CLIP, atol=1e-3)


@pytest.mark.parametrize(("form", "codec", "rate"), [("mp4", "aac", 48_000), ("webm", "libopus", 48_000)])
def test_seven_and_one_channels_of_lossy_codecs(form: str, codec: str, rate: int) -> None:
    samples = np.repeat(noise(1.0, 5, rate)[:, None], 8, axis=1)
    waveform, _ = load_noted(muxed([Track(samples)], form, codec, rate, "7.1"))
    assert time_of(waveform, load_audio(samples[:, 0].copy(), rate)[4_000:12_000]) == pytest.approx(
        0.25, abs=0.03
    )


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_channels_that_cancel_each_other(scale: float) -> None:
    stereo = np.stack([CLIP, -scale * CLIP], axis=1)
    for form in ("FLAC", "WAV"):
        waveform, note = load_noted(encoded(stereo, form, "PCM_16"))
        np.testing.assert_allclose(waveform, CLIP, atol=1e-3)
        assert "cancel each other" in note
    with pytest.warns(AudioWarning, match="cancel each other"):
        np.testing.assert_array_equal(downmix(stereo.T), CLIP)


def test_channels_that_are_not_finite_are_refused_without_another_warning() -> None:
    bad = np.stack([np.full(800, np.inf, np.float32), np.full(800, -np.inf, np.float32)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for samples in (bad, np.full((800, 2), 3e38, np.float32)):
            with pytest.raises(AudioValueError, match="NaN or infinite"):
                load_audio(encoded(samples, "WAV", "FLOAT"))


def test_channels_that_do_not_cancel_are_averaged() -> None:
    other = noise(2.0, 9)
    for right in (CLIP, other, np.zeros_like(CLIP), -0.3 * CLIP):
        mixed, cancelled = mix_channels(np.stack([CLIP, right], axis=1))
        np.testing.assert_allclose(mixed, (CLIP + right) / 2, atol=1e-6)
        assert not cancelled
    half = np.stack([CLIP, np.where(np.arange(len(CLIP)) < 1 << 14, CLIP, -CLIP)], axis=1)
    assert np.abs(mix_channels(half)[0]).max() > 0.1


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGSEGV, AudioDecodeError, "decoder crashed: signal 11"),
        (signal.SIGPROF, AudioLimitError, "takes too long"),
    ],
)
def test_the_end_of_a_worker_is_an_error_of_this_file_only(
    number: int, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is ended by a signal while it decodes; the next file is decoded by another."""
    content = muxed([Track(CLIP)], "matroska", "pcm_s16le")
    receive = child.Worker._receive

    def end(worker: child.Worker, sink: Sink) -> tuple[bytes, bytearray]:
        os.kill(worker.pid, number)
        return receive(worker, sink)

    monkeypatch.setattr(child.Worker, "_receive", end)
    with pytest.raises(kind, match=words):
        while True:  # all may have been sent before the signal came
            child.close_workers()
            load_audio(content)
    monkeypatch.undo()
    assert len(load_audio(content)) == len(CLIP)


def test_a_forked_process_has_workers_of_its_own() -> None:
    content = muxed([Track(CLIP)], "matroska", "pcm_s16le")
    load_audio(content)
    assert child._idle
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            assert not child._idle
            os.write(writer, str(len(load_audio(content))).encode())
            child.close_workers()
        finally:
            os._exit(0)
    os.close(writer)
    assert len(load_audio(content)) == len(CLIP)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as file:
        assert int(file.read()) == len(CLIP)


def test_codecs_that_need_av_where_libsndfile_knows_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_has_av", lambda: False)
    for content in (encoded(CLIP, "WAV", "IMA_ADPCM"), encoded(CLIP, "CAF", "ALAC_16")):
        assert time_of(load_audio(content), CLIP[RATE // 2 : RATE]) == pytest.approx(0.5, abs=0.01)
    assert len(load_audio(encoded(CLIP, "MP3"))) == len(CLIP)


def test_a_worker_that_an_earlier_file_ruined_is_replaced() -> None:
    content = muxed([Track(CLIP)], "matroska", "pcm_s16le")
    load_audio(content)
    worker = child._idle[-1]
    os.kill(worker.pid, signal.SIGKILL)
    assert len(load_audio(content)) == len(CLIP)
    assert not worker.alive


def test_what_the_child_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secrets in its environment, no module of the working directory, no file but the one it reads."""
    for name in ("av", "soundfile", "json", "numpy", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SECRET_TOKEN", "xyzzy")
    child.close_workers()
    load_audio(muxed([Track(CLIP)], "matroska", "pcm_s16le"))
    worker = child._idle[-1]
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert b"xyzzy" not in environment
    assert not (tmp_path / "ran").exists()
    descriptors = [str(path.readlink()) for path in Path(f"/proc/{worker.pid}/fd").iterdir()]
    assert len(descriptors) <= 7, descriptors
    child.close_workers()


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(muxed([Track(CLIP)], "matroska", "pcm_s16le"))
    code = (
        "import os, signal; from engine.audio import child, load\n"
        f"load.load_audio({str(path)!r}); print(child._idle[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        if state == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{pid}").exists()


WITHOUT_END = AudioLimits(max_duration_s=1e6, max_decoded_samples=10**12)


def cancelled_within(content: bytes, delay_s: float = 0.3) -> float:
    token, began = CancelToken(), []

    def cancel() -> None:
        began.append(time.monotonic())
        token.cancel()

    timer = threading.Timer(delay_s, cancel)
    timer.start()
    with pytest.raises(CancelledError):
        load_audio(content, cancel=token, limits=WITHOUT_END)
    return time.monotonic() - began[0]


@pytest.fixture(scope="module")
def long_files() -> list[bytes]:
    """Small files that take many seconds to decode: one decoded in this process, one in a child."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 384_000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(40):
            file.write(np.zeros(384_000 * 4, np.float32))
    assert len(buffer.getvalue()) < 400_000
    return [buffer.getvalue(), encoded(np.zeros(RATE * 120, np.float32), "MP3") * 80]


class CountingToken(CancelToken):
    """Cancelled by another thread at its tenth look."""

    n_looks = 0

    def raise_if_cancelled(self) -> None:
        self.n_looks += 1
        if self.n_looks == 10:
            thread = threading.Thread(target=self.cancel)
            thread.start()
            thread.join()
        super().raise_if_cancelled()


def test_a_cancelled_call_ends_at_its_next_block(long_files: list[bytes]) -> None:
    for content in long_files:
        token = CountingToken()
        with pytest.raises(CancelledError):
            load_audio(content, cancel=token, limits=WITHOUT_END)
        assert token.n_looks == 10


@pytest.mark.timing
def test_a_cancelled_call_ends_at_once(long_files: list[bytes]) -> None:
    assert [cancelled_within(content) < 0.25 for content in long_files] == [True, True]


def test_a_token_that_is_set_before() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        load_audio(encoded(CLIP, "WAV"), cancel=token)


def test_limits_end_the_child_too() -> None:
    content = muxed([Track(np.zeros(60 * RATE, np.float32))], "matroska", "flac")
    for limits in (AudioLimits(max_duration_s=5.0), AudioLimits(max_decoded_samples=100_000)):
        with pytest.raises(AudioLimitError):
            load_audio(content, limits=limits)
    late = muxed([Track(CLIP, start_s=500.0)], "matroska", "pcm_s16le")
    with pytest.raises(AudioLimitError, match=r"at most 60\.0 s"):
        load_audio(late, limits=AudioLimits(max_duration_s=60.0))


def test_where_files_cannot_be_handed_to_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "AVAILABLE", False)
    for content in (muxed([Track(CLIP)], "matroska", "pcm_s16le"), encoded(CLIP, "MP3")):
        assert len(load_audio(content)) == len(CLIP)
        with pytest.raises(AudioLimitError, match="at most"):
            load_audio(content, limits=AudioLimits(max_duration_s=1.0))


def test_many_threads_share_the_workers() -> None:
    contents = [muxed([Track(noise(0.5, seed))], "matroska", "pcm_s16le") for seed in range(4)]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for turn in range(3):
            found[number] = load_audio(contents[(number + turn) % 4])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_allclose(found[number][:8_000], noise(0.5, (number + 2) % 4), atol=1e-3)
    gc.collect()
    child.close_workers()
    assert child._idle == []
