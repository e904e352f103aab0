"""Streams over a loaded bundle: the calls that open them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from numpy.typing import NDArray

from engine.audio.limits import Waveform
from engine.errors import OptionError
from engine.jobs.endpoints import EndpointOptions
from engine.jobs.finals import FinalWriter
from engine.jobs.streaming import Partial, StreamingTranscriber
from engine.jobs.streams import SpeechStream, StreamStages, Translate, Write
from engine.runtime.cancel import CancelToken
from engine.runtime.clock import StageClock
from engine.types import AudioOptions, DecodingOptions, Hypothesis, Progress

if TYPE_CHECKING:
    from engine.stages import Stages
else:
    Stages = object  # SpeechTranslator is both; stages import this folder's warm-up

Task = Literal["transcribe", "translate"]


class LiveStages(Stages):
    """The part of SpeechTranslator that recognises speech while it arrives."""

    def open_stream(
        self,
        sample_rate: int | None = None,
        *,
        task: Task = "transcribe",
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        endpoint: EndpointOptions | None = None,
        cancel: CancelToken | None = None,
    ) -> SpeechStream:
        """Open a stream of speech that is recognised while it arrives; as many at a time as are wanted.

        Partials come from the first pass, finals from the second where there is one, with capitals,
        punctuation and numbers as the options say. Streams and files share the model's threads; streams go
        first.

        Args:
            sample_rate: of the chunks in Hz; 16,000 when not given.
            task: "translate" adds the English of each final.
            hotwords, options: as for transcribe; vad_filter plays no part.
            endpoint: when text becomes final; the defaults where None.
            cancel: ends the stream from another thread, within a call too.
        Returns:
            SpeechStream: feed() it, and finish() it.
        Raises:
            AudioLimitError: an impossible sample rate. OptionError: an option that cannot be used.
            ModelCapabilityError: the bundle lacks a second pass or a translator that is asked for.
        """
        settings = self._stream_settings(options, hotwords)
        endpoint = endpoint or EndpointOptions()
        token = cancel if cancel is not None else CancelToken()
        translate = self._stream_translate(settings, task, token)
        passes = self.choose_passes(settings)
        if passes == 2:
            self.second_pass  # noqa: B018  - loaded before any audio comes, not while a speaker waits
        writer = FinalWriter(settings, passes, self._punctuator)
        longest_s = min(endpoint.max_window_s, self.acoustic.max_window_s)
        return SpeechStream(
            replace(self._stream_stages(settings, token, writer.write, translate), mark=writer.mark),
            sample_rate or self.acoustic.sample_rate,
            replace(endpoint, max_window_s=longest_s),
            token,
        )

    def _stream_settings(self, options: DecodingOptions | None, hotwords: Sequence[str]) -> DecodingOptions:
        settings, _ = self._settings(options, hotwords)
        if settings.audio != AudioOptions() or settings.vad != "energy":
            raise OptionError(
                "channels, audio_track or vad for a stream", "none of them", "pass chunks of one channel"
            )
        return settings

    def _stream_translate(self, options: DecodingOptions, task: str, cancel: CancelToken) -> Translate | None:
        if task not in get_args(Task):
            raise OptionError(f"task {task!r}", "transcribe or translate", "name one of these")
        if task == "transcribe":
            return None
        self.translator  # noqa: B018  - fail, and load, before any audio comes
        return lambda texts: self._translate_scored(texts, options, None, cancel, "final")

    def stream(
        self,
        chunks: Iterable[NDArray[Any]],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Partial]:
        """Recognise speech while it arrives; goes with the next release, use open_stream.

        Args:
            chunks: arrays [n_samples] or [n_samples, n_channels].
            sample_rate: their rate in Hz; 16,000 when not given.
            hotwords, options: as for transcribe.
            progress: called with (done_s, total_s), seconds of audio; total_s is infinite until the end.
            cancel: ends the stream from another thread, at the next chunk or within the running one.
        Yields:
            Partial: text that will not change any more, and a tentative tail. The tail comes from the first
            pass; text that is final from the second, where there is one. With one pass it is plain words,
            without capitals and punctuation, since those depend on what is said next.
        Raises:
            AudioLimitError: an impossible sample rate; OptionError, ModelCapabilityError: at the call.
            AudioShapeError, AudioValueError: a bad chunk. CancelledError: cancel was set.
        """
        warnings.warn(
            "stream() goes in the next release: use open_stream()", DeprecationWarning, stacklevel=2
        )
        settings = self._stream_settings(options, hotwords)
        strip = self._finish(settings) if self.choose_passes(settings) == 2 else list
        stages = self._stream_stages(settings, cancel, lambda words, paused: strip(list(words)))

        def final(window: Waveform) -> Hypothesis:
            found = stages.final(window)
            return replace(found, words=tuple(stages.write(found.words, True)))

        transcriber = StreamingTranscriber(
            final,
            guess=stages.guess,
            sample_rate=sample_rate or self.acoustic.sample_rate,
            max_window_s=self.acoustic.max_window_s,
        )
        return transcriber.run(chunks, progress, cancel)

    def _stream_stages(
        self,
        options: DecodingOptions,
        cancel: CancelToken | None,
        write: Write,
        translate: Translate | None = None,
    ) -> StreamStages:
        fast, clock = options.replace(passes=1), StageClock()
        return StreamStages(
            lambda window: self._recognise(window, options, clock, cancel, urgency="final"),
            lambda window: self._recognise(window, fast, clock, cancel, urgency="partial"),
            write,
            translate,
        )
