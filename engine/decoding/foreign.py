"""A decoder of somebody else, with pyctcdecode's interface, in the place of ours."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.hotwords import Phrases
from engine.decoding.labels import Labelled, build_labels, check_emissions
from engine.decoding.own_model import OwnModelDecoder
from engine.decoding.pyctcdecode import BeamSearchDecoderCTC
from engine.decoding.settings import HOTWORD_WEIGHT
from engine.decoding.spans import make_words
from engine.errors import DecodingError, EngineError, OptionError
from engine.types import Hypothesis

_WANTED = "a CtcBeamDecoder, or an object with pyctcdecode's decode_beams"
AnyDecoder = CtcBeamDecoder | OwnModelDecoder


class ForeignDecoder(Labelled):
    """Asks another decoder's `decode_beams(log_probs, beam_width=, hotwords=, hotword_weight=)`.

    It must return beams like pyctcdecode's, best first: (text, state, [(word, (first frame, frame behind the
    last))], acoustic score, score). One call runs at a time, since such decoders may not be shared.

    Args:
        decoder: the object.
        vocabulary, blank_id, word_delimiter, frame_s: of the acoustic model; see CtcBeamDecoder.
    Raises:
        OptionError: an object without decode_beams.
    """

    def __init__(
        self, decoder: Any, vocabulary: Sequence[str], blank_id: int, word_delimiter: str, frame_s: float
    ) -> None:
        if not callable(getattr(decoder, "decode_beams", None)):
            raise OptionError(f"decoder of type {type(decoder).__name__}", _WANTED)
        self.decoder, self.frame_s = decoder, frame_s
        self.labels = build_labels(vocabulary, blank_id, word_delimiter)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        labels = self.labels
        delimiter = labels.vocabulary[labels.delimiter_id] if labels.delimiter_id >= 0 else ""
        arguments = (self.decoder, labels.vocabulary, labels.blank_id, delimiter, self.frame_s)
        return ForeignDecoder, arguments

    def decode(
        self,
        log_probs: Any,
        beam_width: int | None = None,
        n_best: int = 1,
        hotwords: Phrases | None = (),
        hotword_weight: float = HOTWORD_WEIGHT,
    ) -> list[Hypothesis]:
        """Decode one utterance; arguments and result as for CtcBeamDecoder.decode.

        Raises:
            DecodingError: the decoder failed, or what it returned is not beams as pyctcdecode's are.
        """
        emissions = check_emissions(log_probs, len(self.labels))
        options: dict[str, Any] = {} if beam_width is None else {"beam_width": beam_width}
        if hotwords:
            options |= {"hotwords": list(hotwords), "hotword_weight": hotword_weight}
        name = type(self.decoder).__name__
        try:
            with self._lock:
                beams = self.decoder.decode_beams(emissions, **options)
            return [self._read(beam, emissions) for beam in list(beams)[:n_best]] or [
                Hypothesis("", (), 0.0, 0.0, 0.0)
            ]
        except EngineError:
            raise
        except Exception as error:
            got = f"the decoder {name} failed ({type(error).__name__}: {error})"
            fix = "call its decode_beams with emissions of this model, and see what it returns"
            raise DecodingError(got, "beams of (text, state, word frames, two scores)", fix) from error

    def _read(self, beam: Any, emissions: Any) -> Hypothesis:
        text, _state, frames, acoustic, score = beam
        words = make_words([(str(w), (int(a), int(b))) for w, (a, b) in frames], emissions, self.frame_s)
        return Hypothesis(str(text), words, float(acoustic), float(score) - float(acoustic), float(score))


def adopt_decoder(
    decoder: Any, vocabulary: Sequence[str], blank_id: int, word_delimiter: str, frame_s: float
) -> Any:
    """A user's decoder as the recogniser asks it.

    Returns:
        The CtcBeamDecoder or OwnModelDecoder that it is, or is made of, with the model's seconds per frame;
        else a ForeignDecoder.
    Raises:
        OptionError: no decoder. DecodingError: a decoder of another vocabulary.
    """
    if isinstance(decoder, BeamSearchDecoderCTC):
        decoder = decoder.decoder
    if isinstance(decoder, CtcBeamDecoder | OwnModelDecoder):
        decoder = decoder.with_settings(frame_s=frame_s)
        if len(decoder.labels) != len(vocabulary) or decoder.labels.blank_id != blank_id:
            got = f"a decoder of {len(decoder.labels)} labels with blank {decoder.labels.blank_id}"
            raise DecodingError(got, f"the model's {len(vocabulary)} with blank {blank_id}")
        return decoder
    return ForeignDecoder(decoder, vocabulary, blank_id, word_delimiter, frame_s)
