"""Subtitles that people can read: sentences, pauses, reading speed, two languages."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import OptionError
from engine.output.bilingual import compute_bilingual_cues
from engine.output.formats import render
from engine.output.line_breaks import BAD, CLAUSE, LINE_CHARS, PLAIN, SENTENCE, break_cost, wrap
from engine.output.subtitles import (
    LEAD_S,
    LONG_PAUSE_S,
    MAX_CUE_S,
    MIN_CUE_S,
    READING_CPS,
    compute_cues,
)
from engine.types import Segment, Transcript, Translation, Word

WORDS = st.sampled_from(
    "der Hund, bellt. Die Katze schläft! 3. Stolpersteine und wir? Dr. Müller ging".split()
)


def speak(
    text: str, word_s: float = 0.3, start_s: float = 0.0, pauses: dict[int, float] | None = None
) -> Segment:
    """A segment whose words take word_s each; pauses[i] seconds go before word i."""
    words, at_s = [], start_s
    for i, token in enumerate(text.split()):
        at_s += (pauses or {}).get(i, 0.0)
        words.append(Word(token, at_s, at_s + word_s, 0.9))
        at_s += word_s
    return Segment(" ".join(text.split()), words[0].start_s, words[-1].end_s, tuple(words), 0.9)


@pytest.mark.parametrize(
    ("word", "cost"),
    [
        ("Haus.", SENTENCE), ("Haus?“", SENTENCE), ("Haus,", CLAUSE), ("Haus", PLAIN), ("das", BAD),
        ("Dr.", BAD), ("3.", BAD), ("J.", BAD), ("the", BAD), ("z.B.", BAD),
    ],
)  # fmt: skip
def test_where_a_break_is_good(word: str, cost: float) -> None:
    assert break_cost(word) == cost


def test_an_ordinal_ends_a_sentence_where_the_next_word_cannot_belong_to_it() -> None:
    assert break_cost("4.", "Dann") == break_cost("4.“", "Dann") == SENTENCE
    assert break_cost("4.", "Oktober") == break_cost("4.", "dann") == BAD


def test_cues_end_with_their_sentences() -> None:
    text = (
        "Im Garten steht ein alter Baum. Er trägt in diesem Jahr besonders viele Äpfel. "
        "Wir ernten sie im Herbst und machen Saft daraus. Das gefällt den Kindern."
    )
    cues = compute_cues([speak(text)])
    assert [cue.text.replace("\n", " ")[-1] for cue in cues] == ["."] * len(cues)


def test_a_sentence_over_two_segments_stays_together() -> None:
    first = speak("Im Garten steht ein", start_s=0.0)
    second = speak("alter Baum.", start_s=first.end_s + 0.2)
    assert [cue.text for cue in compute_cues([first, second])] == ["Im Garten steht ein alter Baum."]


def test_no_cue_runs_over_a_long_pause() -> None:
    segment = speak("Ja das ist so. Und dann kam sie.", pauses={4: 3.0})
    first, second = compute_cues([segment])
    assert first.text == "Ja das ist so."
    assert first.end_s <= segment.words[3].end_s + MIN_CUE_S
    assert second.start_s == segment.words[4].start_s


def test_a_cue_stays_for_as_long_as_its_text_needs() -> None:
    segment = speak("Donaudampfschifffahrtsgesellschaftskapitän heißt er.", word_s=0.2)
    (cue,) = compute_cues([segment])
    assert cue.n_chars / (cue.end_s - cue.start_s) == pytest.approx(READING_CPS)


def test_a_cue_appears_earlier_where_the_next_one_follows_at_once() -> None:
    fast = speak("Donaudampfschifffahrtsgesellschaftskapitän heißt er gewiss.", word_s=0.2, start_s=2.0)
    after = speak("Niemand weiß warum das so ist und wer es war, aber so geht es.", start_s=fast.end_s)
    first = compute_cues([fast, after])[0]
    assert 2.0 - LEAD_S <= first.start_s < 2.0


def test_an_hour_of_speech_is_laid_out_quickly() -> None:
    words = "Das ist ein Satz, der ziemlich lang ist und niemals enden will weil immer mehr kommt".split()
    started_s = time.process_time()
    cues = compute_cues([speak(" ".join(words * 600), word_s=0.37)])
    assert time.process_time() - started_s < 10.0
    assert sum(len(line.split()) for cue in cues for line in cue.lines) == 600 * len(words)


@given(
    st.lists(WORDS, min_size=1, max_size=60),
    st.floats(0.05, 1.5),
    st.dictionaries(st.integers(0, 59), st.floats(0.0, 4.0), max_size=6),
)
def test_cues_hold_every_word_once_and_obey_the_limits(
    tokens: list[str], word_s: float, pauses: dict[int, float]
) -> None:
    segment = speak(" ".join(tokens), word_s, pauses=pauses)
    cues = compute_cues([segment])
    assert " ".join(line for cue in cues for line in cue.lines).split() == tokens
    for cue in cues:
        words = [word for line in cue.words for word in line]
        assert len(cue.lines) <= 2 and all(len(line) <= LINE_CHARS for line in cue.lines)
        assert words[-1].end_s - words[0].start_s <= MAX_CUE_S or len(words) == 1
        assert all(b.start_s - a.end_s < LONG_PAUSE_S for a, b in pairwise(words))
        assert words[0].start_s - LEAD_S <= cue.start_s <= words[0].start_s
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in pairwise(cues))


@given(st.lists(st.text("abcß", min_size=1, max_size=50), min_size=1, max_size=40))
def test_wrap_takes_the_fewest_lines(tokens: list[str]) -> None:
    counts = wrap(tuple(tokens))
    n_lines, used = 0, LINE_CHARS + 1
    for token in tokens:
        used += 1 + len(token)
        if used > LINE_CHARS:
            n_lines, used = n_lines + 1, len(token)
    assert sum(counts) == len(tokens) and len(counts) == n_lines


def translation(german: list[Segment], english: list[str]) -> Translation:
    segments = tuple(
        Segment(text, source.start_s, source.end_s) for text, source in zip(english, german, strict=True)
    )
    return Translation(segments, Transcript(tuple(german), german[-1].end_s))


@given(
    st.lists(WORDS, min_size=1, max_size=50),
    st.lists(st.sampled_from("the dog, barks. The cat sleeps! and unbelievably".split()), max_size=60),
    st.floats(0.1, 1.0),
)
def test_bilingual_cues_hold_both_texts_once(german: list[str], english: list[str], word_s: float) -> None:
    result = translation([speak(" ".join(german), word_s)], [" ".join(english)])
    cues = compute_bilingual_cues(result)
    words = [word for cue in cues for line in cue.lines for word in line.split()]
    assert sorted(words) == sorted(german + english)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in pairwise(cues))


def test_bilingual_srt() -> None:
    result = translation([speak("Guten Morgen, wie geht es dir?")], ["Good morning, how are you?"])
    assert render(result, "srt", bilingual=True) == (
        "1\n00:00:00,000 --> 00:00:03,353\nGuten Morgen, wie geht es dir?\nGood morning, how are you?\n"
    )


def test_bilingual_is_refused_where_there_is_one_language() -> None:
    transcript = Transcript((speak("Guten Morgen."),), 1.0)
    with pytest.raises(OptionError, match="transcript"):
        render(transcript, "srt", bilingual=True)
    with pytest.raises(OptionError, match="word_timestamps"):
        render(translation([speak("Ja.")], ["Yes."]), "vtt", bilingual=True, word_timestamps=True)
