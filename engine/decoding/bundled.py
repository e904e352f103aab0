"""The beam decoder as a bundle wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import Bundle
from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.greedy import decode_greedy
from engine.errors import ModelCapabilityError
from engine.types import DecodingOptions, Hypothesis

if TYPE_CHECKING:
    from engine.acoustic.model import AcousticModel


def load_decoder(bundle: Bundle) -> CtcBeamDecoder:
    """Load language model and lexicon of a bundle, with the settings that it was tuned to.

    Raises:
        ModelCapabilityError: the bundle has no acoustic model. LanguageModelError, BundleError.
    """
    acoustic, tuned = bundle.manifest.acoustic, bundle.manifest.decoding
    if acoustic is None:
        raise ModelCapabilityError(
            f"bundle {bundle.name!r} has no acoustic model", "a bundle that recognises speech"
        )
    return CtcBeamDecoder(
        bundle.vocabulary,
        language_model=bundle.file("language_model") if bundle.has("language_model") else None,
        lexicon=bundle.file("lexicon") if bundle.has("lexicon") else None,
        blank_id=acoustic.blank_id,
        word_delimiter=acoustic.word_delimiter,
        frame_s=acoustic.samples_per_frame / acoustic.features.sample_rate,
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
    decoder: CtcBeamDecoder,
    acoustic: AcousticModel,
    beam_width: int,
    options: DecodingOptions,
) -> Hypothesis:
    """The best reading of emissions, by beam search or (one beam and no hotwords) greedily.

    Args:
        acoustic: the model that made them. beam_width: where options say nothing.
    """
    beam_width = options.beam_width or beam_width
    if beam_width == 1 and not options.hotwords:
        return decode_greedy(
            log_probs,
            acoustic.vocabulary,
            blank_id=acoustic.blank_id,
            word_delimiter=acoustic.word_delimiter,
            frame_s=acoustic.frame_s,
        )
    return decoder.decode(
        log_probs,
        beam_width=beam_width,
        hotwords=options.hotwords,
        hotword_weight=options.hotword_weight,
        lm_alpha=options.lm_alpha,
        lm_beta=options.lm_beta,
    )[0]
