"""Streams over the embedded model: written finals, English, files beside them, threads, cancelling."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import jiwer
import numpy as np
import pytest

import engine
from engine.errors import CancelledError, OptionError
from engine.pipeline import SpeechTranslator
from engine.text import normalize_text
from engine.types import DecodingOptions, StreamEvent

pytestmark = pytest.mark.levels

RATE = 16_000
ONE = DecodingOptions(passes=1)
PAUSE = np.zeros(RATE, np.float32)


@pytest.fixture(scope="module")
def clips(translator: SpeechTranslator, examples: list[dict[str, str]]) -> list[np.ndarray]:
    return [translator.load_audio(row["path"]) for row in examples]


@pytest.fixture(scope="module")
def single(translator: SpeechTranslator) -> SpeechTranslator:
    """The same model with one core."""
    return engine.load(threads=1)


def listen(
    model: SpeechTranslator, waveform: np.ndarray, chunk_s: float = 0.5, **options: object
) -> list[StreamEvent]:
    size = round(chunk_s * RATE)
    chunks = [waveform[at : at + size] for at in range(0, len(waveform), size)]
    with model.open_stream(RATE, **options) as stream:  # type: ignore[arg-type]
        return list(stream.run(chunks))


def text_of(events: list[StreamEvent], kind: str = "final") -> str:
    return " ".join(event.text for event in events if event.kind == kind)


@pytest.mark.parametrize("passes", [1, 2])
def test_finals_are_written_like_the_whole_recording(
    translator: SpeechTranslator, clips: list[np.ndarray], passes: int
) -> None:
    options = DecodingOptions(passes=passes)
    both = np.concatenate([clips[0], PAUSE, clips[1], PAUSE])
    events = listen(translator, both, options=options, task="translate")
    whole = translator.transcribe(both, options=options)
    assert jiwer.wer(normalize_text(whole.text), normalize_text(text_of(events))) < 0.1
    finals = [event for event in events if event.kind == "final"]
    assert len(finals) == 2
    for event in finals:
        assert event.segment is not None
        assert event.text[0].isupper() and event.text[-1] in ".!?" and event.is_endpoint
        assert 0.0 <= event.start_s < event.end_s <= event.position_s
    for before, after in pairwise(word for event in finals for word in event.words):
        assert before.end_s <= after.start_s + 1e-6
    assert "grandmother" in text_of(events, "translation")
    partials = [event.text for event in events if event.kind == "partial" and event.text]
    assert partials and all(text == text.lower() for text in partials)


def test_options_reach_the_finals(translator: SpeechTranslator, clips: list[np.ndarray]) -> None:
    plain = text_of(listen(translator, clips[0], options=DecodingOptions(punctuation=False)))
    assert plain == plain.lower() and "." not in plain
    with pytest.raises(OptionError, match="list of words"):
        translator.open_stream(hotwords="Rothenburg")
    with pytest.raises(OptionError, match="transcribe or translate"):
        translator.open_stream(task="sing")  # type: ignore[arg-type]
    averse = DecodingOptions(passes=1, hotword_weight=-50.0)
    avoided = listen(translator, clips[0], options=averse, hotwords=["Großmutter"])
    assert "besuchen" in text_of(avoided) and "Großmutter" not in text_of(avoided)


def test_no_first_and_no_last_word_is_lost(translator: SpeechTranslator, clips: list[np.ndarray]) -> None:
    spoken = np.flatnonzero(np.abs(clips[0]) > 0.02)
    bare = clips[0][spoken[0] : spoken[-1]]
    text = text_of(listen(translator, bare, chunk_s=0.03))
    assert text.startswith("Morgen besuchen") and text.endswith("Blumen mit.")


def test_many_streams_from_many_threads_say_what_each_says_alone(
    translator: SpeechTranslator, clips: list[np.ndarray]
) -> None:
    alone = [text_of(listen(translator, clip, 0.5, options=ONE)) for clip in clips[:2]]
    results: dict[int, str] = {}

    def work(index: int) -> None:
        results[index] = text_of(listen(translator, clips[index % 2], 0.2, options=ONE))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(4)] == [alone[index % 2] for index in range(4)]
    assert translator.scheduler.n_running == translator.scheduler.n_waiting == 0


def test_two_streams_do_not_wait_for_a_long_file_on_one_core(
    single: SpeechTranslator, clips: list[np.ndarray]
) -> None:
    """The file needs the core for seconds; a stream gets it at the next layer. Counted in CPU time."""
    long = clips[2]
    waits: list[float] = []
    texts: dict[object, str] = {}
    file_done = threading.Event()

    def file() -> None:
        texts["file"] = single.transcribe(long).text
        file_done.set()

    def stream(index: int) -> None:
        found = []
        with single.open_stream(RATE, options=ONE) as opened:
            for at in range(0, len(clips[index]), RATE // 2):
                began_s = time.process_time()
                found += opened.feed(clips[index][at : at + RATE // 2])
                if not file_done.is_set():
                    waits.append(time.process_time() - began_s)
            found += opened.finish()
        texts[index] = text_of(found)

    whole = single.transcribe(long).text
    threads = [threading.Thread(target=file)]
    threads[0].start()
    while not single.scheduler.n_running:
        time.sleep(0.001)
    threads += [threading.Thread(target=stream, args=(index,)) for index in (0, 1)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts["file"] == whole
    assert str(texts[0]).startswith("Morgen besuchen") and str(texts[1]).startswith("Der Zug")
    assert len(waits) > 5
    assert max(waits) < 0.5, "CPU seconds of the whole process while one chunk waited and was computed"


def test_a_cancelled_stream_frees_the_core_at_once(single: SpeechTranslator, clips: list[np.ndarray]) -> None:
    """Within 250 ms of CPU time, in the middle of a final of 14 seconds."""
    speech = np.concatenate([clips[2]] * 4)[: 14 * RATE]
    stream, caught, ended_s = single.open_stream(RATE), [], []

    def work() -> None:
        try:
            stream.feed(speech)
            stream.finish()
        except CancelledError as error:
            ended_s.append(time.process_time())
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not single.scheduler.n_running:
        time.sleep(0.001)
    time.sleep(0.05)
    began_s = time.process_time()
    stream.cancel()
    thread.join()
    assert caught and ended_s[0] - began_s < 0.25
    assert single.scheduler.n_running == 0
    assert single.transcribe(clips[0]).text


def test_a_file_that_is_cancelled_while_it_waits_for_its_core_ends(
    single: SpeechTranslator, clips: list[np.ndarray]
) -> None:
    token, caught = engine.CancelToken(), []

    def work() -> None:
        try:
            single.transcribe(clips[0], cancel=token)
        except CancelledError as error:
            caught.append(error)

    with single.scheduler.turn("final"):
        thread = threading.Thread(target=work)
        thread.start()
        while not single.scheduler.n_waiting:
            time.sleep(0.001)
        token.cancel()
        thread.join(20)
        assert caught and not single.scheduler.n_waiting
