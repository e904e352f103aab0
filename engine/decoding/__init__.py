"""From emissions to text: greedy search, and CTC beam search with a language model."""

from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.greedy import decode_greedy
from engine.decoding.kenlm_model import KenlmLanguageModel
from engine.decoding.ngram import NgramModel
from engine.decoding.own_model import AbstractLanguageModel, OwnModelDecoder
from engine.decoding.pyctcdecode import build_ctcdecoder
from engine.decoding.state import DecoderState, Partial

__all__ = [
    "AbstractLanguageModel",
    "CtcBeamDecoder",
    "DecoderState",
    "KenlmLanguageModel",
    "NgramModel",
    "OwnModelDecoder",
    "Partial",
    "build_ctcdecoder",
    "decode_greedy",
]
