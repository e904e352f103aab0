"""The whole way from audio to English, on one screen: every arrow is a public method."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import audio, groups, longform, vad
from engine.acoustic import AcousticModel
from engine.audio_limits import AudioLimits
from engine.bundle import Bundle, open_bundle
from engine.clock import StageClock
from engine.decoding.bundled import decode_best, load_decoder
from engine.errors import EngineError, ModelCapabilityError
from engine.groups import Recording
from engine.punctuation import Punctuator
from engine.session import CancelToken, available_cores
from engine.signature import bundle_digest, describe, environment
from engine.streaming import Partial, StreamingTranscriber
from engine.translation import Translator
from engine.types import (
    DecodingOptions,
    Hypothesis,
    Progress,
    RuntimeOptions,
    Transcript,
    Translation,
)
from engine.warmup import compile_beside, warm_up_acoustic, warm_up_decoder, warm_up_translator

Waveform = NDArray[np.float32]
AudioSource = Any  # str | os.PathLike | bytes | BinaryIO | NDArray


class SpeechTranslator:
    """A loaded bundle. Safe to share between threads; no call leaves anything behind."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None) -> None:
        """Load the models of a bundle.

        Args:
            bundle: from open_bundle.
            options: device, compute type and threads.
        Raises:
            DeviceError, LanguageModelError, BundleSchemaError.
        """
        self.bundle = bundle
        self.options = options or RuntimeOptions()
        self.limits = AudioLimits()  # of the audio it takes; set others before it is shared
        self.threads = self.options.threads or available_cores()
        with compile_beside(bundle, self.threads):
            self.acoustic = AcousticModel(bundle, self.options)
            warm_up_acoustic(self.acoustic)
        self.decoder = load_decoder(bundle)
        warm_up_decoder(self.decoder)
        self._punctuator = Punctuator(bundle) if bundle.has("punctuation") else None
        self._translator_lock = threading.Lock()
        self.has_language_model = bundle.has("language_model")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is its bundle and options: the process that unpickles it loads the models anew."""
        return type(self), (self.bundle, self.options), {"limits": self.limits}

    @cached_property
    def _translator(self) -> Translator:
        translator = Translator(self.bundle, self.options)
        warm_up_translator(translator)
        return translator

    @property
    def translator(self) -> Translator:
        """The text translator, loaded at its first use.

        Raises:
            ModelCapabilityError: the bundle holds none.
        """
        if not self.bundle.has("mt_encoder"):
            raise ModelCapabilityError(
                f"model {self.bundle.name!r} cannot translate",
                "a bundle with a translator",
                "load a full bundle, or call transcribe()",
            )
        with self._translator_lock:
            return self._translator

    # The stages, one public call each.

    def load_audio(self, source: AudioSource, sample_rate: int | None = None) -> Waveform:
        """Decode a file, bytes or array to float32 [n_samples], mono, at the model's rate."""
        return audio.load_audio(source, sample_rate, limits=self.limits)

    def detect_speech(self, waveform: Waveform) -> list[tuple[float, float]]:
        """Find speech as [(start_s, end_s)], none longer than the encoder's window."""
        return vad.detect_speech(
            waveform, sample_rate=self.acoustic.sample_rate, max_window_s=self.acoustic.max_window_s
        )

    def compute_features(self, waveform: Waveform) -> NDArray[np.float32]:
        """Compute what the encoder is fed; its shape is the model's own."""
        return self.acoustic.compute_features(waveform)

    def compute_log_probs(
        self, features: NDArray[np.float32], cancel: CancelToken | None = None
    ) -> NDArray[np.float32]:
        """Run the encoder: float32 [n_frames, vocab_size], natural log."""
        return self.acoustic.compute_log_probs(features, cancel)

    def decode(self, log_probs: NDArray[np.float32], options: DecodingOptions | None = None) -> Hypothesis:
        """Find the best reading of emissions, by beam search or (beam_width 1) greedily."""
        tuned = self.bundle.manifest.decoding.beam_width
        return decode_best(log_probs, self.decoder, self.acoustic, tuned, options or DecodingOptions())

    def punctuate(self, text: str) -> str:
        """German words as a recogniser writes them, with capitals and marks.

        Raises:
            ModelCapabilityError: the bundle holds no model for it.
        """
        punctuator = self._punctuator or Punctuator(self.bundle)  # which says that there is none
        return " ".join(punctuator.punctuate(text.split()))

    def translate_text(
        self,
        texts: Sequence[str],
        options: DecodingOptions | None = None,
        *,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> list[str]:
        """Translate German texts, each whole, to as many English ones; empty in, empty out."""
        return [text for text, _ in self._translate_scored(texts, options, progress, cancel)]

    # The main jobs.

    def transcribe(
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Transcript:
        """Recognise German speech.

        Args:
            source: path, bytes, binary file, or array [n_samples] or [n_samples, n_channels].
            sample_rate: Hz of an array (16,000 when not given); ignored for files.
            hotwords: words or phrases to favour.
            options: decoding settings; the bundle's own where None.
            progress: called with (done_s, total_s).
            cancel: ends the call from another thread.
        Returns:
            Transcript; empty (no segments) where there is no speech.
        Raises:
            AudioError and its kinds, DecodingError, CancelledError.
        """
        options = (options or DecodingOptions()).with_hotwords(hotwords)
        return self._transcribe(source, sample_rate, options, self.threads, progress, cancel)

    def translate(
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        hotwords: Sequence[str] = (),
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Translation:
        """Recognise German speech and translate it to English; arguments as for transcribe.

        Raises:
            ModelCapabilityError: the bundle holds no translator.
        """
        self.translator  # noqa: B018  - fail before the audio is worked through
        transcript = self.transcribe(
            source, sample_rate, hotwords=hotwords, options=options, progress=progress, cancel=cancel
        )
        return self.translate_transcript(transcript, options, cancel=cancel)

    def translate_transcript(
        self,
        transcript: Transcript,
        options: DecodingOptions | None = None,
        *,
        cancel: CancelToken | None = None,
    ) -> Translation:
        """Translate a transcript segment by segment; each keeps its source's times."""
        return self._translate_together([transcript], options, cancel)[0]

    def transcribe_batch(
        self, sources: Iterable[AudioSource], *, options: DecodingOptions | None = None
    ) -> Iterator[Transcript | EngineError]:
        """Recognise many recordings, in order; a bad one yields its error and harms no other.

        On a GPU several files share its calls, so results come in groups; else one at a time.
        """
        settings = options or DecodingOptions()
        if self.acoustic.batches:
            opened = longform.run_ordered(
                lambda source: self._open(source, None, settings), sources, threads=self.threads
            )
            return groups.run_groups(
                opened,
                lambda recordings: self._transcribe_together(recordings, settings, self.threads),
                lambda recording: recording.duration_s,
                max_s=groups.MAX_ENCODED_S,
            )
        return longform.run_ordered(
            lambda source: self._transcribe(source, None, settings, 1), sources, threads=self.threads
        )

    def translate_batch(
        self, sources: Iterable[AudioSource], *, options: DecodingOptions | None = None
    ) -> Iterator[Translation | EngineError]:
        """Recognise and translate many recordings; errors as in transcribe_batch.

        Their sentences are translated together, which is faster and changes nothing in them; so results
        come in groups of up to four minutes of speech.
        """
        self.translator  # noqa: B018  - fail before the first recording
        return groups.run_groups(
            self.transcribe_batch(sources, options=options),
            lambda transcripts: self._translate_together(transcripts, options),
            lambda transcript: transcript.duration_s,
            max_s=groups.MAX_TRANSLATED_S,
        )

    def stream(
        self,
        chunks: Iterable[NDArray[Any]],
        sample_rate: int | None = None,
        *,
        options: DecodingOptions | None = None,
    ) -> Iterator[Partial]:
        """Recognise speech while it arrives.

        Args:
            chunks: arrays [n_samples] or [n_samples, n_channels].
            sample_rate: their rate in Hz; the model's own when not given.
        Yields:
            Partial: text that will not change any more, and a tentative tail; plain words, without capitals
            and marks, since those depend on what is said next.
        """
        settings = options or DecodingOptions()
        transcriber = StreamingTranscriber(
            lambda window: self._recognise(window, settings, StageClock(), None),
            sample_rate=sample_rate or self.acoustic.sample_rate,
            max_window_s=self.acoustic.max_window_s,
        )
        for chunk in chunks:
            yield transcriber.feed(chunk)
        yield transcriber.finish()

    @property
    def signature(self) -> str:
        """One line that names model, precision, decoder, versions and machine."""
        manifest = self.bundle.manifest
        translation = manifest.translation
        return describe(
            {
                "model": f"{self.bundle.name}@{bundle_digest(self.bundle)}",
                "acoustic": f"{self.acoustic.encoder.compute_type},{self.acoustic.encoder.backend}",
                "beam": manifest.decoding.beam_width,
                "lm": "yes" if self.has_language_model else "no",
                "mt": f"{translation.precision},beam{translation.beam_size}" if translation else "no",
                "device": self.acoustic.device,
                "threads": self.threads,
                **environment(),
            }
        )

    def _transcribe(
        self,
        source: AudioSource,
        sample_rate: int | None,
        options: DecodingOptions,
        threads: int,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Transcript:
        recording = self._open(source, sample_rate, options)
        waveform, regions, clock = recording.waveform, recording.regions, recording.clock
        if self.acoustic.batches and len(regions) > 1:
            return self._transcribe_together([recording], options, threads, progress, cancel)[0]
        wide = threads > 1 and len(regions) == 1
        segments = longform.transcribe_regions(
            waveform,
            regions,
            lambda window: self._recognise(window, options, clock, cancel, wide),
            sample_rate=self.acoustic.sample_rate,
            threads=threads,
            finish=clock.timed("punctuate", self._finish(options)),
            progress=progress,
            cancel=cancel,
        )
        return Transcript(segments, recording.duration_s, stages_s=clock.seconds())

    def _open(self, source: AudioSource, sample_rate: int | None, options: DecodingOptions) -> Recording:
        clock = StageClock()
        with clock.time("audio"):
            waveform = self.load_audio(source, sample_rate)
            self.acoustic.check_length(waveform)
            regions = self._regions(waveform, options)
        return Recording(waveform, regions, len(waveform) / self.acoustic.sample_rate, clock)

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
        cancel: CancelToken | None = None,
    ) -> list[Translation]:
        return groups.translate_together(
            transcripts, lambda texts: self._translate_scored(texts, options, None, cancel)
        )

    def _finish(self, options: DecodingOptions) -> longform.Finish:
        """What makes of recognised words those that are read."""
        return self._punctuator.punctuate_words if options.punctuation and self._punctuator else list

    def _regions(self, waveform: Waveform, options: DecodingOptions) -> list[tuple[float, float]]:
        if options.vad_filter:
            return self.detect_speech(waveform)
        return longform.fixed_windows(
            len(waveform) / self.acoustic.sample_rate, max_window_s=self.acoustic.max_window_s
        )

    def _recognise(
        self,
        window: Waveform,
        options: DecodingOptions,
        clock: StageClock,
        cancel: CancelToken | None,
        wide: bool = False,
    ) -> Hypothesis:
        with clock.time("features"):
            features = self.compute_features(window)
        with clock.time("encoder"):
            log_probs = self.acoustic.compute_log_probs(features, cancel, wide=wide)
        with clock.time("decode"):
            return self.decode(log_probs, options)

    def _translate_scored(
        self,
        texts: Sequence[str],
        options: DecodingOptions | None,
        progress: Progress | None,
        cancel: CancelToken | None,
    ) -> list[tuple[str, float]]:
        options = options or DecodingOptions()
        results = self.translator.translate_paragraphs(
            texts,
            beam_size=options.translation_beam_size,
            length_penalty=options.length_penalty,
            progress=progress,
            cancel=cancel,
        )
        return [(result.text, result.confidence) for result in results]


def load(
    model: str | None = None,
    *,
    device: Any = "auto",
    compute_type: Any = "auto",
    threads: int = 0,
    backend: Any = "auto",
) -> SpeechTranslator:
    """Load a model.

    Args:
        model: a bundle's folder, an .onnx file with vocab.json beside it, or None for the
            embedded default.
        device: "auto", "cpu" or "cuda".
        compute_type: "auto", "int8", "bf16", "fp16" or "fp32"; refused where the bundle holds another,
            but for "bf16", in which our own kernels compute any graph that export/ wrote.
        threads: 0 takes the cores that this process may use.
        backend: "auto", "kernels" or "onnxruntime".
    Raises:
        BundleError and its kinds, DeviceError, DependencyError, OptionError.
    """
    return SpeechTranslator(open_bundle(model), RuntimeOptions(device, compute_type, threads, backend))
