"""Streams over speech of known text: events in order, finals whatever the chunks, honest lags."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio.vad import detect_speech
from engine.errors import AudioLimitError, AudioValueError, CancelledError, OptionError, StreamError
from engine.jobs.endpoints import EndpointOptions
from engine.jobs.longform import transcribe_regions
from engine.jobs.streams import SpeechStream, StreamStages
from engine.jobs.tentative import find_gap
from engine.output.events import event_to_dict
from engine.runtime.cancel import CancelToken
from engine.types import Hypothesis, StreamEvent, TranslationHypothesis, Word
from tests.reference.tone_speech import recognise, silence, speak

RATE = 16_000
TEXT = "eins zwei drei . vier fünf sechs sieben . acht neun zehn"
SPEECH = np.concatenate([silence(1), speak(TEXT), silence(0.4)])


def english(texts: list[str]) -> list[TranslationHypothesis]:
    return [
        TranslationHypothesis(text.upper(), 0.0, 0.5, (f"no {text}",) if "drei" in text else ())
        for text in texts
    ]


def plain(recogniser: Any = recognise, translate: Any = None) -> StreamStages:
    return StreamStages(recogniser, recogniser, lambda words, paused: list(words), translate)


def listen(
    chunks: list[np.ndarray], endpoint: EndpointOptions | None = None, translate: Any = None
) -> list[StreamEvent]:
    return list(SpeechStream(plain(translate=translate), endpoint=endpoint).run(chunks))


def lasting(events: list[StreamEvent]) -> list[StreamEvent]:
    """What must not depend on chunks: everything but partials, without the times of arrival."""
    return [replace(event, position_s=0.0, lag_s=0.0) for event in events if event.kind != "partial"]


def finals(events: list[StreamEvent]) -> list[str]:
    return [event.text for event in events if event.kind == "final"]


def test_finals_are_those_of_the_whole_recording() -> None:
    events = listen(np.array_split(SPEECH, 37))
    offline = transcribe_regions(SPEECH, detect_speech(SPEECH), recognise)
    got = [event.segment for event in events if event.kind == "final"]
    assert finals(events) == [segment.text for segment in offline] == TEXT.split(" . ")
    for ours, theirs in zip(got, offline, strict=True):
        assert ours is not None and len(ours.words) == len(theirs.words)
        for word, other in zip(ours.words, theirs.words, strict=True):
            assert word.start_s == pytest.approx(other.start_s, abs=0.011)
            assert word.end_s == pytest.approx(other.end_s, abs=0.011)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(SPEECH)), max_size=40))
def test_finals_do_not_depend_on_the_chunks(cuts: list[int]) -> None:
    events = listen(np.split(SPEECH, sorted(cuts)), translate=english)
    assert lasting(events) == lasting(listen([SPEECH], translate=english))


def test_events_come_in_order_and_speech_starts_and_ends_in_pairs() -> None:
    events = listen(np.array_split(SPEECH, 100), translate=english)
    kinds = [event.kind for event in events if event.kind != "partial"]
    assert kinds == ["speech_start", "speech_end", "final", "translation"] * 3
    edges = [event.start_s for event in events if event.kind.startswith("speech")]
    assert edges == sorted(edges) and edges[0] == pytest.approx(1.0, abs=0.05)
    assert [event.segment_id for event in events if event.kind == "translation"] == [0, 1, 2]
    for before, after in pairwise(events):
        assert after.position_s >= before.position_s
        if after.kind == "translation":
            assert (after.text, after.start_s, after.segment_id) == (
                before.text.upper(), before.start_s, before.segment_id,
            )  # fmt: skip
            assert after.words == () and after.segment is not None and after.segment.confidence == 0.5
    notes = [event.warnings for event in events if event.kind == "translation"]
    assert notes == [("no eins zwei drei",), (), ()]
    lines = [event_to_dict(event) for event in events]
    assert [line["warnings"] for line in lines if line["kind"] == "translation"] == [list(n) for n in notes]
    assert not any("warnings" in line for line in lines if line["kind"] != "translation")
    partials = [event for event in events if event.kind == "partial"]
    assert partials[0].text.startswith("eins") and not partials[0].is_endpoint
    assert all(event.is_endpoint for event in events if event.kind == "final")


def test_a_partial_has_words_with_times_from_the_start_of_the_stream() -> None:
    partial = [event for event in listen(np.array_split(SPEECH, 100)) if event.kind == "partial"][-1]
    offline = transcribe_regions(SPEECH, detect_speech(SPEECH), recognise)[-1]
    for word, other in zip(partial.words, offline.words, strict=False):
        assert (word.text, word.start_s) == (other.text, pytest.approx(other.start_s, abs=0.02))
    assert (partial.start_s, partial.end_s) == (partial.words[0].start_s, partial.words[-1].end_s)


def test_partials_of_a_long_utterance_cost_no_more_than_those_of_a_short_one() -> None:
    lengths: list[float] = []

    def guess(waveform: np.ndarray) -> Hypothesis:
        lengths.append(len(waveform) / RATE)
        return recognise(waveform)

    text = "eins zwei drei vier fünf sechs sieben acht neun zehn " * 3
    stages = StreamStages(recognise, guess, lambda words, paused: list(words))
    events = list(SpeechStream(stages).run(np.array_split(speak(text), 120)))
    partials = [event.text for event in events if event.kind == "partial"]
    assert finals(events) == [text.strip()]
    assert max(lengths) < 6.0
    assert text.startswith(max(partials, key=len)[:-8]) and max(map(len, partials)) > 0.8 * len(text)


def test_speech_without_a_pause_is_cut_between_words_and_is_no_endpoint() -> None:
    text = "eins zwei drei vier fünf sechs sieben acht neun zehn " * 5
    events = listen(np.array_split(speak(text), 100), EndpointOptions(max_window_s=5.0))
    ends = [event.is_endpoint for event in events if event.kind == "final"]
    assert " ".join(finals(events)) == text.strip()
    assert len(ends) > 3 and not any(ends[:-1]) and ends[-1]
    assert [event.kind for event in events].count("speech_start") == 1


def test_a_full_window_is_cut_where_words_were_heard_with_what_follows_them() -> None:
    """A word at the very end of what is heard is misheard, as by a model that knows nothing of the next."""

    def mishear(waveform: np.ndarray) -> Hypothesis:
        found = recognise(waveform)
        end_s = len(waveform) / RATE - 0.2
        words = [replace(word, text="hm") if word.end_s > end_s else word for word in found.words]
        return replace(found, words=tuple(words), text=" ".join(word.text for word in words))

    text = "eins zwei drei vier fünf sechs sieben acht neun zehn " * 3
    wave = np.concatenate([speak(text), silence(1)])
    events = list(SpeechStream(plain(mishear), endpoint=EndpointOptions(max_window_s=5.0)).run([wave]))
    assert len(finals(events)) > 3
    assert " ".join(finals(events)) == text.strip()


@pytest.mark.parametrize(("marks", "last"), [(".", "sieben."), (",", "sieben,"), ("", "zehn")])
def test_a_full_window_is_cut_where_a_sentence_ends_rather_than_in_a_longer_pause(
    marks: str, last: str
) -> None:
    """A pause of 0.35 s follows every "zehn", one of 0.12 s every other word; marks stand behind "sieben"."""

    def with_marks(words: Sequence[Word]) -> list[str]:
        return [word.text + marks if word.text == "sieben" else word.text for word in words]

    written: list[bool] = []

    def write(words: Sequence[Word], ended: bool) -> list[Word]:
        written.append(ended)
        texts = with_marks(words)
        return [replace(word, text=text) for word, text in zip(words, texts, strict=True)]

    once = np.concatenate([speak("eins zwei drei vier fünf sechs sieben acht neun zehn"), silence(0.23)])
    stages = replace(plain(), write=write, mark=with_marks)
    stream = SpeechStream(stages, endpoint=EndpointOptions(max_window_s=12.0))
    events = list(stream.run(np.array_split(np.tile(once, 6), 100)))
    *cut, rest = finals(events)
    assert cut and {text.split()[-1] for text in cut} == {last}
    assert written == [marks == "."] * len(cut) + [True]
    said = " ".join([*cut, rest])
    assert (said.replace(marks, "") if marks else said) == " ".join(
        ["eins zwei drei vier fünf sechs sieben acht neun zehn"] * 6
    )


def test_a_mark_without_a_gap_behind_it_is_no_place_to_cut() -> None:
    words = [Word("ja", 0.0, 0.5, 1.0), Word("am", 0.52, 1.0, 1.0), Word("See", 1.3, 1.6, 1.0)]
    assert find_gap(words, 0.0, 2.0, ["ja.", "am", "See"]) == pytest.approx((0.3, 2, 1.15))
    assert find_gap(words, 0.0, 1.0, ["ja.", "am", "See"]) == pytest.approx((0.02, 1, 0.51))
    assert find_gap(words, 1.4, 2.0, ["ja", "am", "See"]) is None


def test_first_and_last_words_without_silence_around_them() -> None:
    assert finals(listen(np.array_split(speak("eins zwei drei")[: -int(0.12 * RATE)], 9))) == [
        "eins zwei drei"
    ]


@pytest.mark.parametrize("n_samples", [0, 1, 300, 1_000])
def test_next_to_nothing(n_samples: int) -> None:
    assert listen([np.full(n_samples, 0.5, np.float32)]) == []


def test_a_word_shorter_than_a_judgement_is_not_lost() -> None:
    assert finals(listen([speak("eins")[: int(0.35 * RATE)]])) == ["eins"]


def test_a_sound_that_is_no_speech_takes_its_partial_back() -> None:
    words = iter([recognise, recognise])

    def deaf(waveform: np.ndarray) -> Hypothesis:
        found = next(words, None)
        return found(waveform) if found else Hypothesis("", (), 0.0, 0.0, 0.0)

    events = list(SpeechStream(plain(deaf)).run(np.array_split(np.concatenate([SPEECH[:40_000]]), 25)))
    kinds = [event.kind for event in events]
    assert "final" not in kinds and kinds.count("speech_start") == kinds.count("speech_end") == 1
    partials = [event for event in events if event.kind == "partial"]
    assert partials[0].text and partials[-1].text == "" and partials[-1].segment is None


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lag_is_what_computing_took_since_the_audio_that_was_needed() -> None:
    clock = Clock()

    def slow(waveform: np.ndarray) -> Hypothesis:
        clock.now_s += 0.25
        return recognise(waveform)

    stream = SpeechStream(plain(slow), clock=clock)
    events = list(stream.run(np.array_split(SPEECH, round(len(SPEECH) / 800))))  # 50 ms each
    first = next(event for event in events if event.kind == "partial")
    assert 0.25 <= first.lag_s <= 0.25 + 0.1  # audio is looked at every 100 ms
    final = next(event for event in events if event.kind == "final")
    assert 0.25 <= final.lag_s <= 0.25 + 0.16
    end = next(event for event in events if event.kind == "speech_end")
    assert final.position_s - end.end_s == pytest.approx(0.7, abs=0.16)


def test_partials_are_fewer_where_computing_is_slow() -> None:
    counts = []
    for took_s in (0.0, 1.0):
        clock = Clock()

        def slow(waveform: np.ndarray, clock: Clock = clock, took_s: float = took_s) -> Hypothesis:
            clock.now_s += took_s
            return recognise(waveform)

        speech = speak("eins zwei drei vier fünf sechs sieben acht neun zehn " * 2)
        events = list(SpeechStream(plain(slow), clock=clock).run(np.array_split(speech, 90)))
        counts.append(sum(event.kind == "partial" for event in events))
    assert counts[1] < counts[0] / 3


def test_a_block_that_ends_without_finish_keeps_the_last_words_and_an_error_does_not_wait_for_them() -> None:
    with SpeechStream(plain()) as stream:
        stream.feed(SPEECH)
    assert finals(stream.take_events()) == ["acht neun zehn"]
    assert stream.take_events() == [] and stream.finished
    with pytest.raises(KeyError), SpeechStream(plain()) as stream:
        stream.feed(SPEECH)
        raise KeyError("the caller's own")
    assert stream.take_events() == []
    with pytest.raises(StreamError, match="after the end"):
        stream.feed(SPEECH)


def test_after_the_end() -> None:
    stream = SpeechStream(plain())
    assert stream.feed(SPEECH) and stream.finish()
    assert stream.finish() == []
    with pytest.raises(StreamError, match="open another one"):
        stream.feed(SPEECH)


def test_a_bad_chunk_is_refused_and_the_stream_goes_on() -> None:
    stream, events = SpeechStream(plain()), []
    for chunk in np.array_split(SPEECH, 12):
        events += stream.feed(chunk)
        with pytest.raises(AudioValueError, match="NaN"):
            stream.feed(np.array([np.nan], np.float32))
    assert lasting(events + stream.finish()) == lasting(listen([SPEECH]))


@pytest.mark.parametrize("failing", range(6))
def test_nothing_is_lost_or_said_twice_when_computing_fails(failing: int) -> None:
    calls = iter(range(1_000))

    def weak(waveform: np.ndarray) -> Hypothesis:
        if next(calls) == failing:
            raise MemoryError("for a moment")
        return recognise(waveform)

    stream, events, failures = SpeechStream(plain(weak)), [], 0
    for step in [*np.array_split(SPEECH, 12), None]:
        try:
            events += stream.finish() if step is None else stream.feed(step)
        except MemoryError:
            failures += 1
    events += stream.finish()
    assert failures == 1
    assert lasting(events) == lasting(listen([SPEECH]))


def test_a_second_thread_is_told_that_the_stream_is_in_use() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waits(waveform: np.ndarray) -> Hypothesis:
        begun.set()
        assert go_on.wait(20)
        return recognise(waveform)

    stream, events = SpeechStream(plain(waits)), []
    thread = threading.Thread(target=lambda: events.extend(stream.run([SPEECH])))
    thread.start()
    assert begun.wait(20)
    for call in (lambda: stream.feed(SPEECH), stream.finish, stream.take_events):
        with pytest.raises(StreamError, match="one thread at a time"):
            call()
    go_on.set()
    thread.join(20)
    assert finals(events) == TEXT.split(" . ")


def test_a_cancelled_stream_stays_so() -> None:
    stream = SpeechStream(plain())
    stream.feed(SPEECH)
    stream.cancel()
    for call in (lambda: stream.feed(SPEECH), stream.finish):
        with pytest.raises(CancelledError):
            call()
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        SpeechStream(plain(), cancel=token).feed(SPEECH)


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000])
def test_any_rate_and_channels(sample_rate: int) -> None:
    times = np.arange(int(len(SPEECH) / RATE * sample_rate)) / sample_rate
    samples = np.interp(times, np.arange(len(SPEECH)) / RATE, SPEECH).astype(np.float32)
    stereo = (np.stack([samples, samples], axis=1) * 32767).astype(np.int16)
    events = list(SpeechStream(plain(), sample_rate).run(np.array_split(stereo, 30)))
    assert finals(events) == TEXT.split(" . ")
    assert events[-1].position_s == pytest.approx(len(SPEECH) / RATE, abs=0.01)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"pause_s": 0.01}, "pause_s 0.01"),
        ({"pad_s": 0.7}, "pad_s 0.7"),
        ({"pad_s": -1}, "pad_s -1"),
        ({"max_window_s": 1.0}, "max_window_s 1"),
        ({"max_window_s": 100.0, "min_speech_s": 0.0}, "max_window_s 100, min_speech_s 0"),
        ({"pause_s": float("nan")}, "pause_s nan"),
        ({"partial_interval_s": True}, "partial_interval_s True"),
        ({"pause_s": "0.7"}, "pause_s '0.7'"),
    ],
)
def test_settings_that_make_no_sense_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        EndpointOptions(**values)


def test_an_impossible_rate() -> None:
    with pytest.raises(AudioLimitError):
        SpeechStream(plain(), 10)


def test_endpoint_settings_decide_when_text_is_final() -> None:
    quick = listen(np.array_split(SPEECH, 200), EndpointOptions(pause_s=0.4, pad_s=0.2))
    usual = listen(np.array_split(SPEECH, 200))
    assert finals(quick) == finals(usual)
    first, second = (next(e for e in events if e.kind == "final") for events in (quick, usual))
    assert second.position_s - first.position_s == pytest.approx(0.3, abs=0.11)
    slow = listen([SPEECH], EndpointOptions(pause_s=2.0))
    assert finals(slow) == [TEXT.replace(" .", "")] or len(finals(slow)) == 3
    assert [event.kind for event in slow].count("speech_start") == 1
