"""The whole way from audio to English: the jobs, made of the stages in engine.stages."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any, Literal, TypeVar

from engine.audio import vad
from engine.audio.limits import Waveform
from engine.audio.load import AudioSource, read_audio
from engine.bundle.folder import open_bundle
from engine.errors import EngineError, TranslationWarning
from engine.jobs import channels, groups, longform
from engine.jobs.groups import Recording
from engine.jobs.live import LiveStages
from engine.jobs.partials import PartialTranslations, PartialWords, join_words
from engine.jobs.translating import translate_together
from engine.runtime.cancel import CancelToken
from engine.runtime.clock import StageClock
from engine.runtime.notices import warn_caller
from engine.runtime.scheduler import urgency_of
from engine.stages import Stages
from engine.types import (
    Backend,
    ComputeType,
    DecodingOptions,
    Device,
    Progress,
    RuntimeOptions,
    Transcript,
    Translation,
    Word,
)

Result = TypeVar("Result")
Task = Literal["transcribe", "translate"]
JOINED_S, JOINED_PAUSE_S = 20.0, 1.5  # stretches of speech that the second pass hears as one


class SpeechTranslator(LiveStages, Stages):
    """A loaded bundle. Safe to share between threads; no call leaves anything behind."""

    def transcribe(
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        partial: Callable[[str], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Transcript:
        """Recognise German speech.

        Args:
            source: path, bytes, binary file, or array [n_samples] or [n_samples, n_channels].
            sample_rate: Hz of an array (16,000 when not given); ignored for files.
            hotwords: words or phrases to favour, as people write them, in addition to those of the options.
            options: decoding settings; the bundle's own where None.
            progress: called with (done_s, total_s), seconds of audio.
            partial: called with the text so far. Its last words may still change; on a GPU it is not called.
            cancel: ends the call from another thread.
        Returns:
            Transcript; empty (no segments) where there is no speech. Its warnings say what is not as it
            should be; they are also given as AudioWarning and HotwordWarning.
        Raises:
            AudioError and its kinds: audio that cannot be used.
            OptionError, DecodingError: an option or weight that cannot be used.
            ModelCapabilityError: two passes asked of a bundle with one. CancelledError: cancel was set.
        """
        settings, notes = self._settings(options, hotwords)
        told = (lambda words: partial(join_words(words))) if partial else None
        found = self._transcribe(source, sample_rate, settings, self.threads, progress, cancel, told)
        return _noted(found, notes)

    def translate(
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        partial: Callable[[Translation], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Translation:
        """Recognise German speech and translate it to English; arguments as for transcribe.

        Args:
            partial: called with the translation so far. Its last segments may still change; on a GPU, and
                with several channels, it is not called.
        Returns:
            Translation; its `source` is the transcript. progress counts the recognition only.
        Raises:
            ModelCapabilityError: the bundle holds no translator. Whatever transcribe raises.
        """
        self.translator  # noqa: B018  - fail before the audio is worked through
        settings, notes = self._settings(options, hotwords)
        told = PartialTranslations(
            lambda texts: self._translate_scored(texts, settings, None, cancel), partial or _ignore
        )
        found = self._transcribe(
            source, sample_rate, settings, self.threads, progress, cancel, told if partial else None
        )
        translation = told.translate(_noted(found, notes))
        _warn([translation], depth=1)
        return translation

    def translate_transcript(
        self,
        transcript: Transcript,
        options: DecodingOptions | None = None,
        *,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Translation:
        """Translate a transcript: for each segment one of English with its times.

        A sentence that goes on in the next segment is translated whole, and its English shared out.

        Args:
            progress: called with (done, total) sentences.
            cancel: ends the call from another thread.
        Raises:
            ModelCapabilityError: the bundle holds no translator. OptionError, CancelledError.
        """
        return self._translate_together([transcript], options, progress, cancel)[0]

    def transcribe_batch(
        self,
        sources: Iterable[AudioSource],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Transcript | EngineError]:
        """Recognise many recordings, in order; a bad one yields its error and harms no other.

        On a GPU several files share its calls, so results come in groups; else one at a time.

        Args:
            sources: recordings as for transcribe, taken a few ahead of the results.
            sample_rate: Hz of the arrays among them (16,000 when not given).
            hotwords, options: for all of them.
            progress: called with (done, total) recordings; total is infinite for an iterator, which
                does not tell its length.
            cancel: ends the whole batch from another thread.
        Yields:
            A transcript or the error of each recording.
        Raises:
            CancelledError: cancel was set. OptionError, ModelCapabilityError: at the call, before any work.
        """
        settings, notes = self._settings(options, hotwords)
        results = self._transcribe_all(sources, sample_rate, settings, notes, cancel)
        return _counted(results, sources, progress)

    def translate_batch(
        self,
        sources: Iterable[AudioSource],
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Translation | EngineError]:
        """Recognise and translate many recordings; arguments and errors as in transcribe_batch.

        Their sentences are translated together, which is faster and changes nothing in them; so results
        come in groups of up to four minutes of speech.

        Yields:
            A translation or the error of each recording.
        Raises:
            ModelCapabilityError: the bundle holds no translator. Whatever transcribe_batch raises.
        """
        self.translator  # noqa: B018  - fail before the first recording
        settings, notes = self._settings(options, hotwords)
        results = groups.run_groups(
            self._transcribe_all(sources, sample_rate, settings, notes, cancel),
            lambda transcripts: self._translate_together(transcripts, settings, None, cancel),
            lambda transcript: transcript.duration_s,
            max_s=groups.MAX_TRANSLATED_S,
        )
        return _counted(results, sources, progress)

    def _transcribe_all(
        self, sources: Iterable[AudioSource], sample_rate: int | None, options: DecodingOptions,
        notes: tuple[str, ...], cancel: CancelToken | None,
    ) -> Iterator[Transcript | EngineError]:  # fmt: skip
        grouped = self.acoustic.batches and options.channels == "mix"
        if self.choose_passes(options) == 1 and grouped:
            opened = longform.run_ordered(
                lambda source: self._open(source, sample_rate, options)[0],
                sources, threads=self.threads, cancel=cancel,
            )  # fmt: skip
            results = groups.run_groups(
                opened,
                lambda recordings: self._transcribe_together(recordings, options, self.threads, None, cancel),
                lambda recording: recording.duration_s,
                max_s=groups.MAX_ENCODED_S,
            )
        else:
            results = longform.run_ordered(
                lambda source: self._transcribe(source, sample_rate, options, 1, None, cancel),
                sources, threads=self.threads, cancel=cancel,
            )  # fmt: skip
        return (each if isinstance(each, EngineError) else _noted(each, notes) for each in results)

    def _transcribe(
        self, source: AudioSource, sample_rate: int | None, options: DecodingOptions, threads: int,
        progress: Progress | None = None, cancel: CancelToken | None = None,
        partial: Callable[[list[Word]], None] | None = None,
    ) -> Transcript:  # fmt: skip
        recordings = self._open(source, sample_rate, options, cancel)
        told = partial if len(recordings) == 1 else None  # texts of several speakers would be mixed
        return channels.transcribe_channels(
            recordings,
            lambda recording, part: self._transcribe_one(recording, options, threads, part, cancel, told),
            progress,
        )

    def _transcribe_one(
        self, recording: Recording, options: DecodingOptions, threads: int,
        progress: Progress | None = None, cancel: CancelToken | None = None,
        partial: Callable[[list[Word]], None] | None = None,
    ) -> Transcript:  # fmt: skip
        waveform, regions, clock = recording.waveform, recording.regions, recording.clock
        if self.acoustic.batches and len(regions) > 1 and self.choose_passes(options) == 1:
            return self._transcribe_together([recording], options, threads, progress, cancel)[0]
        wide, urgency = threads > 1 and len(regions) == 1, urgency_of(recording.duration_s)
        finish = self._finish(options)
        segments = longform.transcribe_regions(
            waveform,
            regions,
            lambda window: self._recognise(window, options, clock, cancel, wide, urgency),
            sample_rate=self.acoustic.sample_rate,
            threads=threads,
            finish=clock.timed("punctuate", finish),
            progress=progress,
            partial=PartialWords(finish, partial) if partial else None,
            cancel=cancel,
        )
        return Transcript(segments, recording.duration_s, "de", clock.seconds(), recording.notes)

    def _open(
        self, source: AudioSource, sample_rate: int | None, options: DecodingOptions,
        cancel: CancelToken | None = None,
    ) -> list[Recording]:  # fmt: skip
        """The recording, or one for each channel."""
        clock, separate = StageClock(), options.channels == "separate"
        with clock.time("audio"):
            found = read_audio(
                source, sample_rate, limits=self.limits, cancel=cancel,
                channels=options.channels, track=options.audio_track,
            )  # fmt: skip
            found = found.without_copies() if separate else found
        found.warn()
        return channels.open_recordings(
            found, lambda each: self._regions(each, options, cancel), clock, separate
        )

    def _transcribe_together(
        self, recordings: Sequence[Recording], options: DecodingOptions, threads: int,
        progress: Progress | None = None, cancel: CancelToken | None = None,
    ) -> list[Transcript]:  # fmt: skip
        return groups.transcribe_together(
            recordings, self.acoustic, lambda log_probs: self.decode(log_probs, options),
            self._finish(options), threads, progress, cancel,
        )  # fmt: skip

    def _translate_together(
        self,
        transcripts: Sequence[Transcript],
        options: DecodingOptions | None,
        progress: Progress | None,
        cancel: CancelToken | None,
    ) -> list[Translation]:
        urgency = urgency_of(max((each.duration_s for each in transcripts), default=0.0))
        found = translate_together(
            transcripts, lambda texts: self._translate_scored(texts, options, progress, cancel, urgency)
        )
        _warn(found, depth=2)
        return found

    def _regions(
        self, waveform: Waveform, options: DecodingOptions, cancel: CancelToken | None
    ) -> list[tuple[float, float]]:
        self.acoustic.check_length(waveform)
        if options.vad_filter:
            found = self.detect_speech(waveform, options.vad, cancel)
            two = self.choose_passes(options) == 2
            return vad.join_regions(found, JOINED_S, JOINED_PAUSE_S) if two else found
        return longform.fixed_windows(
            len(waveform) / self.acoustic.sample_rate, max_window_s=self.acoustic.max_window_s
        )


def _ignore(_: Translation) -> None:
    """Nobody wants to know."""


def _warn(translations: Iterable[Translation], depth: int) -> None:
    for note in (note for translation in translations for note in translation.notes):
        warn_caller(TranslationWarning(note), depth=depth)


def _noted(transcript: Transcript, notes: tuple[str, ...]) -> Transcript:
    return replace(transcript, warnings=(*notes, *transcript.warnings)) if notes else transcript


def _counted(results: Iterator[Result], items: Iterable[Any], progress: Progress | None) -> Iterator[Result]:
    """The same results, each reported as it is handed on."""
    total = float(len(items)) if isinstance(items, Sized) else math.inf
    for done, result in enumerate(results, 1):
        if progress is not None:
            progress(done, total)
        yield result


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: Device = "auto",
    compute_type: ComputeType = "auto",
    threads: int = 0,
    backend: Backend = "auto",
    decoder: Any = None,
) -> SpeechTranslator:
    """Load a model.

    Args:
        model: a bundle's folder, an .onnx file with vocab.json beside it, the name of an embedded bundle,
            or None for the embedded default.
        device: "auto", "cpu" or "cuda".
        compute_type: "auto", "int8", "bf16", "fp16" or "fp32"; refused where the bundle holds another,
            but for "bf16", in which our own kernels compute any graph that export/ wrote.
        threads: 0 takes the cores that this process may use.
        backend: "auto", "kernels" or "onnxruntime".
        decoder: your own for the emissions, instead of the bundle's: a CtcBeamDecoder or OwnModelDecoder of
            engine.decoding, or an object with pyctcdecode's decode_beams. There is one pass then.
    Raises:
        BundleError and its kinds: no usable bundle. DeviceError: a device or compute type that is not
            available here. DependencyError: a package is missing. OptionError: an unknown value.
            DecodingError: a decoder of another vocabulary.
    """
    options = RuntimeOptions(device, compute_type, threads, backend)  # refused before any file is read
    return SpeechTranslator(open_bundle(model), options, decoder)
