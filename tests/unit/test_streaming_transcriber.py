"""Streams: final text never changes, does not depend on the chunks, and equals the offline result."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio.vad import detect_speech
from engine.errors import AudioShapeError, AudioValueError, OptionError
from engine.jobs.longform import transcribe_regions
from engine.jobs.streaming import Partial, StreamingTranscriber
from engine.types import Hypothesis
from tests.reference.tone_speech import recognise, silence, speak

TEXT = "eins zwei drei . vier fünf sechs sieben . acht neun zehn"
SPEECH = np.concatenate([silence(1), speak(TEXT), silence(0.4)])


def stream(chunks: list[np.ndarray], **options: float) -> list[Partial]:
    transcriber = StreamingTranscriber(recognise, **options)  # type: ignore[arg-type]
    return [*(transcriber.feed(chunk) for chunk in chunks), transcriber.finish()]


def test_the_final_result_is_the_offline_one() -> None:
    final = stream(np.array_split(SPEECH, 37))[-1]
    offline = transcribe_regions(SPEECH, detect_speech(SPEECH), recognise)
    assert final.tentative_text == ""
    assert final.stable_text == final.text == TEXT.replace(" .", "")
    assert [segment.text for segment in final.segments] == [segment.text for segment in offline]
    for got, want in zip(final.segments, offline, strict=True):
        assert got.start_s == pytest.approx(want.start_s, abs=0.011)
        assert got.end_s == pytest.approx(want.end_s, abs=0.011)


def test_stable_text_only_grows_and_tentative_text_comes_early() -> None:
    partials = stream(np.array_split(SPEECH, 80))
    for before, after in pairwise(partials):
        assert after.stable_text.startswith(before.stable_text)
        assert after.segments[: len(before.segments)] == before.segments
    first = next(p for p in partials if p.text)
    assert first.stable_text == ""
    assert first.tentative_text.startswith("eins")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(SPEECH)), max_size=40))
def test_the_final_result_does_not_depend_on_the_chunks(cuts: list[int]) -> None:
    final = stream(np.split(SPEECH, sorted(cuts)))[-1]
    assert final == stream([SPEECH])[-1]


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100, 48_000])
def test_any_rate_and_channels(sample_rate: int) -> None:
    times = np.arange(int(len(SPEECH) / 16_000 * sample_rate)) / sample_rate
    samples = np.interp(times, np.arange(len(SPEECH)) / 16_000, SPEECH).astype(np.float32)
    stereo = (np.stack([samples, samples], axis=1) * 32767).astype(np.int16)
    final = stream(np.array_split(stereo, 30), sample_rate=sample_rate)[-1]
    assert final.stable_text == TEXT.replace(" .", "")


def test_speech_without_a_pause_becomes_final_between_words() -> None:
    text = "eins zwei drei vier fünf sechs sieben acht neun zehn " * 5
    partials = stream(np.array_split(speak(text), 100), max_window_s=5.0)
    assert partials[60].stable_text, "nothing became final while the speaker went on"
    assert partials[-1].stable_text == text.strip()


def test_silence_says_nothing_and_is_forgotten() -> None:
    transcriber = StreamingTranscriber(recognise)
    for _ in range(120):
        assert transcriber.feed(silence(0.5)).text == ""
    assert len(transcriber._stream._ears.samples.values) < 4 * 16_000
    assert len(transcriber._stream._ears._power.values) < 1_500
    assert transcriber.feed(speak("drei vier")).segments == ()
    (segment,) = transcriber.finish().segments
    assert segment.text == "drei vier"
    assert segment.start_s == pytest.approx(60.0, abs=0.02)


def test_no_window_is_longer_than_asked_for() -> None:
    longest = 0

    def measuring(waveform: np.ndarray) -> Hypothesis:
        nonlocal longest
        longest = max(longest, len(waveform))
        return recognise(waveform)

    transcriber = StreamingTranscriber(measuring, max_window_s=4.0)
    for chunk in np.array_split(speak("eins zwei drei vier " * 20), 50):
        transcriber.feed(chunk)
    transcriber.finish()
    assert longest <= 4.0 * 16_000


@pytest.mark.parametrize("chunks", [[], [np.zeros(0, np.float32)], [np.zeros(7, np.float32)]])
def test_next_to_nothing(chunks: list[np.ndarray]) -> None:
    assert stream(chunks)[-1] == Partial("", "", ())


def test_a_bad_chunk_is_refused_and_the_stream_goes_on() -> None:
    transcriber = StreamingTranscriber(recognise)
    with pytest.raises(AudioValueError, match="NaN"):
        transcriber.feed(np.array([np.nan], np.float32))
    with pytest.raises(AudioShapeError, match="complex"):
        transcriber.feed(np.zeros(10, complex))
    for chunk in (b"raw samples", [0.1, 0.2]):
        with pytest.raises(AudioShapeError, match=f"{type(chunk).__name__}.*frombuffer"):
            transcriber.feed(chunk)  # type: ignore[arg-type]
    transcriber.feed(SPEECH)
    assert transcriber.finish().stable_text == TEXT.replace(" .", "")


def test_after_the_end() -> None:
    transcriber = StreamingTranscriber(recognise)
    transcriber.feed(SPEECH)
    assert transcriber.finish() == transcriber.finish()
    with pytest.raises(OptionError, match="finish"):
        transcriber.feed(SPEECH)


@pytest.mark.parametrize("options", [{"pause_s": 0.1}, {"pad_s": -1.0}, {"max_window_s": 0.5}])
def test_options_that_exclude_each_other(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="defaults"):
        StreamingTranscriber(recognise, **options)  # type: ignore[arg-type]
