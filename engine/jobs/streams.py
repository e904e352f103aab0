"""Streams: speech recognised while it arrives, as events.

The open window, from the last pause to now, is decoded again and again; what that gives is a partial. At a
pause, or when the window is full, it is decoded once more as a whole and becomes final. Borders are decided
every 100 ms of audio, so that finals do not depend on how the audio was cut on its way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from numpy.typing import NDArray

from engine.audio import vad
from engine.audio.limits import SAMPLE_RATE, AudioLimits, check_rate
from engine.audio.load import StreamResampler, downmix
from engine.errors import StreamError
from engine.jobs.endpoints import HOP, Endpointer, EndpointOptions, Region
from engine.jobs.longform import Recognise, make_segment, shift_words, split_segments
from engine.jobs.tentative import CHANGING_S, Tentative, find_gap
from engine.output.punctuation import ends_sentence
from engine.runtime.cancel import CancelToken
from engine.types import Segment, StreamEvent, StreamEventKind, TranslationHypothesis, Word

DECODE_SHARE: Final = 0.5  # of real time that partial results may take
SETTLED_FRAMES: Final = 15  # behind a word, its letters no longer change
Write = Callable[[Sequence[Word], bool], list[Word]]
Mark = Callable[[Sequence[Word]], Sequence[str]]
Translate = Callable[[list[str]], Sequence[TranslationHypothesis]]


@dataclass(frozen=True, slots=True)
class StreamStages:
    """What a stream computes with.

    Attributes:
        final: float32 [n_samples], mono, 16 kHz -> Hypothesis with times relative to it.
        guess: the same for partials, where something faster will do.
        write: words of a final, and whether a pause or a sentence ended it -> the words as they are read,
            perhaps none. Called in order.
        translate: German texts -> as many English ones; None: no translations.
        mark: the words that follow the last final -> the text of each with its marks; changes nothing.
    """

    final: Recognise
    guess: Recognise
    write: Write
    translate: Translate | None = None
    mark: Mark = lambda words: [word.text for word in words]


class SpeechStream:
    """One stream of audio. Many can be open over one model; each is used by one thread at a time.

    As a context manager it finishes at the end of the block, unless an error leaves it; take_events() has
    what finish() would have returned.

    Attributes:
        sample_rate: Hz of the chunks. finished: whether it takes no more audio.
        clock: seconds, for lags; a simulation may set another one before the first chunk.
    """

    def __init__(
        self,
        stages: StreamStages,
        sample_rate: int = SAMPLE_RATE,
        endpoint: EndpointOptions | None = None,
        cancel: CancelToken | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Open a stream; users call SpeechTranslator.open_stream.

        Args:
            clock: seconds, for lags; another one in simulations.
        Raises:
            AudioLimitError: an impossible sample rate.
        """
        check_rate(sample_rate, "the stream", AudioLimits())
        self.sample_rate, self.finished = sample_rate, False
        self._drained = False  # whether everything is final
        self._stages, self.clock = stages, clock
        self._token = cancel if cancel is not None else CancelToken()
        self._options = endpoint or EndpointOptions()
        self._resampler = StreamResampler(sample_rate)
        self._ears = Endpointer(self._options)
        self._tentative = Tentative(stages.guess)
        self._wait_s = self._options.partial_interval_s
        self._guessed = 0  # sample up to which the last partial heard
        self._partial = ""
        self._spoken: Region | None = None  # the utterance that goes on
        self._speaking: int | None = None  # frame up to which somebody speaks
        self._silent = 0  # frame at which the last utterance ended
        self._n_segments, self._n_samples = 0, 0
        self._came_s = 0.0  # when the newest audio came in, by the clock
        self._events: list[StreamEvent] = []
        self._in_use = threading.Lock()

    @property
    def position_s(self) -> float:
        """Seconds of audio it was given."""
        return self._n_samples / self.sample_rate

    def feed(self, chunk: NDArray[Any]) -> list[StreamEvent]:
        """Take the next audio and compute what it makes known.

        Args:
            chunk: as load_audio takes arrays, at the stream's rate, of any length; may be empty. One with
                several channels must hold more samples than channels.
        Returns:
            Events, in order; with a partial at most every partial_interval_s of audio.
        Raises:
            AudioShapeError, AudioValueError: a bad chunk; the stream goes on without it.
            StreamError: it is finished, or another thread uses it now. CancelledError: it is cancelled.
            Whatever computing raises; the audio is not lost, and events before are returned by the next call.
        """
        with self._used():
            self._refuse_after_end()
            self._token.raise_if_cancelled()
            samples = downmix(chunk)
            self._came_s = self.clock()
            self._n_samples += len(samples)
            self._ears.push(self._resampler.push(samples))
            self._advance()
            if (self._ears.samples.end - self._guessed) / SAMPLE_RATE >= self._wait_s:
                self._guess()
            return self._take()

    def finish(self) -> list[StreamEvent]:
        """Make everything final; no audio can follow.

        Returns:
            The last events; none when it was finished before.
        Raises:
            StreamError: another thread uses it now. CancelledError: it is cancelled.
        """
        with self._used():
            if not self.finished:
                self.finished = True
                self._ears.push(self._resampler.flush())
            if not self._drained:
                self._token.raise_if_cancelled()
                self._came_s = self.clock()
                self._advance()
                self._ears.end()
                self._decide()
                self._drained = True
            return self._take()

    def cancel(self) -> None:
        """End the stream from any thread: a call under way raises CancelledError, as every later one does.

        Where open_stream was given a token, the token is cancelled, with all that share it.
        """
        self._token.cancel()

    def take_events(self) -> list[StreamEvent]:
        """Events that no call has returned yet: those of a `with` block that ended without finish()."""
        with self._used():
            return self._take()

    def run(self, chunks: Iterable[NDArray[Any]]) -> Iterator[StreamEvent]:
        """Feed chunks as they are taken, and finish after the last.

        Raises:
            Whatever feed and finish raise.
        """
        for chunk in chunks:
            yield from self.feed(chunk)
        yield from self.finish()

    def __enter__(self) -> SpeechStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.finished = self._drained = True
        elif not self._drained:
            self._events = self.finish()

    @contextmanager
    def _used(self) -> Iterator[None]:
        if not self._in_use.acquire(blocking=False):
            raise StreamError(
                "a stream that another thread is using",
                "one thread at a time",
                "open a stream for each speaker",
            )
        try:
            yield
        finally:
            self._in_use.release()

    def _refuse_after_end(self) -> None:
        if self.finished:
            raise StreamError("audio after the end of a stream", "an open stream", "open another one")

    def _take(self) -> list[StreamEvent]:
        events, self._events = self._events, []
        return events

    def _advance(self) -> None:
        self._decide()  # what an error has left undone
        while self._ears.advance():
            self._token.raise_if_cancelled()  # a chunk may be minutes long
            self._decide()

    def _decide(self) -> None:
        """Close what a pause or a full window has ended, and forget what is long silent."""
        while region := self._ears.find():
            self._hear(region)
            if not region.closed:
                self._spoken = region
                return
            self._close(region)
        self._spoken = None
        self._fall_silent()
        self._take_back()
        self._ears.forget_silence()

    def _hear(self, region: Region) -> None:
        """Say that somebody speaks."""
        if region.end <= self._silent:
            return  # told before an error
        if self._speaking is None:
            start_s = region.start * vad.FRAME_S
            self._tell("speech_start", start_s, start_s, start_s + self._options.min_speech_s)
        self._speaking = region.end

    def _fall_silent(self) -> None:
        """Say that nobody speaks any more: the utterance is over, or it was no speech."""
        if self._speaking is not None:
            end_s = self._speaking * vad.FRAME_S
            self._silent, self._speaking = self._speaking, None
            self._tell("speech_end", end_s, end_s, end_s + self._options.pause_s)

    def _take_back(self) -> None:
        """No partial stands any more."""
        self._tentative.clear()
        self._guessed = self._ears.samples.end
        if self._partial:
            self._partial = ""
            at_s = self._ears.samples.end / SAMPLE_RATE
            self._tell("partial", at_s, at_s, at_s)

    def _close(self, region: Region) -> None:
        """Decode an utterance once, as a whole, and begin the next window behind it."""
        if region.paused:
            self._fall_silent()
        words, region, ended = self._recognise(region)
        segments, english = self._write(words, ended)
        needed_s = region.end * vad.FRAME_S + self._options.pause_s
        if not region.paused:
            needed_s = self._ears.samples.end / SAMPLE_RATE
        if segments:
            self._partial = ""  # the final stands in its place
        for index, segment in enumerate(segments):
            ends = region.paused and index == len(segments) - 1
            self._tell("final", segment.start_s, segment.end_s, needed_s, segment, ends)
            if english:
                found = english[index]
                translated = Segment(found.text, segment.start_s, segment.end_s, (), found.confidence)
                self._tell(
                    "translation", segment.start_s, segment.end_s, needed_s, translated, ends, found.warnings
                )
            self._n_segments += 1
        self._take_back()
        self._spoken = None
        self._guessed = region.last * HOP
        self._ears.close(region)

    def _recognise(self, region: Region) -> tuple[list[Word], Region, bool]:
        """The words of an utterance, how far they go, and whether a pause or a sentence ends there: a full
        window is cut between words, rather between sentences, where the words before have been heard with
        what follows them; what is behind is decoded again, with the next."""
        full = not region.paused
        last = region.first + self._ears.max_frames if full else region.last
        waveform = self._ears.samples.slice(region.first * HOP, last * HOP)
        words = shift_words(self._stages.final(waveform).words, region.first * vad.FRAME_S)
        if not full:
            return words, region, True
        half_s = (region.first + last) / 2 * vad.FRAME_S
        texts = self._stages.mark(words)
        gap = find_gap(words, half_s, last * vad.FRAME_S - CHANGING_S, texts)
        if gap is None:
            return [word for word in words if word.end_s <= region.last * vad.FRAME_S], region, False
        cut = round(gap.middle_s / vad.FRAME_S)
        ended = ends_sentence(texts[gap.n_before - 1])
        return words[: gap.n_before], region._replace(last=cut, end=cut), ended

    def _write(
        self, words: list[Word], ended: bool
    ) -> tuple[tuple[Segment, ...], Sequence[TranslationHypothesis]]:
        """German segments, and English ones where they are wanted."""
        segments = split_segments(self._stages.write(words, ended))
        if not segments or self._stages.translate is None:
            return segments, []
        return segments, self._stages.translate([segment.text for segment in segments])

    def _guess(self) -> None:
        """Decode the open window as far as it has come."""
        heard, self._guessed = self._guessed, self._ears.samples.end
        if self._spoken is None or (self._partial and heard >= (self._spoken.end + SETTLED_FRAMES) * HOP):
            return  # nothing was said since
        began_s = self.clock()
        words = self._tentative.guess(self._ears.samples, self._spoken.first * HOP)
        self._wait_s = max(self._options.partial_interval_s, (self.clock() - began_s) / DECODE_SHARE)
        heard_s = self._ears.samples.end / SAMPLE_RATE
        if words:
            segment = make_segment(words)
            self._partial = segment.text
            self._tell("partial", segment.start_s, segment.end_s, heard_s, segment)
        elif self._partial:
            self._partial = ""
            self._tell("partial", heard_s, heard_s, heard_s)

    def _tell(
        self, kind: StreamEventKind, start_s: float, end_s: float, needed_s: float,
        segment: Segment | None = None, ends: bool = False, notes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        position_s = self.position_s
        lag_s = max(0.0, position_s - needed_s) + self.clock() - self._came_s
        text = segment.text if segment is not None else ""
        self._events.append(
            StreamEvent(kind, text, start_s, end_s, segment, self._n_segments, ends, position_s, lag_s, notes)
        )
