"""From emissions to text: greedy search, and CTC beam search with a language model."""

from engine.decoding.greedy import decode_greedy

__all__ = ["decode_greedy"]
