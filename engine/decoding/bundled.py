"""The beam decoder as a bundle wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import Bundle
from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.foreign import adopt_decoder
from engine.decoding.greedy import read_greedy
from engine.errors import ModelCapabilityError, OptionError
from engine.types import DecodingOptions, Hypothesis

if TYPE_CHECKING:
    from engine.acoustic.model import AcousticModel


def load_decoder(bundle: Bundle, decoder: Any = None) -> Any:
    """Load language model and lexicon of a bundle, with the settings that it was tuned to.

    Args:
        decoder: the caller's own, which is taken instead: see engine.decoding.foreign.
    Raises:
        ModelCapabilityError: the bundle has no acoustic model. LanguageModelError, BundleError.
        OptionError, DecodingError: a decoder that cannot be used.
    """
    acoustic, tuned = bundle.manifest.acoustic, bundle.manifest.decoding
    if acoustic is None:
        raise ModelCapabilityError(
            f"bundle {bundle.name!r} has no acoustic model", "a bundle that recognises speech"
        )
    frame_s = acoustic.samples_per_frame / acoustic.features.sample_rate
    if decoder is not None:
        names = bundle.vocabulary, acoustic.blank_id, acoustic.word_delimiter
        return adopt_decoder(decoder, *names, frame_s)
    return CtcBeamDecoder(
        bundle.vocabulary,
        language_model=bundle.file("language_model") if bundle.has("language_model") else None,
        lexicon=bundle.file("lexicon") if bundle.has("lexicon") else None,
        blank_id=acoustic.blank_id,
        word_delimiter=acoustic.word_delimiter,
        frame_s=frame_s,
        lm_alpha=tuned.lm_alpha,
        lm_beta=tuned.lm_beta,
        token_min_logp=tuned.token_min_logp,
        beam_prune_logp=tuned.beam_prune_logp,
        unk_score_offset=tuned.unk_score_offset,
        unk_letter_score=tuned.unk_letter_score,
        beam_width=tuned.beam_width,
    )


def decode_best(
    log_probs: NDArray[np.float32],
    decoder: Any,
    acoustic: AcousticModel,
    beam_width: int,
    options: DecodingOptions,
) -> Hypothesis:
    """The best reading of emissions, by beam search or (one beam and no hotwords) greedily.

    Args:
        decoder: of load_decoder. acoustic: the model that made them. beam_width: where options say nothing.
    Raises:
        OptionError: weights of a language model that only its own decoder knows.
    """
    beam_width = options.beam_width or beam_width
    if not isinstance(decoder, CtcBeamDecoder):
        if options.lm_alpha is not None or options.lm_beta is not None:
            fix = "set the weights of the decoder that you gave"
            raise OptionError("lm_alpha or lm_beta with a decoder of your own", "neither", fix)
        return decoder.decode(  # type: ignore[no-any-return]
            log_probs,
            options.beam_width,
            hotwords=options.hotwords,
            hotword_weight=options.hotword_weight,
        )[0]
    if beam_width == 1 and not options.hotwords:
        return read_greedy(log_probs, decoder.labels, acoustic.frame_s)
    return decoder.decode(
        log_probs,
        beam_width=beam_width,
        hotwords=options.hotwords,
        hotword_weight=options.hotword_weight,
        lm_alpha=options.lm_alpha,
        lm_beta=options.lm_beta,
    )[0]
