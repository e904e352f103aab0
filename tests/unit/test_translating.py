"""Transcripts into English: sentences across segments, channels, times, confidences and warnings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.jobs.translating import MAX_WORDS, find_passages, translate_together
from engine.types import Segment, Transcript, TranslationHypothesis


def transcript(*texts: str, pause_s: float = 0.5, channels: tuple[int | None, ...] = ()) -> Transcript:
    """Segments of a second each."""
    step_s = 1.0 + pause_s
    segments = [
        Segment(text, i * step_s, i * step_s + 1.0, channel=channels[i] if channels else None)
        for i, text in enumerate(texts)
    ]
    return Transcript(tuple(segments), len(texts) * step_s)


def upper(texts: list[str]) -> list[TranslationHypothesis]:
    return [
        TranslationHypothesis(text.upper(), -1.0, 1 / len(text.split()), (f"of {text}",)) for text in texts
    ]


def test_a_sentence_that_goes_on_is_translated_whole_and_shared_out() -> None:
    seen: list[str] = []

    def translate(texts: list[str]) -> list[TranslationHypothesis]:
        seen.extend(texts)
        return upper(texts)

    spoken = transcript(
        "Guten Tag. Als wir nach Hause kamen", "stand die Tür offen. Wer", "war das?", "Niemand."
    )
    (english,) = translate_together([spoken], translate)
    assert seen == ["Guten Tag.", "Als wir nach Hause kamen stand die Tür offen.", "Wer war das?", "Niemand."]
    assert [segment.text for segment in english.segments] == [
        "GUTEN TAG. ALS WIR NACH HAUSE KAMEN", "STAND DIE TÜR OFFEN. WER", "WAR DAS?", "NIEMAND.",
    ]  # fmt: skip
    assert [segment.start_s for segment in english.segments] == [s.start_s for s in spoken.segments]
    assert english.notes == tuple(f"of {text}" for text in seen)
    confidences = [segment.confidence for segment in english.segments]
    assert confidences[2] == pytest.approx(1 / 3) and confidences[3] == 1.0
    assert 1 / 9 < confidences[0] < 1 / 2


def test_segments_that_are_whole_are_translated_as_they_are() -> None:
    seen: list[str] = []

    def translate(texts: list[str]) -> list[TranslationHypothesis]:
        seen.extend(texts)
        return [TranslationHypothesis(f"  {text}  ", 0.0, 0.5) for text in texts]

    spoken = transcript("Gut. Ja.", "Er kam", "an.", pause_s=3.5)  # pauses too long for one sentence
    (english,) = translate_together([spoken], translate)
    assert seen == ["Gut. Ja.", "Er kam", "an."]
    assert [segment.text for segment in english.segments] == ["  Gut. Ja.  ", "  Er kam  ", "  an.  "]


def test_text_without_marks_is_not_joined() -> None:
    assert find_passages(transcript("guten tag", "wir sind da", "ja").segments) == [[0], [1], [2]]
    ordinal = transcript("wir treffen uns am 3.", "guten tag", "wir sind da")
    assert find_passages(ordinal.segments) == [[0], [1], [2]]
    one_of_two = transcript("guten tag", "Ich war", "weg.", channels=(2, 1, 1))
    assert find_passages(one_of_two.segments) == [[0], [1, 2]]


def test_whole_sentences_before_an_open_one_do_not_count() -> None:
    spoken = transcript(
        "Wort " * 50 + "Ende. Als wir nach Hause", "kamen, war er weg. " + "Wort " * 50 + "Ende."
    )
    assert find_passages(spoken.segments) == [[0, 1]]


def test_a_sentence_without_english_leaves_no_space() -> None:
    spoken = transcript("♪ Gut. Als er", "kam.")
    found = lambda texts: [TranslationHypothesis(text.replace("♪ Gut.", ""), 0.0, 1.0) for text in texts]  # noqa: E731
    (english,) = translate_together([spoken], found)
    assert [segment.text for segment in english.segments] == ["Als er", "kam."]


def test_channels_are_not_mixed() -> None:
    spoken = transcript("Ich glaube", "Ja?", "das stimmt.", channels=(1, 2, 1))
    assert find_passages(spoken.segments) == [[0, 2], [1]]
    (english,) = translate_together([spoken], upper)
    assert [segment.text for segment in english.segments] == ["ICH GLAUBE", "JA?", "DAS STIMMT."]
    assert [segment.channel for segment in english.segments] == [1, 2, 1]


def test_a_passage_has_a_limit() -> None:
    spoken = transcript(*["wort " * 20] * 5, "Ende.", pause_s=0.1)
    lengths = [
        sum(len(spoken.segments[i].text.split()) for i in run) for run in find_passages(spoken.segments)
    ]
    assert max(lengths) <= MAX_WORDS and sum(lengths) == 101


def test_fewer_english_words_than_segments_leave_some_empty() -> None:
    spoken = transcript("Es", "war", "gut.")
    (english,) = translate_together([spoken], lambda texts: [TranslationHypothesis("Good.", 0.0, 0.5)])
    assert sorted(segment.text for segment in english.segments) == ["", "", "Good."]


@given(st.lists(st.lists(st.text("ab.? ", max_size=12), max_size=6), max_size=4), st.floats(0.0, 5.0))
def test_nothing_is_lost_and_recordings_are_apart(recordings: list[list[str]], pause_s: float) -> None:
    spoken = [transcript(*texts, pause_s=pause_s) for texts in recordings]
    together = translate_together(spoken, lambda texts: [TranslationHypothesis(t, 0.0, 1.0) for t in texts])
    for source, found in zip(spoken, together, strict=True):
        said = [segment for segment in source.segments if segment.text]
        assert [segment.start_s for segment in found.segments] == [segment.start_s for segment in said]
        words = [word for segment in said for word in segment.text.split()]
        assert [word for segment in found.segments for word in segment.text.split()] == words
        (alone,) = translate_together(
            [source], lambda texts: [TranslationHypothesis(t, 0.0, 1.0) for t in texts]
        )
        assert alone.segments == found.segments
