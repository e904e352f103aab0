"""What the command line says about model and decoding, as the runtime takes it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from engine.jobs.endpoints import EndpointOptions
from engine.types import DecodingOptions

if TYPE_CHECKING:
    from engine.pipeline import SpeechTranslator


def load_model(options: argparse.Namespace) -> SpeechTranslator:
    """Load the model that the command line names."""
    from engine.pipeline import load

    return load(
        options.model,
        device=options.device,
        compute_type=options.compute_type,
        threads=options.threads,
        backend=options.backend,
    )


def decoding_options(options: argparse.Namespace) -> DecodingOptions:
    """The decoding settings of the command line."""
    hotwords = tuple(word.strip() for word in getattr(options, "hotwords", "").split(",") if word.strip())
    return DecodingOptions(
        beam_width=options.beam_size,
        translation_beam_size=options.beam_size,
        hotwords=hotwords,
        vad_filter=getattr(options, "vad_filter", True),
        vad=getattr(options, "vad", "energy"),
        punctuation=getattr(options, "punctuation", True),
        passes=options.passes,
        numbers=getattr(options, "numbers", "words"),
        channels=getattr(options, "channels", "mix"),
        audio_track=getattr(options, "audio_track", None),
    )


def endpoint_options(options: argparse.Namespace, partial_interval_s: float | None = None) -> EndpointOptions:
    """When text of a stream becomes final, from --pause_s; the other times are such that they fit it."""
    usual, pause_s = EndpointOptions(), options.pause_s
    return EndpointOptions(
        pause_s,
        max(usual.max_window_s, 2.5 * pause_s),
        min(usual.pad_s, pause_s / 2),
        partial_interval_s=partial_interval_s or usual.partial_interval_s,
    )
