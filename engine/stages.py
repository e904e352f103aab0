"""A loaded bundle and its stages, one public call each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.model import AcousticModel
from engine.audio import load as audio
from engine.audio import vad
from engine.audio.limits import AudioLimits, Waveform
from engine.audio.load import AudioSource
from engine.bundle.folder import Bundle
from engine.bundle.signature import bundle_digest, describe, environment
from engine.decoding.bundled import decode_best, load_decoder
from engine.decoding.phrases import describe_unspelled, find_unspelled
from engine.errors import HotwordWarning, ModelCapabilityError, TranslationWarning
from engine.jobs.longform import Finish
from engine.jobs.warmup import (
    compile_beside,
    warm_up_acoustic,
    warm_up_decoder,
    warm_up_second_pass,
    warm_up_translator,
)
from engine.output.capitals import capitalise_first
from engine.output.numbers import write_digits
from engine.output.punctuation import Punctuator
from engine.runtime.cancel import CancelToken
from engine.runtime.clock import StageClock
from engine.runtime.cores import available_cores
from engine.runtime.notices import warn_caller
from engine.runtime.scheduler import CoreScheduler, Urgency
from engine.text import strip_words
from engine.translation.translator import Translator
from engine.types import (
    DecodingOptions,
    Hypothesis,
    Passes,
    Progress,
    RuntimeOptions,
    TranslationHypothesis,
)

if TYPE_CHECKING:
    from engine.acoustic.silero import SileroDetector
    from engine.two_pass.second_pass import SecondPass


class Stages:
    """A loaded bundle. Safe to share between threads; no call leaves anything behind."""

    def __init__(self, bundle: Bundle, options: RuntimeOptions | None = None, decoder: Any = None) -> None:
        """Load the models of a bundle.

        Args:
            bundle: from open_bundle.
            options: device, compute type and threads.
            decoder: the caller's own, as for engine.load.
        Raises:
            DeviceError, LanguageModelError, BundleSchemaError. OptionError, DecodingError: the decoder.
        """
        self.bundle = bundle
        self.options = options or RuntimeOptions()
        self.limits = AudioLimits()  # of the audio it takes; set others before it is shared
        self.threads = self.options.threads or available_cores()
        self.scheduler = CoreScheduler(self.threads)  # shared by every file and stream
        with compile_beside(bundle, self.threads):
            self.acoustic = AcousticModel(bundle, self.options)
            warm_up_acoustic(self.acoustic)
        self._own_decoder = decoder
        self.decoder = load_decoder(bundle, decoder)
        warm_up_decoder(self.decoder)
        self._punctuator = Punctuator(bundle) if bundle.has("punctuation") else None
        self._translator_lock = threading.Lock()
        self._second_pass_lock = threading.Lock()
        self._detectors_lock = threading.Lock()
        self._detectors: dict[str, SileroDetector] = {}
        self.has_language_model = bundle.has("language_model")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is its bundle and options: the process that unpickles it loads the models anew."""
        return type(self), (self.bundle, self.options, self._own_decoder), {"limits": self.limits}

    @cached_property
    def _translator(self) -> Translator:
        translator = Translator(self.bundle, self.options, self.scheduler)
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

    @property
    def has_second_pass(self) -> bool:
        """Whether the bundle holds an attention decoder, and its own first pass, which that needs."""
        return self.bundle.manifest.second_pass is not None and self._own_decoder is None

    @cached_property
    def _second_pass(self) -> SecondPass:
        from engine.two_pass.second_pass import SecondPass

        second_pass = SecondPass(self.bundle, self.decoder, self.acoustic, self.options)
        warm_up_second_pass(second_pass, self.acoustic)
        return second_pass

    @property
    def second_pass(self) -> SecondPass:
        """The attention decoder joined with CTC and language model, loaded at its first use.

        Raises:
            ModelCapabilityError: the bundle holds none.
        """
        if not self.has_second_pass:
            raise ModelCapabilityError(
                f"model {self.bundle.name!r} has no second pass",
                "a bundle with an attention decoder",
                "load one, or leave passes out (or give 1)",
            )
        with self._second_pass_lock:
            return self._second_pass

    def choose_passes(self, options: DecodingOptions) -> Passes:
        """The number of passes that options ask for, or the most that the bundle has.

        Raises:
            ModelCapabilityError: two are asked for and the bundle has one.
        """
        if options.passes == 2:
            self.second_pass  # noqa: B018  - fail before the audio is worked through
        return options.passes or (2 if self.has_second_pass else 1)

    # The stages, one public call each.

    def load_audio(
        self, source: AudioSource, sample_rate: int | None = None, cancel: CancelToken | None = None
    ) -> Waveform:
        """Decode a file, bytes or array to float32 [n_samples], mono, 16 kHz, nominally [-1, 1].

        Args:
            source, sample_rate: as for transcribe.
            cancel: ends decoding from another thread.
        Raises:
            AudioError and its kinds: audio that cannot be used, or beyond the object's limits.
            CancelledError: cancel was set.
        """
        found = audio.read_audio(source, sample_rate, limits=self.limits, cancel=cancel)
        found.warn()
        return found.waveforms[0]

    def detect_speech(
        self, waveform: Waveform, detector: str = "energy", cancel: CancelToken | None = None
    ) -> list[tuple[float, float]]:
        """Find speech in float32 [n_samples] as [(start_s, end_s)], none longer than the encoder's window.

        Args:
            detector: "energy", "silero" or the path of Silero's ONNX file.
            cancel: ends the call from another thread.
        Raises:
            DependencyError: Silero's file is not installed. OptionError: a path that holds no such file.
            CancelledError: cancel was set.
        """
        window_s = self.acoustic.max_window_s
        if detector != "energy":
            return self._silero(detector).detect_speech(waveform, max_window_s=window_s, cancel=cancel)
        return vad.detect_speech(
            waveform, sample_rate=self.acoustic.sample_rate, max_window_s=window_s, cancel=cancel
        )

    def _silero(self, wanted: str) -> SileroDetector:
        from engine.acoustic.silero import SileroDetector, find_model

        with self._detectors_lock:
            if wanted not in self._detectors:
                self._detectors[wanted] = SileroDetector(find_model(wanted))
            return self._detectors[wanted]

    def compute_features(self, waveform: Waveform) -> NDArray[np.float32]:
        """Compute what the encoder is fed; its shape is the model's own."""
        return self.acoustic.compute_features(waveform)

    def compute_log_probs(
        self, features: NDArray[np.float32], cancel: CancelToken | None = None
    ) -> NDArray[np.float32]:
        """Run the encoder: float32 [n_frames, vocab_size], natural log."""
        return self.acoustic.compute_log_probs(features, cancel)

    def compute_states(
        self, features: NDArray[np.float32], cancel: CancelToken | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the encoder once for both passes: log_probs as above, and states [n_frames + tail, hidden]."""
        return self.acoustic.compute_states(features, cancel)

    def decode(self, log_probs: NDArray[np.float32], options: DecodingOptions | None = None) -> Hypothesis:
        """Find the best hypothesis for emissions, by beam search or (beam_width 1) greedily.

        Args:
            log_probs: float32 [n_frames, vocab_size], natural log, from compute_log_probs.
        Raises:
            DecodingError: emissions or hotwords that cannot be used.
        """
        tuned = self.bundle.manifest.decoding.beam_width
        return decode_best(log_probs, self.decoder, self.acoustic, tuned, options or DecodingOptions())

    def decode_joint(
        self,
        log_probs: NDArray[np.float32],
        states: NDArray[np.float32],
        options: DecodingOptions | None = None,
        *,
        n_best: int = 1,
        cancel: CancelToken | None = None,
    ) -> list[Hypothesis]:
        """The second pass: hypotheses with capitals and punctuation, best first, at least one.

        Raises:
            ModelCapabilityError: the bundle holds no attention decoder. CancelledError.
        """
        settings = options or DecodingOptions()
        return self.second_pass.decode(log_probs, states, settings, n_best=n_best, cancel=cancel)

    def punctuate(self, text: str) -> str:
        """German words as a recogniser writes them, with capitals and punctuation.

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
        """Translate German texts, each whole, to as many English ones; empty in, empty out.

        Args:
            options: translation_beam_size and length_penalty count.
            progress: called with (done, total) sentences.
            cancel: ends the call from another thread.
        Raises:
            ModelCapabilityError: the bundle holds no translator.
            TranslationError: a text that is no str. OptionError, CancelledError.
        Warns:
            TranslationWarning: a number of a text is missing in its translation.
        """
        found = self._translate_scored(texts, options, progress, cancel)
        for note in (note for each in found for note in each.warnings):
            warn_caller(TranslationWarning(note))
        return [each.text for each in found]

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
                "passes": "two" if self.has_second_pass else "one",
                "lm": "yes" if self.has_language_model else "no",
                "mt": f"{translation.precision},beam{translation.beam_size}" if translation else "no",
                "device": self.acoustic.device,
                "threads": self.threads,
                **environment(),
            }
        )

    def _translate_scored(
        self,
        texts: Sequence[str],
        options: DecodingOptions | None,
        progress: Progress | None,
        cancel: CancelToken | None,
        urgency: Urgency = "file",
    ) -> list[TranslationHypothesis]:
        options = options or DecodingOptions()
        return self.translator.translate_paragraphs(
            texts,
            beam_size=options.translation_beam_size,
            length_penalty=options.length_penalty,
            progress=progress,
            cancel=cancel,
            urgency=urgency,
        )

    def _recognise(
        self,
        window: Waveform,
        options: DecodingOptions,
        clock: StageClock,
        cancel: CancelToken | None,
        wide: bool = False,
        urgency: Urgency = "file",
    ) -> Hypothesis:
        passes = self.choose_passes(options)
        with self.scheduler.turn(urgency, cancel, self.threads if wide else 1) as turn:
            wide = wide and turn.cores == self.threads
            with clock.time("features"):
                features = self.compute_features(window)
            if passes == 1:
                with clock.time("encoder"):
                    log_probs = self.acoustic.compute_log_probs(features, turn, wide=wide)
                turn.narrow()
                with clock.time("decode"):
                    return self.decode(log_probs, options)
            with clock.time("encoder"):
                log_probs, states = self.acoustic.compute_states(features, turn, wide=wide)
            turn.narrow()
            with clock.time("second_pass"):
                return self.decode_joint(log_probs, states, options, cancel=turn)[0]

    def _finish(self, options: DecodingOptions) -> Finish:
        """What makes of recognised words those that are read."""
        written = self._write(options)
        return written if options.numbers == "words" else lambda words: write_digits(written(words))

    def _write(self, options: DecodingOptions) -> Finish:
        """Capitals and punctuation: the second pass has them, to the first they are added."""
        if self.choose_passes(options) == 2:
            return capitalise_first if options.punctuation else strip_words
        return self._punctuator.punctuate_words if options.punctuation and self._punctuator else list

    def _settings(
        self, options: DecodingOptions | None, hotwords: Sequence[str]
    ) -> tuple[DecodingOptions, tuple[str, ...]]:
        """The settings without hotwords that cannot be spelled, and a note on these; warns of them too."""
        settings = (options or DecodingOptions()).with_hotwords(hotwords)
        if settings.vad != "energy":
            self._silero(settings.vad)  # fail before the audio is worked through
        unspelled = find_unspelled(self.decoder.labels, settings.hotwords)
        if not unspelled:
            return settings, ()
        note = describe_unspelled(unspelled)
        warn_caller(HotwordWarning(note), depth=1)
        kept = [word for word in settings.hotwords if word not in unspelled]
        return settings.replace(hotwords=kept), (note,)
