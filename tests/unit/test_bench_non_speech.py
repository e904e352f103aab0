"""Invented words: made sounds are the same every time, and words are counted by kind, minute and hour."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from benchmarks.errors import BenchmarkError
from benchmarks.studies.non_speech import at_level, made_sounds, measure, recorded, render
from engine.types import DecodingOptions


class Inventor:
    """A recogniser that hears two words in every sound but silence."""

    def transcribe(self, waveform, sample_rate, *, options):
        words = [SimpleNamespace(text="so"), SimpleNamespace(text="oh")] if waveform.any() else []
        return SimpleNamespace(words=words)


def test_minutes_of_each_kind_that_do_not_change():
    first, second = list(made_sounds()), list(made_sounds())
    assert sum(sound.size for _, sound in first) / 16_000 >= 600.0
    assert {"silence", "noise", "pulsing noise", "hum", "tones", "clicks"} == {kind for kind, _ in first}
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))
    assert all(sound.dtype == np.float32 and np.isfinite(sound).all() for _, sound in first)


def test_words_are_counted():
    sounds = [("silence", np.zeros(160_000, np.float32)), ("noise", np.ones(320_000, np.float32))]
    ticks = []
    row = measure(Inventor(), sounds, DecodingOptions(passes=1), lambda: ticks.append(1))
    assert (row["words"], row["by_kind"]) == (2, {"silence": 0, "noise": 2})
    assert row["words_per_minute"] == pytest.approx(4.0)
    assert row["words_per_hour"] == pytest.approx(240.0)
    assert len(ticks) == 2
    assert "so oh" in render({"signature": "model:x|passes:one", "rows": [row]})


def test_recordings_are_cut_into_windows(tmp_path):
    soundfile.write(tmp_path / "room.wav", np.full(16_000 * 27, 0.01), 16_000)
    assert [sound.size for _, sound in recorded(tmp_path)] == [192_000, 192_000]
    with pytest.raises(BenchmarkError, match="no recording"):
        list(recorded(tmp_path / "empty"))


def test_level_is_rms():
    sound = at_level(np.sin(np.arange(16_000.0)), -20.0)
    assert 20.0 * np.log10(np.sqrt(np.mean(sound**2))) == pytest.approx(-20.0, abs=0.1)
