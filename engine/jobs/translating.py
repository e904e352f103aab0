"""English for transcripts: a sentence that goes on in the next segment is translated whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from engine.jobs.passages import MAX_GAP_S, Sentence, divide, has_ended, share_out
from engine.runtime.clock import StageClock
from engine.translation.sentences import split_sentences
from engine.types import Segment, Transcript, Translation, TranslationHypothesis

MAX_WORDS: Final = 60  # of a sentence over several segments: a longer one is none
_MARK = re.compile(r"(?<!\d)[.!?…][\"'”“«»’)\]]*$")  # behind a digit a full stop may be an ordinal's

Translate = Callable[[list[str]], list[TranslationHypothesis]]  # one a text


@dataclass(frozen=True)
class _Open:
    """The passage that a channel is in, its last sentence so far, and when that was said."""

    passage: list[int]
    sentence: str
    end_s: float


@dataclass
class _English:
    """What a segment gets: words, and the confidences of their sentences with their letters."""

    words: list[str] = field(default_factory=list)
    confidences: list[tuple[float, int]] = field(default_factory=list)

    @property
    def confidence(self) -> float:
        total = sum(n_letters for _, n_letters in self.confidences)
        return sum(value * n_letters for value, n_letters in self.confidences) / max(total, 1)


def translate_together(transcripts: Sequence[Transcript], translate: Translate) -> list[Translation]:
    """Translate transcripts; each segment of speech becomes one of English with its times.

    A sentence that runs through several segments is translated whole, and its English shared out over them.

    Args:
        translate: German texts -> English ones with their confidence and warnings.
    Returns:
        Translations; the time of each is its share, by letters, of what all of them took.
    """
    clock = StageClock()
    spoken = [[segment for segment in each.segments if segment.text] for each in transcripts]
    sentences = [_sentences(segments) for segments in spoken]
    with clock.time("translate"):
        found = iter(translate([sentence.german for each in sentences for sentence in each]))
    n_letters = sum(len(segment.text) for segments in spoken for segment in segments)
    results = []
    for transcript, segments, own in zip(transcripts, spoken, sentences, strict=True):
        share = sum(len(segment.text) for segment in segments) / n_letters if n_letters else 0.0
        stages = {**transcript.stages_s, **clock.seconds(share)}
        hypotheses = [next(found) for _ in own]
        notes = tuple(warning for hypothesis in hypotheses for warning in hypothesis.warnings)
        translated = _in_english(segments, own, hypotheses)
        results.append(Translation(translated, transcript, stages_s=stages, notes=notes))
    return results


def _sentences(segments: Sequence[Segment]) -> list[Sentence]:
    """What is translated: a segment as it is, or the sentences of several that belong together."""
    texts, found = [segment.text for segment in segments], []
    for run in find_passages(segments):
        if len(run) == 1:
            found.append(Sentence(texts[run[0]], ((run[0], len(texts[run[0]])),)))
        else:
            found += divide(texts, run)
    return found


def find_passages(segments: Sequence[Segment]) -> list[list[int]]:
    """Segments that one sentence may run through, by number; in the order of their first ones.

    The next one of the same channel belongs to it if no mark ends the text before, and the pause is short. On
    a channel without any such mark every segment stands alone.
    """
    marked = {
        segment.channel for segment in segments if has_ended(segment.text) and _MARK.search(segment.text)
    }
    passages: list[list[int]] = []
    last: dict[int | None, _Open] = {}
    for index, segment in enumerate(segments):
        before = last.get(segment.channel)
        if before and segment.channel in marked and _goes_on(before, segment):
            before.passage.append(index)
            text = f"{before.sentence} {segment.text}"
        else:
            before, text = _Open([index], "", 0.0), segment.text
            passages.append(before.passage)
        last[segment.channel] = _Open(before.passage, (split_sentences(text) or [""])[-1], segment.end_s)
    return passages


def _goes_on(before: _Open, segment: Segment) -> bool:
    rest = (split_sentences(segment.text) or [""])[0]
    n_words = len(before.sentence.split()) + len(rest.split())
    pause_s = segment.start_s - before.end_s
    return not has_ended(before.sentence) and pause_s <= MAX_GAP_S and n_words <= MAX_WORDS


def _in_english(
    segments: Sequence[Segment], sentences: Sequence[Sentence], found: Sequence[TranslationHypothesis]
) -> tuple[Segment, ...]:
    """One for each segment, empty only where a sentence has fewer English words than segments."""
    english = [_English() for _ in segments]
    for sentence, hypothesis in zip(sentences, found, strict=True):
        shares = [share for _, share in sentence.shares]
        texts = share_out(hypothesis.text.split(), shares) if len(shares) > 1 else [[hypothesis.text]]
        for (owner, n_letters), words in zip(sentence.shares, texts, strict=True):
            english[owner].words += words
            english[owner].confidences.append((hypothesis.confidence, n_letters))
    return tuple(
        Segment(" ".join(filter(None, got.words)), s.start_s, s.end_s, (), got.confidence, s.channel)
        for s, got in zip(segments, english, strict=True)
    )
