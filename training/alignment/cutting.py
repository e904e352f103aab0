"""One recording to utterances: emissions, alignment, phrases, utterances, and the check of each."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jiwer

from engine.audio.vad import Waveform
from training.alignment.anchors import align_long
from training.alignment.emissions import Emissions, compute_emissions, read_greedy
from training.alignment.phrases import Phrase, build_gaps, cut_phrases, find_pauses
from training.alignment.spoken_text import Slot, read_slots
from training.alignment.utterances import Utterance, join_phrases

TOO_SHORT, TOO_LONG = "too short", "longer than --max_s between pauses"
POOR_SCORE, POOR_AGREEMENT, NO_TEXT = "poor score", "other words heard", "no text or silence"


@dataclasses.dataclass(frozen=True)
class CutOptions:
    """The limits of an utterance.

    Attributes:
        min_s, max_s: seconds.
        min_score: nats per letter that the text may cost against the greedy path, on average (below 0).
        min_word_score: the same for a single word.
        min_agreement: share of letters on which a free decoding and the text agree.
    """

    min_s: float = 1.5
    max_s: float = 15.0
    min_score: float = -1.5
    min_word_score: float = -3.5
    min_agreement: float = 0.6


class Kept(NamedTuple):
    """An utterance and the share of its letters on which a free decoding agrees."""

    utterance: Utterance
    agreement: float


class Cut(NamedTuple):
    """The result for a recording.

    Attributes:
        kept: in order. dropped_s: seconds by reason; kept and dropped together are the whole recording.
    """

    kept: list[Kept]
    dropped_s: dict[str, float]


Progress = Callable[[float], object]


def cut_recording(
    model: Any, waveform: Waveform, text: str, options: CutOptions, progress: Progress = lambda done_s: None
) -> Cut:
    """Cut a recording into utterances with trustworthy transcripts.

    Args:
        model: engine.SpeechTranslator.
        waveform: float32 [n_samples], mono, at the model's rate.
        text: what was read aloud, approximately.
        progress: called with the seconds that the encoder has done.
    Returns:
        Cut; without utterances where the text does not fit.
    Raises:
        TextError: no words in the text. AlignmentError: too long, and without anchors.
    """
    slots = read_slots(text)
    rate = model.acoustic.sample_rate
    emissions = compute_emissions(model, waveform, progress)
    return cut_emissions(emissions, waveform, rate, slots, options)


def cut_emissions(
    emissions: Emissions, waveform: Waveform, rate: int, slots: list[Slot], options: CutOptions
) -> Cut:
    """Cut a recording by its emissions; arguments and result as for cut_recording."""
    log_probs, frame_s = emissions
    letters = [(letter, frame * frame_s) for letter, frame in read_greedy(log_probs) if letter != " "]
    alignment = align_long(log_probs, slots)
    words, gaps = build_gaps(
        alignment, slots, find_pauses(waveform, rate), [start_s for _, start_s in letters], frame_s,
        len(waveform) / rate,
    )  # fmt: skip
    phrases = cut_phrases(words, gaps, slots, options.min_word_score, options.max_s)
    kept: list[Kept] = []
    dropped_s = _dropped_phrases(phrases, options.max_s)
    for utterance in join_phrases(phrases, slots, options.min_s, options.max_s):
        heard = "".join(letter for letter, at_s in letters if utterance.start_s <= at_s < utterance.end_s)
        agreement = compute_agreement(utterance.letters, heard)
        reason = _check(utterance, agreement, options)
        if reason:
            dropped_s[reason] += utterance.duration_s
        else:
            kept.append(Kept(utterance, agreement))
    total_s = sum(item.utterance.duration_s for item in kept) + sum(dropped_s.values())
    dropped_s[NO_TEXT] += max(0.0, len(waveform) / rate - total_s)
    return Cut(kept, dict(dropped_s))


def compute_agreement(letters: str, heard: str) -> float:
    """Share of letters on which a text and a free decoding agree, word boundaries aside; 0 to 1."""
    written = letters.replace(" ", "")
    return max(0.0, 1.0 - float(jiwer.cer(written, heard))) if written and heard else 0.0


def _check(utterance: Utterance, agreement: float, options: CutOptions) -> str:
    """Why an utterance is dropped; "" for one that is kept."""
    if utterance.duration_s < options.min_s:
        return TOO_SHORT
    if utterance.score < options.min_score:
        return POOR_SCORE
    return POOR_AGREEMENT if agreement < options.min_agreement else ""


def _dropped_phrases(phrases: list[Phrase], max_s: float) -> defaultdict[str, float]:
    """Seconds of phrases that make no utterance, by the first of their problems."""
    dropped_s: defaultdict[str, float] = defaultdict(float)
    for phrase in phrases:
        duration_s = phrase.end_s - phrase.start_s
        if phrase.problems:
            dropped_s[phrase.problems[0]] += duration_s
        elif duration_s > max_s:
            dropped_s[TOO_LONG] += duration_s
    return dropped_s
