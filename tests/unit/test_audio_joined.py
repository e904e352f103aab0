"""Joined, interrupted and damaged files: all that is there is used, and one warning says what is not."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from engine.audio.headers import read_layout
from engine.audio.load import load_audio
from engine.audio.mpeg import parse_frame
from engine.audio.sources import Buffer
from engine.errors import AudioDecodeError, AudioLimitError, AudioWarning
from tests.unit.audio_files import RATE, Track, encoded, find_offset, muxed, noise

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = noise(1.5, 1), noise(1.0, 2)


def load_quietly(content: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AudioWarning)
        return load_audio(content)


def load_warned(content: bytes, *words: str) -> np.ndarray:
    """Exactly one warning, which holds these words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waveform = load_audio(content)
    texts = [str(warning.message) for warning in caught if warning.category is AudioWarning]
    assert len(texts) == 1
    for word in words:
        assert word in texts[0]
    return waveform


def assert_holds(
    waveform: np.ndarray, parts: list[tuple[np.ndarray, float]], tolerance_s: float = 0.03
) -> None:
    """Each part is found at its time, in seconds."""
    for part, start_s in parts:
        middle = len(part) // 4
        at, similarity = find_offset(waveform, part[middle:-middle])
        assert similarity > 0.9
        assert at / RATE == pytest.approx(start_s + middle / RATE, abs=tolerance_s)


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", None), ("MP3", None), ("WAV", "PCM_16"), ("WAV", "PCM_24"),
     ("AIFF", None), ("W64", None)],
)  # fmt: skip
def test_joined_files_are_read_to_the_end(form: str, subtype: str | None) -> None:
    content = encoded(FIRST, form, subtype) + encoded(SECOND, form, subtype)
    waveform = load_quietly(content)
    assert len(waveform) == pytest.approx(len(FIRST) + len(SECOND), abs=1_700)
    assert_holds(waveform, [(FIRST, 0.0), (SECOND, 1.5)], 0.06)


def test_joined_files_may_differ_in_rate_and_channels() -> None:
    second = noise(1.0, 2, 48_000, 2)
    content = encoded(FIRST, "WAV") + encoded(second, "WAV", sample_rate=48_000)
    assert len(load_quietly(content)) == len(FIRST) + RATE
    content = encoded(FIRST, "FLAC") + encoded(second, "FLAC", sample_rate=48_000)
    assert len(load_quietly(content)) == len(FIRST) + RATE


def test_a_tag_that_counts_only_the_first_of_joined_mp3_files() -> None:
    """Frames of the second file without its own tag: libsndfile would stop where the count ends."""
    second = encoded(SECOND, "MP3")
    tag = parse_frame(second[:4])
    assert tag is not None
    waveform = load_quietly(encoded(FIRST, "MP3") + second[tag.length :])
    assert_holds(waveform, [(FIRST, 0.0), (SECOND, 1.5)], 0.15)


def test_an_mp3_without_a_tag_is_read_to_its_end() -> None:
    """libsndfile estimates its length from the first frame, and stops there: words were lost."""
    quiet_end = np.concatenate([noise(1.0, 4), 0.02 * noise(3.0, 5)])  # small frames: a variable bit rate
    content = encoded(quiet_end, "MP3")
    tag = parse_frame(content[:4])
    assert tag is not None
    waveform = load_quietly(content[tag.length :])
    assert len(waveform) == pytest.approx(len(quiet_end), abs=2_000)
    assert_holds(waveform[3 * RATE // 2 :], [(quiet_end[2 * RATE :], 0.5)], 0.15)


def test_a_flac_within_the_metadata_of_another_is_no_second_file() -> None:
    content = bytearray(encoded(FIRST, "FLAC"))
    cover = b"test" + encoded(SECOND, "FLAC")
    block = b"\x02" + len(cover).to_bytes(3, "big") + cover
    content[42:42] = block
    content[4] &= 0x7F
    assert len(load_quietly(bytes(content))) == len(FIRST)


def test_a_second_recording_that_is_damaged_is_said() -> None:
    second = bytearray(encoded(SECOND, "OGG", "VORBIS"))
    second[60:200] = bytes(140)
    waveform = load_warned(encoded(FIRST, "OGG", "VORBIS") + bytes(second), "left out")
    assert_holds(waveform, [(FIRST, 0.0)])


@pytest.mark.parametrize(("form", "damage_at"), [("FLAC", 0.5), ("OGG", 0.01)])
@pytest.mark.parametrize("bad_idx", [0, 1, 2])
def test_a_bad_recording_costs_none_that_it_is_joined_to(form: str, damage_at: float, bad_idx: int) -> None:
    parts = [FIRST, SECOND, noise(1.2, 9)]
    contents = [bytearray(encoded(part, form)) for part in parts]
    at = 58 + int(damage_at * len(contents[bad_idx]))
    contents[bad_idx][at : at + 300] = np.random.default_rng(1).bytes(300)
    with pytest.raises(AudioDecodeError):
        load_audio(bytes(contents[bad_idx]))
    waveform = load_warned(b"".join(contents), f"recording {bad_idx + 1} of those joined in it is left out")
    for number, part in enumerate(parts):
        if number != bad_idx:
            _, similarity = find_offset(waveform, part[len(part) // 4 : -len(part) // 4])
            assert similarity > 0.9


APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 64, 1, 0xA0000000) + b"x" * 64
UNFINISHED = [
    ("WAV", b"data", "<I", 4),
    ("AIFF", b"SSND", ">I", 4),
    ("AU", b".snd", ">I", 8),
    ("CAF", b"data", ">q", 4),
    ("W64", b"data\xf3\xac\xd3\x11", "<Q", 16),
    ("RF64", b"ds64", "<Q", 16),
]


@pytest.mark.parametrize(("form", "chunk", "code", "offset"), UNFINISHED)
@pytest.mark.parametrize("claimed", [0, 8_000])
def test_a_size_that_is_zero_or_too_small(
    form: str, chunk: bytes, code: str, offset: int, claimed: int
) -> None:
    content = bytearray(encoded(FIRST, form, "PCM_16"))
    struct.pack_into(code, content, content.index(chunk) + offset, claimed)
    waveform = load_warned(bytes(content), "all 1.5")
    assert_holds(waveform, [(FIRST, 0.0)], 1e-3)
    assert len(waveform) == pytest.approx(len(FIRST), abs=8)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_a_file_that_is_cut_off_is_read_to_its_end(form: str) -> None:
    content = encoded(FIRST, form, "PCM_16")
    waveform = load_warned(content[: len(content) // 2 + 1], "of the 1.50 s", "the rest is missing")
    n_head = len(content) - 2 * len(FIRST)
    assert len(waveform) == pytest.approx((len(content) // 2 - n_head) // 2, abs=2)
    np.testing.assert_allclose(waveform, FIRST[: len(waveform)], atol=1e-3)


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_an_ogg_that_is_cut_off(subtype: str) -> None:
    long = noise(6.0, 5)
    content = encoded(long, "OGG", subtype)
    waveform = load_warned(content[: int(len(content) * 0.7)], "without an end mark")
    assert 2.0 * RATE < len(waveform) < 5.0 * RATE
    at, similarity = find_offset(long, waveform[RATE // 2 : RATE])
    assert similarity > 0.9
    assert at / RATE == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("form", "codec"),
    [("webm", "libopus"), ("matroska", "pcm_s16le"), ("mpegts", "aac"), ("avi", "pcm_s16le")],
)
def test_a_container_that_is_cut_off(form: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    content = muxed([Track(noise(3.0, 3, rate))], form, codec, rate)
    assert len(load_quietly(content)) == pytest.approx(3 * RATE, abs=2_000)
    waveform = load_warned(content[: int(len(content) * 0.6) + 1], "all that is there is used")
    assert 1.0 * RATE < len(waveform) < 2.5 * RATE


def test_chunks_are_walked_not_searched() -> None:
    """A text that holds the names of chunks, as broadcast files have, decides nothing."""
    plain = encoded(FIRST, "WAV", "PCM_16")
    text = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 7, 8_000, 0, 14, 16) + b"data" + struct.pack("<I", 4)
    bext = b"bext" + struct.pack("<I", len(text)) + text
    np.testing.assert_array_equal(load_quietly(plain[:12] + bext + plain[12:]), load_audio(plain))


def test_chunks_behind_the_samples_are_no_samples() -> None:
    plain = encoded(FIRST, "WAV", "PCM_16")
    listed = plain + b"LIST" + struct.pack("<I", 12_000) + b"\x11" * 12_000
    assert len(load_quietly(listed)) == len(FIRST)
    assert len(load_quietly(plain + bytes(100))) == len(FIRST)  # padding of a disk's block


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "W64"])
def test_samples_are_those_that_libsndfile_reads(form: str, subtype: str) -> None:
    import io

    import soundfile

    if not soundfile.check_format(form, subtype):
        pytest.skip("no such file")
    content = encoded(np.stack([FIRST, FIRST * 0.5, FIRST * 0.2], axis=1), form, subtype)
    want = soundfile.read(io.BytesIO(content), dtype="float32")[0].mean(axis=1, dtype=np.float32)
    np.testing.assert_allclose(load_quietly(content), want, atol=1e-6)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_wav_with_a_codec(subtype: str) -> None:
    pytest.importorskip("av")
    waveform = load_audio(encoded(FIRST, "WAV", subtype))
    assert_holds(waveform, [(FIRST, 0.0)])


@pytest.mark.parametrize(
    "front",
    [bytes(2_000), APE],
    ids=["zeros", "APEv2"],
)  # fmt: skip
def test_what_stands_before_an_mp3_does_not_matter(front: bytes) -> None:
    assert_holds(load_quietly(front + encoded(FIRST, "MP3")), [(FIRST, 0.0)])


def test_junk_before_an_mp3_is_skipped_and_said() -> None:
    content = np.random.default_rng(3).bytes(3_000) + encoded(FIRST, "MP3")
    assert_holds(load_warned(content, "3000 bytes in front of its first frame"), [(FIRST, 0.0)])


@pytest.mark.filterwarnings("ignore::engine.errors.AudioWarning")
def test_a_partial_frame_before_an_mp3() -> None:
    content = encoded(noise(3.0, 4), "MP3")
    waveform = load_audio(content[1_000:])
    assert len(waveform) == pytest.approx(3 * RATE * (1 - 1_000 / len(content)), abs=6_000)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_an_mp3_of_another_encoder_brings_no_warning(sample_rate: int, layout: str) -> None:
    samples = noise(1.0, 1, sample_rate, 1 if layout == "mono" else 2)
    content = muxed([Track(samples)], "mp3", "libmp3lame", sample_rate, layout)
    assert len(load_quietly(content)) == pytest.approx(RATE, abs=8)


def test_tags_around_an_mp3_bring_no_warning() -> None:
    front = b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
    behind = b"TAG" + bytes(125)
    assert len(load_quietly(front + encoded(FIRST, "MP3") + behind)) == len(FIRST)


def test_wavpack() -> None:
    waveform = load_quietly(muxed([Track(FIRST)], "wv", "wavpack"))
    assert_holds(waveform, [(FIRST, 0.0)], 1e-3)


def test_a_damaged_mp3_keeps_its_times_and_prints_nothing(tmp_path: Path) -> None:
    pieces = [noise(3.0, seed) for seed in (6, 7, 8)]
    content = bytearray(encoded(np.concatenate(pieces), "MP3"))
    content[len(content) // 2 - 600 : len(content) // 2 + 600] = np.random.default_rng(0).bytes(1_200)
    waveform = load_warned(bytes(content), "damaged")
    assert_holds(waveform, [(pieces[0], 0.0), (pieces[2], 6.0)], 0.15)
    path = tmp_path / "damaged.mp3"
    path.write_bytes(content)
    code = "import warnings, engine.audio as audio; warnings.simplefilter('ignore'); "
    code += f"audio.load_audio({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout == done.stderr == b""


def test_samples_that_look_like_a_chunk_are_samples() -> None:
    """Loud samples may be letters: behind a stated size that is too small they are no names of chunks."""
    samples = np.frombuffer(b"AbCd" * 8_000, "<i2").astype(np.float32) / 32768
    content = bytearray(encoded(samples, "WAV", "PCM_16"))
    struct.pack_into("<I", content, 40, 8_000)
    assert len(load_warned(bytes(content), "all 1.00 s")) == RATE


def test_an_unknown_chunk_behind_the_samples_is_no_audio() -> None:
    plain = encoded(FIRST, "WAV", "PCM_16")
    assert len(load_quietly(plain + b"Xyz1" + struct.pack("<I", 12_001) + b"A" * 12_001)) == len(FIRST)


def test_what_is_joined_without_samples_is_said() -> None:
    broken = encoded(SECOND, "WAV", "PCM_16")[:30]
    assert len(load_warned(encoded(FIRST, "WAV", "PCM_16") + broken, "left out")) == len(FIRST)
    empty = b".snd" + struct.pack(">IIIII", 0, 0, 3, RATE, 1)
    with pytest.raises(ValueError, match="no samples"):
        load_audio(empty)


def test_a_file_of_countless_parts_is_refused() -> None:
    page = struct.Struct("<4sBBqIIIB")
    link = b"".join(
        page.pack(b"OggS", 0, flags, 0, 1, 0, 0, 1) + bytes([8]) + b"OpusHead" for flags in (2, 0)
    )
    with pytest.raises(AudioLimitError, match="in one file"):
        load_audio(link * 10_001)
    part = (
        b"RIFF\0\0\0\0WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
        + b"data\2\0\0\0\0\0"
    )
    with pytest.raises(AudioLimitError, match="in one file"):
        load_audio(part * 10_002)


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_headers_cut_anywhere_end_in_a_typed_error_or_audio(form: str) -> None:
    content = encoded(FIRST[:2_000], form, "PCM_16")
    for length in range(1, 120):
        layout = None
        try:
            layout = read_layout(Buffer(content[:length]))
            load_audio(content[:length])
        except (AudioDecodeError, ValueError):
            assert layout is None or layout.parts[0] is None or length < len(content)
