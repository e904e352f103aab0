"""The beam decoder as a bundle wants it."""

from __future__ import annotations

from engine.bundle import Bundle
from engine.decoding.beam import CtcBeamDecoder
from engine.errors import ModelCapabilityError


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
