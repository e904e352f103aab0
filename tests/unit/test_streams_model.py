"""Streams over the embedded model: written finals, English, files beside them, threads, cancelling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import jiwer
import numpy as np
import pytest

import engine
from engine.errors import CancelledError, OptionError
from engine.pipeline import SpeechTranslator
from engine.runtime import scheduler
from engine.runtime.cancel import CancelToken
from engine.runtime.scheduler import PATIENCE_S, CoreScheduler, Turn, Urgency
from engine.text import normalize_text
from engine.types import DecodingOptions, StreamEvent

pytestmark = pytest.mark.levels

RATE = 16_000
ONE = DecodingOptions(passes=1)
PAUSE = np.zeros(RATE, np.float32)
LONG_SAMPLES = 14 * RATE
STEP_S = 0.001  # of a question: so short that no file of these tests becomes late
HANG_S = 60.0


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


class Counted(CoreScheduler):
    """One core. Counts the questions of each computation; its clock is their number.

    A file's question waits until every open stream wants the core too, so that they meet at each of its
    questions, however fast or busy the machine is.

    Attributes:
        questions: whose they were. waits: for each turn of a stream, how often the file asked before it.
    """

    def __init__(self) -> None:
        self.questions: list[Urgency] = []
        self.waits: list[int] = []
        self.open_streams: set[int] = set()
        self.on_question: Callable[[], object] = lambda: None
        super().__init__(1, lambda: STEP_S * len(self.questions))

    @contextmanager
    def turn(self, urgency: Urgency, cancel: CancelToken | None = None, cores: int = 1) -> Iterator[Turn]:
        """See CoreScheduler."""
        before = self.questions.count("file")
        with super().turn(urgency, cancel, cores) as turn:
            if urgency != "file":
                self.waits.append(self.questions.count("file") - before)
            yield turn

    def give_way(self, turn: Turn) -> None:
        """See CoreScheduler."""
        urgency = next(kind for kind, patience_s in PATIENCE_S.items() if patience_s == turn.patience_s)
        self.questions.append(urgency)
        self.on_question()
        if urgency == "file":
            until(lambda: self.n_waiting >= len(self.open_streams))
        super().give_way(turn)


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.001)


@pytest.fixture
def counted(single: SpeechTranslator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """The scheduler of `single`, for one test, to which every recording is a long one."""
    monkeypatch.setattr(scheduler, "CLIP_S", 0.0)
    before, single.scheduler = single.scheduler, Counted()
    yield single.scheduler
    single.scheduler = before


def test_a_file_asks_at_every_layer_and_at_every_step(
    single: SpeechTranslator, counted: Counted, clips: list[np.ndarray]
) -> None:
    assert single.transcribe(clips[0], options=ONE).text
    n_encoder = len(counted.questions)
    encoder = single.acoustic.encoder
    # onnxruntime computes a window in one step.
    assert n_encoder >= (len(encoder._encoder.layers) if encoder.backend == "kernels" else 1)
    text = single.transcribe(clips[0]).text
    n_steps = len(counted.questions) - 2 * n_encoder
    assert n_steps >= len(text.split()), "a step a token, and a token is a word at the most"
    assert set(counted.questions) == {"file"}


def test_two_streams_do_not_wait_for_a_long_file_on_one_core(
    single: SpeechTranslator, counted: Counted, clips: list[np.ndarray]
) -> None:
    """A stream that wants the core gets it at the next question of the file: a layer or a step later."""
    speech = clips[2][:LONG_SAMPLES]
    whole = single.transcribe(speech).text
    n_alone = len(counted.questions)
    texts: dict[object, str] = {}  # in the order in which they end
    counted.open_streams |= {0, 1}

    def file() -> None:
        texts["file"] = single.transcribe(speech).text

    def stream(index: int) -> None:
        try:
            texts[index] = text_of(listen(single, clips[index], options=ONE))
        finally:
            counted.open_streams.discard(index)

    threads = [threading.Thread(target=file)]
    threads[0].start()
    until(lambda: len(counted.questions) > n_alone)
    threads += [threading.Thread(target=stream, args=(index,)) for index in (0, 1)]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts["file"] == whole and list(texts)[-1] == "file"
    assert str(texts[0]).startswith("Morgen besuchen") and str(texts[1]).startswith("Der Zug")
    assert len(counted.waits) >= 2, "each stream computes once at least; a late one leaves partials out"
    assert max(counted.waits) <= 1 and counted.questions[n_alone:].count("file") == n_alone


def test_a_cancelled_stream_frees_the_core_at_once(
    single: SpeechTranslator, counted: Counted, clips: list[np.ndarray]
) -> None:
    """At its next question, in the middle of a final of 14 seconds."""
    speech = clips[2][:LONG_SAMPLES]
    with single.open_stream(RATE) as alone:
        assert text_of(alone.feed(speech) + alone.finish())
    n_alone = len(counted.questions)
    n_cancelled = n_alone + n_alone // 2
    stream = single.open_stream(RATE)

    def cancel() -> None:
        if len(counted.questions) == n_cancelled:
            other = threading.Thread(target=stream.cancel)
            other.start()
            other.join()

    counted.on_question = cancel
    with pytest.raises(CancelledError):
        stream.feed(speech)
        stream.finish()
    assert len(counted.questions) == n_cancelled
    assert counted.n_running == counted.n_waiting == 0
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
