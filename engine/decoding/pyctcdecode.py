"""The interface of pyctcdecode, for programs that move over from it.

Only the interface: `build_ctcdecoder` and the decoder's `decode`, `decode_beams`, `decode_batch`,
`decode_beams_batch` and `reset_params` take the same arguments in the same order and return the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from engine.decoding.beam import CtcBeamDecoder
from engine.decoding.labels import read_array
from engine.decoding.own_model import AbstractLanguageModel, OwnModelDecoder
from engine.errors import DecodingError
from engine.types import Hypothesis

BLANKS = ("", "<pad>", "[pad]", "<blk>", "<blank>")
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


class OutputBeamMPSafe(NamedTuple):
    """One reading as decode_beams_batch returns it; fields as in OutputBeam."""

    text: str
    text_frames: list[tuple[str, tuple[int, int]]]
    logit_score: float
    lm_score: float


class BeamSearchDecoderCTC:
    """pyctcdecode's decoder on top of CtcBeamDecoder; thread-safe, picklable.

    With a language model of one's own, it is as thread-safe and picklable as that is.
    """

    def __init__(self, decoder: CtcBeamDecoder | OwnModelDecoder) -> None:
        self.decoder = decoder

    def reset_params(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        unk_score_offset: float | None = None,
        lm_score_boundary: bool | None = None,
    ) -> None:
        """Change settings of the language model; those that are None stay.

        A language model of one's own gets them by its reset_params.
        """
        if isinstance(self.decoder, OwnModelDecoder):
            named = {"alpha": alpha, "beta": beta, "unk_score_offset": unk_score_offset}
            named |= {"score_boundary": lm_score_boundary}
            model: Any = self.decoder.language_model
            model.reset_params(**{name: value for name, value in named.items() if value is not None})
            return
        given = {
            "lm_alpha": alpha,
            "lm_beta": beta,
            "unk_score_offset": unk_score_offset,
            "score_boundary": lm_score_boundary,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        self.decoder = self.decoder.with_settings(**changes)

    def decode(
        self,
        logits: Any,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        prune_history: bool = False,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        lm_start_state: None = None,
    ) -> str:
        """The best text; arguments as for decode_beams."""
        options = (beam_width, beam_prune_logp, token_min_logp, hotwords, hotword_weight, lm_start_state)
        return self._decode(logits, 1, *options)[0].text

    def decode_beams(
        self,
        logits: Any,
        beam_width: int = 100,
        beam_prune_logp: float = -10.0,
        token_min_logp: float = -5.0,
        prune_history: bool = False,
        hotwords: Iterable[str] | None = None,
        hotword_weight: float = 10.0,
        lm_start_state: None = None,
    ) -> list[OutputBeam]:
        """All readings, best first.

        Args:
            logits: floating point [n_frames, vocab_size]: raw, natural-log or probabilities.
            beam_width: prefixes kept.
            beam_prune_logp, token_min_logp: as in pyctcdecode.
            prune_history: taken and not needed: `decode` always keeps one of the prefixes that the model
                cannot tell apart, and the list of readings always keeps all.
            hotwords, hotword_weight: a list of words or phrases, and the bonus of each.
            lm_start_state: only None; an utterance is continued with CtcBeamDecoder.advance.
        Raises:
            DecodingError: emissions, options or hotwords that cannot be used.
        """
        options = (beam_width, beam_prune_logp, token_min_logp, hotwords, hotword_weight, lm_start_state)
        return [_convert(h) for h in self._decode(logits, beam_width, *options)]

    def decode_batch(
        self, pool: Any, logits_list: Iterable[Any], beam_width: int = 100, *arguments: Any, **options: Any
    ) -> list[str]:
        """The best text of each utterance; a pool with `map` is used where it is not None."""
        return _map(pool, _Job(self, "decode", (beam_width, *arguments), options), logits_list)

    def decode_beams_batch(
        self, pool: Any, logits_list: Iterable[Any], beam_width: int = 100, *arguments: Any, **options: Any
    ) -> list[list[OutputBeamMPSafe]]:
        """The readings of each utterance, without last_lm_state; as decode_batch."""
        batch = _map(pool, _Job(self, "decode_beams", (beam_width, *arguments), options), logits_list)
        return [[OutputBeamMPSafe(beam.text, *beam[2:]) for beam in beams] for beams in batch]

    def _decode(
        self,
        logits: Any,
        n_best: int,
        beam_width: int,
        beam_prune_logp: float,
        token_min_logp: float,
        hotwords: Iterable[str] | None,
        hotword_weight: float,
        lm_start_state: Any,
    ) -> list[Hypothesis]:
        if lm_start_state is not None:
            fix = "go on with an utterance by CtcBeamDecoder.start, advance and finish"
            raise DecodingError(f"lm_start_state of type {type(lm_start_state).__name__}", "None", fix)
        decoder = self.decoder.with_settings(beam_prune_logp=beam_prune_logp, token_min_logp=token_min_logp)
        phrases = hotwords if hotwords is None or isinstance(hotwords, str) else tuple(hotwords)
        return decoder.decode(_take_log(logits), beam_width, n_best, phrases, hotword_weight, logits=True)


def _map(pool: Any, job: _Job, logits_list: Iterable[Any]) -> list[Any]:
    return list(map(job, logits_list) if pool is None else pool.map(job, list(logits_list)))


class _Job:
    """One call of a method that can be sent to another process."""

    def __init__(
        self, decoder: BeamSearchDecoderCTC, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self.decoder, self.method, self.arguments, self.options = decoder, method, arguments, options

    def __call__(self, logits: Any) -> Any:
        return getattr(self.decoder, self.method)(logits, *self.arguments, **self.options)


def build_ctcdecoder(  # noqa: PLR0913  - pyctcdecode's and two of ours
    labels: Sequence[str],
    kenlm_model_path: str | PathLike[str] | None = None,
    unigrams: Iterable[str] | None = None,
    alpha: float = 0.5,
    beta: float = 1.5,
    unk_score_offset: float = -10.0,
    lm_score_boundary: bool = True,
    merging: str = "prefix",
    language_model: AbstractLanguageModel | None = None,
) -> BeamSearchDecoderCTC:
    """Build a decoder from pyctcdecode's arguments. Like pyctcdecode, it ranks without lookahead.

    Args:
        labels: one for each column: characters, or pieces of words ("▁Haus" or "##es"). The blank is "",
            "<pad>", "[PAD]", "<blk>", "<blank>" or "_"; without any of them it is the last column, behind the
            labels. Words are separated by " " or "|".
        kenlm_model_path: KenLM binary or ARPA file.
        unigrams: known words; those named in the model's file where None.
        alpha, beta, unk_score_offset, lm_score_boundary: as in pyctcdecode.
        merging: "pyctcdecode" to follow its rules for merging beams too; see CtcBeamDecoder.
        language_model: one's own, instead of kenlm_model_path; see OwnModelDecoder.
    Raises:
        DecodingError: labels that cannot be used. LanguageModelError: the model.
    """
    named = _name_labels(labels)
    if language_model is not None:
        own = OwnModelDecoder(named, language_model, blank_id=named.index("<pad>"), frame_s=FRAME_S)
        return BeamSearchDecoderCTC(own)
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
        lookahead=False,
    )
    return BeamSearchDecoderCTC(decoder)


def _name_labels(labels: Sequence[str]) -> list[str]:
    """The labels with "<pad>" as the blank, at the end where there is none, and "|" between words."""
    if any(not isinstance(label, str) for label in labels):
        return list(labels)  # refused later, with its type
    named = ["<pad>" if label.lower() in BLANKS else "|" if label == " " else label for label in labels]
    if "<pad>" not in named and "_" in named:
        named[named.index("_")] = "<pad>"
    return named if "<pad>" in named else [*named, "<pad>"]


def _take_log(logits: Any) -> Any:
    """Logits as they are; of what sums to 1, the logarithm."""
    array = read_array(logits)
    if array.ndim == 2 and array.dtype.kind == "f" and array.size:
        with np.errstate(invalid="ignore"):  # what cannot be used is said later
            sums = array.sum(axis=1, dtype=np.float64)
        if np.isclose(sums.mean(), 1.0) and array.min() >= 0:
            return np.log(np.clip(array, 1e-15, 1.0))
    return array


def _convert(hypothesis: Hypothesis) -> OutputBeam:
    frames = [(word.text, (round(word.start_s), round(word.end_s))) for word in hypothesis.words]
    return OutputBeam(hypothesis.text, None, frames, hypothesis.acoustic_score, hypothesis.score)
