"""What translates text: a whole model, or a bundle with nothing but a translator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from engine.bundle.folder import Bundle, open_bundle
from engine.bundle.signature import bundle_digest, describe, environment
from engine.errors import ModelCapabilityError
from engine.pipeline import SpeechTranslator
from engine.translation import Translator
from engine.types import DecodingOptions, RuntimeOptions


class TextSystem(Protocol):
    """The part of SpeechTranslator that text needs."""

    bundle: Bundle

    @property
    def signature(self) -> str:
        """One line that names model, versions and machine."""

    def translate_text(self, texts: Sequence[str], options: DecodingOptions | None = None) -> list[str]:
        """Translate German texts, each whole."""

    def punctuate(self, text: str) -> str:
        """Add capitals and punctuation."""


class TranslatorOnly:
    """A TextSystem of a bundle without a recogniser."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Load its translator."""
        self.bundle = bundle
        self._translator = Translator(bundle, RuntimeOptions(threads=threads))

    @property
    def signature(self) -> str:
        """See TextSystem."""
        config = self._translator.config
        return describe(
            {
                "model": f"{self.bundle.name}@{bundle_digest(self.bundle)}",
                "mt": f"{config.precision},beam{config.beam_size}",
                "threads": self._translator.threads,
                **environment(),
            }
        )

    def translate_text(self, texts: Sequence[str], options: DecodingOptions | None = None) -> list[str]:
        """See TextSystem."""
        options = options or DecodingOptions()
        found = self._translator.translate_paragraphs(
            texts, beam_size=options.translation_beam_size, length_penalty=options.length_penalty
        )
        return [each.text for each in found]

    def punctuate(self, text: str) -> str:
        """Raises ModelCapabilityError."""
        raise ModelCapabilityError(
            f"bundle {self.bundle.name!r} has no punctuation model", "one with it", "load another"
        )


def open_text_system(model: str | os.PathLike[str] | None, threads: int) -> TextSystem:
    """Load a model for text.

    Raises:
        BundleError and its kinds, ModelCapabilityError: the bundle holds no translator.
    """
    bundle = open_bundle(model)
    options = RuntimeOptions(threads=threads)
    return SpeechTranslator(bundle, options) if bundle.manifest.acoustic else TranslatorOnly(bundle, threads)
