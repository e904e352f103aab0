"""The interface of pyctcdecode, for programs that move over from it.

Only the interface: `build_ctcdecoder` and the decoder's `decode`, `decode_beams` and
`decode_batch` take the same arguments and return the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from engine.decoding.beam import CtcBeamDecoder
from engine.errors import DecodingError
from engine.types import Hypothesis

BLANKS = ("", "<pad>", "[PAD]", "<blk>", "<blank>")
FRAME_S = 1.0  # times come out as frame numbers


class OutputBeam(NamedTuple):
    """One reading, with pyctcdecode's fields.

    Attributes:
        text: words joined by spaces.
        last_lm_state: always None; to go on with an utterance use CtcBeamDecoder.advance.
        text_frames: (word, (first frame, frame behind the last)).
        logit_score: natural log, of the alignments.
        lm_score: natural log, of alignments, language model and hotwords together.
    """

    text: str
    last_lm_state: None
    text_frames: list[tuple[str, tuple[int, int]]]
    logit_score: float
    lm_score: float


class BeamSearchDecoderCTC:
    """pyctcdecode's decoder on top of CtcBeamDecoder; thread-safe, picklable."""

    def __init__(self, decoder: CtcBeamDecoder) -> None:
        self.decoder = decoder

    def decode(self, logits: Any, beam_width: int = 100, **options: Any) -> str:
        """The best text; options as for decode_beams."""
        return self._decode(logits, beam_width, 1, **options)[0].text

    def decode_beams(self, logits: Any, beam_width: int = 100, **options: Any) -> list[OutputBeam]:
        """All readings, best first.

        Args:
            logits: floating point [n_frames, vocab_size]: raw, natural-log or probabilities.
            beam_width: prefixes kept.
            options: beam_prune_logp, token_min_logp, hotwords (a list), hotword_weight.
        Raises:
            DecodingError: emissions, options or hotwords that cannot be used.
        """
        return [_convert(h) for h in self._decode(logits, beam_width, beam_width, **options)]

    def decode_batch(
        self, pool: Any, logits_list: Iterable[Any], beam_width: int = 100, **options: Any
    ) -> list[str]:
        """The best text of each utterance; a pool with `map` is used where it is not None."""
        jobs = list(logits_list)
        if pool is None:
            return [self.decode(logits, beam_width, **options) for logits in jobs]
        return list(pool.map(_Job(self, beam_width, options), jobs))

    def _decode(
        self,
        logits: Any,
        beam_width: int,
        n_best: int,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        hotwords: Sequence[str] | None = None,
        hotword_weight: float = 10.0,
        **unknown: Any,
    ) -> list[Hypothesis]:
        if unknown:
            raise DecodingError(f"options {sorted(unknown)}", "those named in decode_beams")
        decoder = self.decoder.with_settings(beam_prune_logp=beam_prune_logp, token_min_logp=token_min_logp)
        return decoder.decode(
            _take_log(logits), beam_width, n_best, hotwords or (), hotword_weight, logits=True
        )


class _Job:
    """One call of decode that can be sent to another process."""

    def __init__(self, decoder: BeamSearchDecoderCTC, beam_width: int, options: dict[str, Any]) -> None:
        self.decoder, self.beam_width, self.options = decoder, beam_width, options

    def __call__(self, logits: Any) -> str:
        return self.decoder.decode(logits, self.beam_width, **self.options)


def build_ctcdecoder(
    labels: Sequence[str],
    kenlm_model_path: str | PathLike[str] | None = None,
    unigrams: Iterable[str] | None = None,
    alpha: float = 0.5,
    beta: float = 1.5,
    unk_score_offset: float = -10.0,
    lm_score_boundary: bool = True,
    merging: str = "prefix",
) -> BeamSearchDecoderCTC:
    """Build a decoder from pyctcdecode's arguments.

    Args:
        labels: one for each column; the blank is "" or "<pad>", words are parted by " " or "|".
        kenlm_model_path: KenLM binary or ARPA file.
        unigrams: known words; those named in the model's file where None.
        alpha, beta, unk_score_offset, lm_score_boundary: as in pyctcdecode.
        merging: "pyctcdecode" to follow its rules for merging beams too; see CtcBeamDecoder.
    Raises:
        DecodingError: labels without a blank, or otherwise unusable. LanguageModelError: the model.
    """
    named = ["<pad>" if label in BLANKS else "|" if label == " " else label for label in labels]
    if "<pad>" not in named:
        raise DecodingError("labels without a blank", f"one of {BLANKS} among them")
    decoder = CtcBeamDecoder(
        named,
        kenlm_model_path,
        unigrams,
        alpha,
        beta,
        blank_id=named.index("<pad>"),
        frame_s=FRAME_S,
        unk_score_offset=unk_score_offset,
        score_boundary=lm_score_boundary,
        merging=merging,
    )
    return BeamSearchDecoderCTC(decoder)


def _take_log(logits: Any) -> Any:
    """Logits as they are; of what sums to 1, the logarithm."""
    array = np.asarray(logits)
    if array.ndim == 2 and array.dtype.kind == "f" and array.size:
        sums = array.sum(axis=1)
        if np.isclose(sums.mean(), 1.0) and array.min() >= 0:
            return np.log(np.clip(array, 1e-15, 1.0))
    return array


def _convert(hypothesis: Hypothesis) -> OutputBeam:
    frames = [(word.text, (round(word.start_s), round(word.end_s))) for word in hypothesis.words]
    return OutputBeam(hypothesis.text, None, frames, hypothesis.acoustic_score, hypothesis.score)
