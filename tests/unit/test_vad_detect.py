"""The speech detector loses no speech, skips silence and steady noise, and keeps to its windows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio import vad
from engine.audio.load import load_audio
from engine.audio.vad import detect_speech
from engine.errors import CancelledError
from engine.runtime.cancel import CancelToken
from tests.reference.tone_speech import silence, speak

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
RATE = 16_000
RNG = np.random.default_rng(3)


def noise(duration_s: float, level: float) -> np.ndarray:
    return (level * RNG.standard_normal(int(duration_s * RATE))).astype(np.float32)


def covered(regions: list[tuple[float, float]], start_s: float, end_s: float) -> bool:
    return any(a <= start_s and end_s <= b for a, b in regions)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        silence(5),
        np.full(5 * RATE, 0.4, np.float32),
        noise(10, 0.01),
        noise(10, 0.3),
        (RNG.integers(-1, 2, 5 * RATE) / 32768).astype(np.float32),
        (0.5 * np.sin(2 * np.pi * 50 * np.arange(5 * RATE) / RATE)).astype(np.float32),
        np.eye(1, 5 * RATE, 40_000, dtype=np.float32)[0],
    ],
    ids=["empty", "one sample", "zeros", "offset", "hiss", "loud hiss", "dither", "hum", "click"],
)
def test_no_speech_no_regions(waveform: np.ndarray) -> None:
    assert detect_speech(waveform) == []


@pytest.mark.parametrize("level", [1.0, 0.1, 0.003])
def test_a_short_clip_is_one_region_at_any_loudness(level: float) -> None:
    waveform = np.concatenate([silence(0.7), speak("eins zwei drei vier", level=level), silence(0.7)])
    ((start_s, end_s),) = detect_speech(waveform)
    assert 0.3 <= start_s <= 0.7
    assert 2.3 <= end_s <= 3.0


@pytest.mark.parametrize("snr_level", [0.0, 0.003, 0.03, 0.1])
def test_pauses_cut_and_every_word_is_kept_in_noise(snr_level: float) -> None:
    waveform = np.concatenate([silence(2), speak("eins zwei . drei vier fünf", pause_s=3), silence(2)])
    regions = detect_speech(waveform + noise(len(waveform) / RATE, snr_level)[: len(waveform)])
    assert len(regions) == 2
    assert covered(regions, 2.0, 2.72)
    assert covered(regions, 5.84, 6.98)
    assert sum(b - a for a, b in regions) < 5


def test_a_fragment_too_short_to_judge_is_kept_unless_silent() -> None:
    assert detect_speech(noise(0.2, 0.05)) == [(0.0, 0.2)]
    assert detect_speech(silence(0.2)) == []


def test_short_pauses_do_not_cut() -> None:
    assert len(detect_speech(speak("eins . zwei . drei", pause_s=0.6))) == 1


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 48_000])
def test_other_sample_rates(sample_rate: int) -> None:
    times = np.arange(sample_rate * 4) / sample_rate
    waveform = (0.3 * np.sin(2 * np.pi * 500 * times) * ((times > 1.5) & (times < 2.5))).astype(np.float32)
    ((start_s, end_s),) = detect_speech(waveform, sample_rate=sample_rate)
    assert start_s == pytest.approx(1.2, abs=0.06)
    assert end_s == pytest.approx(2.8, abs=0.06)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["eins", "zwei", "sieben", "."]), min_size=1, max_size=60),
    st.floats(2.0, 30.0),
    st.floats(0.2, 2.0),
)
def test_regions_are_ordered_bounded_and_inside(
    tokens: list[str], max_window_s: float, pause_s: float
) -> None:
    waveform = np.concatenate([silence(1), speak(" ".join(tokens), pause_s=pause_s), silence(1)])
    regions = detect_speech(waveform, max_window_s=max_window_s)
    edges = [edge for region in regions for edge in region]
    assert edges == sorted(edges)
    assert all(0 <= a < b <= len(waveform) / RATE for a, b in regions)
    assert all(b - a <= max_window_s + 1e-9 for a, b in regions)
    assert bool(regions) == any(token != "." for token in tokens)


def test_long_speech_is_cut_between_words() -> None:
    waveform = speak("eins zwei drei vier fünf sechs sieben acht " * 12)  # 40 s without a pause
    regions = detect_speech(waveform, max_window_s=10.0)
    assert len(regions) >= 5
    assert all(b - a > 1.0 for a, b in regions), "no scraps"
    word_s, period_s = 0.3, 0.42
    for (_, end_s), (start_s, _) in pairwise(regions):
        assert end_s == start_s
        assert end_s % period_s > word_s - 0.02, "a cut inside a word"


def test_a_region_just_over_the_window_leaves_two_halves_of_use() -> None:
    regions = vad.split_windows([(0.0, 10.1)], np.zeros(1_010, np.float32), 10.0)
    assert len(regions) == 2
    assert min(b - a for a, b in regions) > 1.5


def slow_band_levels(waveform: np.ndarray) -> np.ndarray:
    """Frame by frame and band by band, as the docstring of compute_band_levels says."""
    hop, n_frames = 160, -(-len(waveform) // 160)
    padded = np.concatenate([waveform.astype(np.float64), np.zeros(2 * hop)])
    power = np.zeros((n_frames, 5))
    for i in range(n_frames):
        spectrum = np.fft.rfft(padded[i * hop : i * hop + 2 * hop] * np.hanning(2 * hop) / hop)
        bins_hz = np.arange(len(spectrum)) * RATE / (2 * hop)
        for band, (low, high) in enumerate(pairwise(vad.BAND_EDGES_HZ)):
            power[i, band] = sum(abs(spectrum[(bins_hz >= low) & (bins_hz < high)]) ** 2)
    smooth = [power[max(0, i - 2) : i + 3].mean(axis=0) for i in range(n_frames)]
    return 10 * np.log10(np.maximum(smooth, 1e-12))


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 4_000, 12_345])
def test_levels_equal_the_slow_twin(n_samples: int) -> None:
    waveform = np.resize(noise(1, 0.1), n_samples)
    got = vad.compute_band_levels(waveform, RATE)
    np.testing.assert_allclose(got, slow_band_levels(waveform), atol=2e-3)


def test_levels_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = noise(3, 0.1)
    whole = vad.compute_band_levels(waveform, RATE)
    monkeypatch.setattr(vad, "CHUNK_FRAMES", 7)
    np.testing.assert_allclose(vad.compute_band_levels(waveform, RATE), whole, atol=1e-4)


@pytest.mark.skipif(not (SHARED / "data/speech/emodb_dev").is_dir(), reason="needs real speech in ../shared")
@pytest.mark.parametrize("noise_level", [0.0, 0.003])
def test_real_speech_is_kept(noise_level: float) -> None:
    clips = [load_audio(path) for path in sorted((SHARED / "data/speech/emodb_dev").glob("*.flac"))[:24]]
    parts, spans, n_samples = [], [], 0
    for i, clip in enumerate(clips):
        gap = silence(0.5 + i % 5)
        spans.append((n_samples + len(gap), clip))
        parts += [gap, clip]
        n_samples += len(gap) + len(clip)
    waveform = np.concatenate(parts)
    waveform = waveform + noise(len(waveform) / RATE + 1, noise_level)[: len(waveform)]
    kept = np.zeros(len(waveform), bool)
    for start_s, end_s in detect_speech(waveform):
        kept[int(start_s * RATE) : int(end_s * RATE)] = True
    lost = total = 0.0
    for start, clip in spans:
        power = clip.astype(np.float64) ** 2
        total += power.sum()
        lost += power[~kept[start : start + len(clip)]].sum()
    assert lost / total < 1e-3
    assert kept.mean() < 0.85


def test_a_long_search_for_speech_ends_when_it_is_cancelled() -> None:
    looked: list[int] = []

    class Token(CancelToken):
        def raise_if_cancelled(self) -> None:
            looked.append(1)
            if len(looked) == 3:
                self.cancel()
            super().raise_if_cancelled()

    long = np.zeros(RATE * 60 * 10, np.float32)
    with pytest.raises(CancelledError):
        detect_speech(long, cancel=Token())
    assert len(looked) == 3
    assert detect_speech(long, cancel=CancelToken()) == []


def test_every_step_of_a_long_search_can_be_cancelled() -> None:
    n_parts, looks = 3, 0

    class Token(CancelToken):
        last = 10**9

        def raise_if_cancelled(self) -> None:
            nonlocal looks
            looks += 1
            if looks == self.last:
                self.cancel()
            super().raise_if_cancelled()

    long = noise(n_parts * vad.CHUNK_FRAMES * vad.FRAME_S, 0.01)
    detect_speech(long, cancel=Token())
    assert looks == 6 * n_parts  # power, sums, levels; ranks, excess; ranks of that
    for last in range(1, looks + 1, n_parts):
        looks, token = 0, Token()
        token.last = last
        with pytest.raises(CancelledError):
            detect_speech(long, cancel=token)


@pytest.mark.parametrize("n_frames", [100, 300, 12_700])
def test_parts_of_a_recording_are_heard_as_the_whole(monkeypatch: pytest.MonkeyPatch, n_frames: int) -> None:
    clip = speak("eins zwei drei", pause_s=0.3)
    recording = (
        np.resize(np.concatenate([clip, silence(1.3), clip * 0.1]), 61 * RATE + 77)
        + noise(62, 0.002)[: 61 * RATE + 77]
    )
    found = []
    for size in (n_frames, 10**9):
        monkeypatch.setattr(vad, "CHUNK_FRAMES", size)
        levels = vad.compute_band_levels(recording, RATE)
        excess = vad.compute_excess(levels)
        found.append((levels, excess, *vad.compute_thresholds(excess)))
    for part, whole in zip(*found, strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-5)
