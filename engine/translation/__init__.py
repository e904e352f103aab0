"""German text to English: sentences, tokens, encoder and decoder, search."""

from engine.translation.translator import Translator, plan_batches

__all__ = ["Translator", "plan_batches"]
