"""Streams as in earlier releases: a text that only grows, and a tentative tail after each chunk.

It works for one more release, on top of engine.jobs.streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from engine.audio.limits import SAMPLE_RATE
from engine.errors import OptionError
from engine.jobs.endpoints import EndpointOptions
from engine.jobs.longform import Recognise
from engine.jobs.streams import SpeechStream, StreamStages
from engine.runtime.cancel import CancelToken
from engine.types import Progress, Segment, StreamEvent

MAX_OPEN_S: Final = 15.0  # the longest window of this interface


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known after a chunk.

    Attributes:
        stable_text: everything final since the start; it only ever grows.
        tentative_text: a guess at what was said since; may change or vanish.
        segments: the final segments, with times from the start of the stream.
    """

    stable_text: str
    tentative_text: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """Final and tentative text together."""
        return " ".join(part for part in (self.stable_text, self.tentative_text) if part)


class StreamingTranscriber:
    """Turns chunks of audio into partial results; one object a stream, fed from one thread."""

    def __init__(
        self,
        recognise: Recognise,
        sample_rate: int = SAMPLE_RATE,
        *,
        guess: Recognise | None = None,
        max_window_s: float = MAX_OPEN_S,
        pause_s: float = 0.7,
        pad_s: float = 0.3,
        partial_interval_s: float = 0.5,
    ) -> None:
        """Start a stream.

        Args:
            recognise: float32 [n_samples], mono, 16 kHz -> Hypothesis with times relative to it.
            guess: the same for tentative text, where something faster will do.
            sample_rate: Hz of the chunks.
            max_window_s: longest stretch decoded at once; no more than MAX_OPEN_S is used.
            pause_s, pad_s, partial_interval_s: as in EndpointOptions.
        Raises:
            AudioLimitError: an impossible sample rate. OptionError: as EndpointOptions.
        """
        endpoint = EndpointOptions(
            pause_s, min(max_window_s, MAX_OPEN_S), pad_s, partial_interval_s=partial_interval_s
        )
        stages = StreamStages(recognise, guess or recognise, lambda words, paused: list(words))
        self._stream = SpeechStream(stages, sample_rate, endpoint)
        self._partial = Partial("", "", ())

    def feed(self, chunk: NDArray[Any]) -> Partial:
        """Take the next audio.

        Args:
            chunk: as for SpeechStream.feed.
        Returns:
            Partial, with a fresh tentative text at most every partial_interval_s.
        Raises:
            AudioShapeError, AudioValueError: a bad chunk; the stream goes on without it.
            OptionError: the stream is finished.
        """
        if self._stream.finished:
            raise OptionError("audio after finish()", "an open stream", "start another StreamingTranscriber")
        return self._add(self._stream.feed(chunk))

    def finish(self) -> Partial:
        """Make everything final: no tentative text is left."""
        return self._add(self._stream.finish())

    def run(
        self,
        chunks: Iterable[NDArray[Any]],
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Partial]:
        """Feed chunks as they are taken, and finish after the last.

        Args:
            chunks: as for feed.
            progress: called with (done_s, total_s), seconds of audio; total_s is infinite until the end.
            cancel: ends the stream from another thread, before the next chunk.
        Yields:
            A Partial a chunk, and the last one, in which everything is final.
        Raises:
            CancelledError: cancel was set. Whatever feed raises.
        """
        for chunk in chunks:
            if cancel is not None:
                cancel.raise_if_cancelled()
            partial = self.feed(chunk)
            if progress is not None:
                progress(self._stream.position_s, math.inf)
            yield partial
        partial = self.finish()
        if progress is not None:
            progress(self._stream.position_s, self._stream.position_s)
        yield partial

    def _add(self, events: list[StreamEvent]) -> Partial:
        text, tentative, segments = self._partial.stable_text, self._partial.tentative_text, []
        for event in events:
            if event.kind == "partial":
                tentative = event.text
            elif event.kind == "final" and event.segment is not None:
                text, tentative = f"{text} {event.text}".strip(), ""
                segments.append(event.segment)
        self._partial = Partial(text, tentative, (*self._partial.segments, *segments))
        return self._partial
