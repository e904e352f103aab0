"""From emissions to text: greedy search, and CTC beam search with a language model."""

from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.greedy import decode_greedy
from engine.decoding.state import DecoderState, Partial

__all__ = ["CtcBeamDecoder", "DecoderState", "Partial", "decode_greedy"]
