"""Regions come back in order, with times of the recording, bounded work ahead, and clean ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audio.vad import detect_speech
from engine.errors import AudioDecodeError, CancelledError, EngineError, OptionError
from engine.jobs import longform
from engine.jobs.longform import fixed_windows, run_ordered, split_segments, transcribe_regions
from engine.runtime.cancel import CancelToken
from engine.types import Hypothesis, Word
from tests.reference.tone_speech import SAMPLE_RATE, WORDS, recognise, silence, speak

TEXT = "eins zwei drei . vier fünf sechs . sieben acht neun zehn"
SPEECH = np.concatenate([silence(1), speak(TEXT, pause_s=2.5), silence(1)])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_words_keep_their_order_and_times(threads: int) -> None:
    segments = transcribe_regions(SPEECH, detect_speech(SPEECH), recognise, threads=threads)
    assert [segment.text for segment in segments] == [
        "eins zwei drei",
        "vier fünf sechs",
        "sieben acht neun zehn",
    ]
    assert segments[0].start_s == pytest.approx(1.0, abs=0.02)
    assert segments[1].start_s == pytest.approx(1 + 3 * 0.42 + 2.5, abs=0.02)
    assert segments[2].words[0].start_s == segments[2].start_s
    assert segments[0].confidence == pytest.approx(0.9)


def test_slow_first_regions_do_not_change_the_order() -> None:
    def slow_at_first(waveform: np.ndarray) -> Hypothesis:
        time.sleep(0.05 if recognise(waveform).text.startswith("eins") else 0)
        return recognise(waveform)

    regions = detect_speech(SPEECH)
    assert transcribe_regions(SPEECH, regions, slow_at_first, threads=3) == transcribe_regions(
        SPEECH, regions, recognise
    )


def test_no_more_windows_at_a_time_than_threads() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def counting(waveform: np.ndarray) -> Hypothesis:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return recognise(waveform)

    transcribe_regions(SPEECH, fixed_windows(9.0, max_window_s=0.2), counting, threads=3)
    assert 1 < most <= 3


def test_windows_that_cut_a_sentence_are_joined_again() -> None:
    waveform = speak("eins zwei drei vier fünf sechs")
    (segment,) = transcribe_regions(waveform, [(0.0, 0.84), (0.84, 2.52)], recognise, threads=2)
    assert segment.text == "eins zwei drei vier fünf sechs"


def test_no_regions_no_segments() -> None:
    calls: list[tuple[float, float]] = []
    assert transcribe_regions(silence(2), [], recognise, progress=lambda *at: calls.append(at)) == ()
    assert calls == [(2.0, 2.0)]


def test_progress_rises_to_the_end_in_the_callers_thread() -> None:
    calls: list[tuple[float, float]] = []

    def progress(done_s: float, total_s: float) -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append((done_s, total_s))

    transcribe_regions(SPEECH, detect_speech(SPEECH), recognise, threads=2, progress=progress)
    total_s = len(SPEECH) / SAMPLE_RATE
    assert calls == sorted(calls)
    assert len(calls) == 4
    assert calls[-1] == (total_s, total_s)


def test_cancelling_ends_the_work_soon() -> None:
    cancel, n_calls = CancelToken(), 0

    def cancelling(waveform: np.ndarray) -> Hypothesis:
        nonlocal n_calls
        n_calls += 1
        cancel.cancel()
        return recognise(waveform)

    regions = fixed_windows(len(SPEECH) / SAMPLE_RATE, max_window_s=0.2)
    with pytest.raises(CancelledError):
        transcribe_regions(SPEECH, regions, cancelling, threads=2, cancel=cancel)
    assert n_calls <= 2


def test_an_error_is_raised_and_leaves_no_threads() -> None:
    def failing(waveform: np.ndarray) -> Hypothesis:
        raise AudioDecodeError("bad window")

    before = threading.active_count()
    with pytest.raises(AudioDecodeError, match="bad window"):
        transcribe_regions(SPEECH, fixed_windows(5.0, max_window_s=0.1), failing, threads=4)
    assert threading.active_count() == before


def test_a_batch_yields_errors_in_place() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise AudioDecodeError("three")
        return item * item

    results = list(run_ordered(work, range(8), threads=3))
    assert [r for r in results if not isinstance(r, EngineError)] == [0, 1, 4, 16, 25, 36, 49]
    assert isinstance(results[3], AudioDecodeError)


def test_a_batch_is_taken_lazily_and_may_be_left() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = run_ordered(lambda item: item, endless(), threads=2)
    assert [next(results), next(results)] == [1, 2]
    results.close()  # type: ignore[attr-defined]
    assert taken <= 2 + 2 * longform.QUEUED_PER_THREAD


def test_foreign_errors_of_a_batch_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_ordered(lambda item: 1 // item, [1, 0], threads=2))


@given(st.floats(0, 4 * 3600), st.floats(1, 60))
def test_fixed_windows_cover_everything(duration_s: float, max_window_s: float) -> None:
    windows = fixed_windows(duration_s, max_window_s=max_window_s)
    assert sum(b - a for a, b in windows) == pytest.approx(duration_s)
    assert all(0 < b - a <= max_window_s + 1e-9 for a, b in windows)
    assert all(a[1] == b[0] for a, b in pairwise(windows))


@pytest.mark.parametrize("max_window_s", [0.0, -1.0, float("nan")])
def test_windows_of_no_length(max_window_s: float) -> None:
    with pytest.raises(OptionError, match="above zero"):
        fixed_windows(1.0, max_window_s=max_window_s)


def words(*gaps_s: float) -> list[Word]:
    """A word of 0.3 s after each gap."""
    result, now_s = [], 0.0
    for i, gap_s in enumerate(gaps_s):
        result.append(Word(WORDS[i % 10], now_s + gap_s, now_s + gap_s + 0.3, 0.5))
        now_s += gap_s + 0.3
    return result


def test_a_hesitation_before_the_last_word_does_not_cut() -> None:
    assert len(split_segments(words(0, 0.1, 0.1, 0.1, 0.9))) == 1
    assert len(split_segments(words(0, 0.1, 0.1, 0.1, 2.1))) == 2
    assert len(split_segments(words(0, 0.1, 0.1, 0.9, 0.1, 0.1))) == 2


@given(st.lists(st.floats(0, 3), max_size=150), st.integers(2, 50))
def test_segments_hold_every_word_once(gaps_s: list[float], max_words: int) -> None:
    spoken = words(*gaps_s)
    segments = split_segments(spoken, max_words=max_words)
    assert [word for segment in segments for word in segment.words] == spoken
    assert all(0 < len(segment.words) <= max_words for segment in segments)
    assert all(segment.text == " ".join(word.text for word in segment.words) for segment in segments)
    assert all(a.end_s <= b.start_s for a, b in pairwise(segments))
