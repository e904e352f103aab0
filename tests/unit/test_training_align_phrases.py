"""Phrases between pauses: where they are cut, what speaks against them, how they are joined."""

from __future__ import annotations

from itertools import pairwise

import pytest

import engine
from tests.reference.tone_bundle import SAMPLE_RATE, spell, write_tone_bundle
from training.alignment import phrases
from training.alignment.emissions import compute_emissions, read_greedy
from training.alignment.phrases import Gap, Phrase, build_gaps, cut_phrases
from training.alignment.spoken_text import read_slots
from training.alignment.utterances import join_phrases
from training.alignment.viterbi import Alignment, SlotSpan

FRAME_S = 0.02


def cut(text: str, spans, pauses, heard_s=(), duration_s: float = 10.0, max_s: float = 15.0) -> list[Phrase]:
    """Phrases of words given as (start_s, end_s, score a letter), None for one that was left out."""
    slots = read_slots(text)
    placed = [
        SlotSpan(number, -1, 0, 0, 0.0)
        if span is None
        else SlotSpan(
            number, 0, round(span[0] / FRAME_S), round(span[1] / FRAME_S),
            span[2] * len(slots[number].forms[0].letters),
        )
        for number, span in enumerate(spans)
    ]  # fmt: skip
    alignment = Alignment(placed, [], None, 0.0)
    words, gaps = build_gaps(alignment, slots, pauses, heard_s, FRAME_S, duration_s)
    return cut_phrases(words, gaps, slots, -3.5, max_s)


def test_a_phrase_ends_in_the_middle_of_a_short_pause_and_soon_in_a_long_one():
    found = cut("eins zwei drei", [(1, 2, 0), (2.4, 3, 0), (5, 6, 0)], [(0, 1), (2, 2.4), (3, 5), (6, 10)])
    assert [(p.start_s, p.end_s) for p in found] == [
        pytest.approx((0.7, 2.2)), pytest.approx((2.2, 3.3)), pytest.approx((4.7, 6.3)),
    ]  # fmt: skip
    assert not any(p.problems for p in found) and all(p.joins for p in found)


def test_a_recording_that_begins_and_ends_in_speech_is_kept_to_its_edges():
    found = cut("eins zwei", [(0.1, 1, 0), (1.1, 9.9, 0)], [])
    assert [(p.start_s, p.end_s, p.problems) for p in found] == [(0.0, 10.0, ())]


def test_a_word_that_was_not_heard_spoils_its_phrase_alone():
    found = cut("eins zwei drei", [(1, 2, 0), (3, 4, -4.0), (5, 6, 0)], [(2, 3), (4, 5)])
    assert [p.problems for p in found] == [(), (phrases.UNHEARD,), ()]


def test_a_short_word_may_be_slurred():
    found = cut("eins in drei", [(1, 2, 0), (2.1, 2.2, -2.9), (2.3, 4, 0)], [])
    assert found[0].problems == ()


def test_letters_between_words_without_a_pause_spoil_the_phrase():
    found = cut("eins zwei", [(1, 2, 0), (3, 4, 0)], [], heard_s=[2.2, 2.4, 2.6])
    assert found[0].problems == (phrases.ADDED,)
    assert cut("eins zwei", [(1, 2, 0), (3, 4, 0)], [], heard_s=[2.2, 2.4])[0].problems == ()


def test_other_speech_between_two_pauses_harms_neither_side_but_keeps_them_apart():
    pauses = [(2, 2.5), (3.5, 4)]
    found = cut("eins zwei", [(1, 2, 0), (4, 5, 0)], pauses, heard_s=[2.6, 2.9, 3.2])
    assert [p.problems for p in found] == [(), ()] and [p.joins for p in found] == [True, False]
    assert found[0].end_s <= 2.5 and found[1].start_s >= 3.5
    assert len(join_phrases(found, read_slots("eins zwei"), 1.0, 15.0)) == 2


def test_other_speech_behind_a_single_pause_spoils_the_side_it_touches():
    found = cut("eins zwei", [(1, 2, 0), (4, 5, 0)], [(2, 2.5)], heard_s=[2.6, 2.9, 3.2])
    assert [p.problems for p in found] == [(), (phrases.ADDED,)]


@pytest.mark.parametrize(
    ("left_out", "gap_s", "problem"),
    [
        ("Personenkraftwagen", 0.1, ""),
        ("Personenkraftwagen", 0.9, phrases.OMITTED),
        ("sehr", 0.1, phrases.OMITTED),
    ],
)
def test_left_out_text_is_believed_where_there_was_no_time_to_say_it(left_out, gap_s, problem):
    found = cut(f"eins {left_out} drei", [(1, 2, 0), None, (2 + gap_s, 4, 0)], [])
    assert found[0].problems == ((problem,) if problem else ())


def test_short_pauses_save_what_lies_beside_bad_text():
    spans = [(1, 2, 0), (2.1, 3, -5.0), (3.1, 4, 0)]
    pauses = [(2, 2.1), (3, 3.1)]
    assert [p.problems for p in cut("eins zwei drei", spans, pauses)] == [(), (phrases.UNHEARD,), ()]
    good = [(start, end, 0) for start, end, _ in spans]
    assert len(cut("eins zwei drei", good, pauses)) == 1
    assert len(cut("eins zwei drei", good, pauses, max_s=2.0)) == 3


def test_nothing_that_was_said_makes_no_phrase():
    assert cut("eins zwei", [None, None], [(0, 10)]) == []


def test_utterances_end_with_sentences_where_they_can():
    text = "eins zwei. drei vier fünf sechs. sieben acht"
    spans = [(2 * n, 2 * n + 1.8, 0) for n in range(8)]
    pauses = [(2 * n - 0.2, 2 * n) for n in range(1, 8)]
    found = join_phrases(cut(text, spans, pauses, duration_s=16.0), read_slots(text), 2.0, 9.0)
    assert [utterance.text for utterance in found] == ["eins zwei.", "drei vier fünf sechs.", "sieben acht"]
    assert all(left.end_s <= right.start_s for left, right in pairwise(found))


def test_a_gap_without_anything_in_it_is_no_problem():
    assert Gap(1.0, 2.0, [], 0, [], 1.0).problem == ""


def test_emissions_of_a_long_recording_spell_it_across_windows(tmp_path):
    model = engine.load(str(write_tone_bundle(tmp_path / "bundle")), threads=1)
    text = " ".join(["der hund liegt heute hier im garten"] * 9)
    seconds: list[float] = []
    emissions = compute_emissions(model, spell(text), seconds.append)
    assert len(emissions.log_probs) == -(-len(spell(text)) // round(FRAME_S * SAMPLE_RATE))
    assert len(seconds) > 3 and seconds == sorted(seconds)
    assert "".join(letter for letter, _ in read_greedy(emissions.log_probs)) == text
