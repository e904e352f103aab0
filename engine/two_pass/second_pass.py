"""The second pass of a bundle: emissions and states to text with capitals, marks and times."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.acoustic.model import AcousticModel
from engine.bundle.folder import Bundle
from engine.bundle.schema import SecondPassConfig
from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.labels import check_emissions
from engine.errors import ModelCapabilityError
from engine.kernels.ctc.pack import Prepared
from engine.kernels.joint.state import Spelling
from engine.runtime.cancel import CancelToken
from engine.two_pass.alignment import align_words
from engine.two_pass.confidence import read_calibration
from engine.two_pass.runners import open_decoder
from engine.two_pass.search import NO_SPEECH, Found, JointSearch, JointSettings, TokenHypothesis
from engine.two_pass.spelling import TokenSpelling
from engine.two_pass.tokens import read_tokens
from engine.two_pass.words import read_words
from engine.types import DecodingOptions, Hypothesis, RuntimeOptions, Word

EMPTY = Hypothesis("", (), 0.0, 0.0, 0.0)
MAX_CACHED = 8
MARKS = ".,;:!?-–…/ "


class SecondPass:
    """Joint search with a bundle's attention decoder. Safe to share between threads."""

    def __init__(
        self, bundle: Bundle, decoder: CtcBeamDecoder, acoustic: AcousticModel, options: RuntimeOptions
    ) -> None:
        """Load it.

        Args:
            decoder: of the first pass, whose language model, lexicon and hotwords are used.
        Raises:
            ModelCapabilityError: the bundle has no attention decoder. BundleSchemaError, DeviceError.
        """
        if decoder.labels.spellings is not None:
            raise ModelCapabilityError(
                f"model {bundle.name!r} has a second pass, and labels of several letters",
                "labels of one character",
                "pass passes=1",
            )
        self.config = config_of(bundle)
        self.runner = open_decoder(bundle, self.config, options)
        self.calibration = read_calibration(self.config.confidence)
        self._decoder, self._labels, self._frame_s = decoder, decoder.labels, acoustic.frame_s
        self._spelling = TokenSpelling(read_tokens(bundle), self._labels)
        letters = np.array([self._labels.is_letter(i) for i in range(len(self._labels))], np.uint8)
        self._letters = letters
        self._search = JointSearch(self.runner, self.config, letters)
        self._tables: OrderedDict[Any, Spelling] = OrderedDict()

    def decode(
        self,
        log_probs: NDArray[np.float32],
        states: NDArray[np.float32],
        options: DecodingOptions | None = None,
        *,
        n_best: int = 1,
        cancel: CancelToken | None = None,
    ) -> list[Hypothesis]:
        """Find the best texts of one utterance.

        Args:
            log_probs, states: from AcousticModel.compute_states.
            options: beam_width, lm_alpha, lm_beta (here the word bonus), hotwords and punctuation count.
            n_best: hypotheses to return at most, with different words.
            cancel: ends the call from another thread.
        Returns:
            Hypotheses, best first, at least one; its text is empty where nobody speaks: where CTC hears no
            letter, or the decoder says so. Where the letters of no text that the decoder proposes can be
            heard, the first pass's best, in plain words.
        Raises:
            CancelledError: cancel was set. DecodingError: emissions, states or hotwords that cannot be used.
            OptionError: a setting out of range.
        """
        options = options or DecodingOptions()
        log_probs = check_emissions(log_probs, len(self._labels))
        if not self._letters[log_probs.argmax(axis=1)].any():
            return [EMPTY]
        found = self._find(log_probs, states, options, n_best, cancel)
        if found.no_speech > NO_SPEECH:
            return [EMPTY]
        if not found.hypotheses:  # the decoder has lost its way: it repeats itself, for instance
            weight = options.hotword_weight
            return self._decoder.decode(log_probs, hotwords=options.hotwords, hotword_weight=weight)
        return [self._read(each, log_probs, options) for each in found.hypotheses]

    def settings(self, options: DecodingOptions) -> JointSettings:
        """What the search is run with: the bundle's settings where the options say nothing."""
        config = self.config
        return JointSettings(
            config.beam_size if options.beam_width is None else options.beam_width,
            config.ctc_weight,
            config.end_weight,
            config.word_bonus if options.lm_beta is None else options.lm_beta,
            config.letter_share,
            config.letter_tolerance,
            config.unheard_weight,
        )

    def _find(
        self, log_probs: NDArray[np.float32], states: NDArray[np.float32], options: DecodingOptions,
        n_best: int, cancel: CancelToken | None,
    ) -> Found:  # fmt: skip
        lm_alpha = self.config.lm_weight if options.lm_alpha is None else options.lm_alpha
        prepared = self._decoder.prepare(
            options.hotwords, options.hotword_weight, lm_alpha=lm_alpha, lm_beta=0.0
        )
        spelling = self._spell(options, prepared)
        return self._search.search(
            log_probs, states, prepared, spelling, self.settings(options), n_best, cancel
        )

    def _spell(self, options: DecodingOptions, prepared: Prepared) -> Spelling:
        """The tokens with those of the hotwords; the last few tables are remembered."""
        key = options.hotwords
        table = self._tables.get(key) if key else self._spelling.table()
        if table is None:
            table = self._spelling.table(prepared.array("follow"))
            self._tables[key] = table
            while len(self._tables) > MAX_CACHED:
                self._tables.popitem(last=False)
        return table

    def _read(
        self, found: TokenHypothesis, log_probs: NDArray[np.float32], options: DecodingOptions
    ) -> Hypothesis:
        """A hypothesis with words, times and confidences."""
        written = read_words(found, self._spelling.tokens, self._labels)
        labels = self._labels
        spans = align_words(
            log_probs, [word.spoken for word in written], labels.blank_id, labels.delimiter_id
        )
        words = tuple(
            Word(
                word.text if options.punctuation else strip_marks(word.text),
                span.first * self._frame_s, span.last * self._frame_s,
                self.calibration.apply(np.exp(word.log_prob), span.heard),
            )
            for word, span in zip(written, spans, strict=True)
        )  # fmt: skip
        text = " ".join(word.text for word in words)
        return Hypothesis(text, words, found.acoustic, found.words, found.score)


def strip_marks(text: str) -> str:
    """A word without capitals and without marks around it; those inside stay ("e-mail")."""
    return text.lower().strip(MARKS)


def config_of(bundle: Bundle) -> SecondPassConfig:
    """How a bundle's second pass is run.

    Raises:
        ModelCapabilityError: it has none.
    """
    config = bundle.manifest.second_pass
    if config is None:
        raise ModelCapabilityError(
            f"model {bundle.name!r} has no second pass",
            "a bundle with an attention decoder",
            "pass passes=1, or load a bundle that `engine-export two-pass` wrote",
        )
    return config
